"""Images for people: the curve of an erasure, before above after, grids.

ComfyUI's images are [n, H, W, 3] in [0, 1].
"""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

INK, GREY, PAPER = (27, 27, 31), (120, 120, 130), (255, 255, 255)
CURVE, FAINT = (200, 60, 50), (225, 225, 230)
COLOURS = {
    "total": (27, 27, 31),
    "erase": (190, 130, 40),
    "relations": (40, 110, 190),
    "noise": (60, 150, 80),
}
TILE, GAP, LEFT, TOP = 160, 6, 84, 44  # pixels of a grid
ACROSS = 6  # columns of a grid at most


def to_pil(image: torch.Tensor) -> Image.Image:
    """[H, W, 3] in [0, 1]."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """[1, H, W, 3]."""
    return torch.from_numpy(np.asarray(picture.convert("RGB"), dtype=np.float32) / 255)[None]


def tile(image: torch.Tensor, side: int = TILE) -> Image.Image:
    picture = to_pil(image)
    width, height = picture.size
    scale = side / max(width, height)
    return picture.resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS
    )


def data_url(picture: Image.Image, side: int = 512) -> str:
    """A picture as text that a page shows, at most `side` pixels wide."""
    small, out = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((side, side))
    small.save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def from_file(path: Path) -> torch.Tensor | None:
    """The picture in a file as [1, H, W, 3]; None where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return to_tensor(picture)
    except (OSError, ValueError, SyntaxError):  # what Pillow raises on damaged files
        return None


def row_to_pil(images: torch.Tensor) -> Image.Image:
    """Images [n, H, W, 3] side by side."""
    return to_pil(torch.cat(list(images), dim=1))


def stack_images(images: list[torch.Tensor]) -> torch.Tensor:
    """Pictures of any sizes as one batch [n, H, W, 3], padded with white to the largest."""
    height, width = (max(i.shape[d] for i in images) for d in (1, 2))
    out = torch.ones(sum(len(i) for i in images), height, width, 3)
    row = 0
    for image in images:
        out[row : row + len(image), : image.shape[1], : image.shape[2]] = image
        row += len(image)
    return out


def grid(
    title: str, rows: list[tuple[str, list[torch.Tensor]]], captions: list[str] | None = None
) -> torch.Tensor:
    """A labelled grid [1, H, W, 3]: `rows` of (label, images [H, W, 3]), a caption below each column.

    More than ACROSS columns are broken into blocks of about the same width, one below the other.
    """
    count = max(len(images) for _, images in rows)
    blocks = math.ceil(count / ACROSS)
    columns = math.ceil(count / blocks)
    height = max(tile(image).size[1] for _, images in rows for image in images)
    block = len(rows) * (height + GAP) + (26 if captions else GAP)
    sheet = Image.new("RGB", (LEFT + columns * (TILE + GAP) + GAP, TOP + blocks * block), PAPER)
    ImageDraw.Draw(sheet).text((GAP + 4, 12), title, INK, ImageFont.load_default(18))
    for number in range(blocks):
        part = slice(number * columns, (number + 1) * columns)
        cells = [(label, [tile(image) for image in images[part]]) for label, images in rows]
        _draw_block(sheet, TOP + number * block, height, cells, (captions or [])[part])
    return to_tensor(sheet)


def _draw_block(
    sheet: Image.Image, top: int, height: int, rows: list[tuple[str, list[Image.Image]]], captions: list[str]
) -> None:
    draw, small = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for r, (label, cells) in enumerate(rows):
        y = top + r * (height + GAP)
        draw.text((GAP + 4, y + height // 2), label, INK, small, anchor="lm")
        for c, cell in enumerate(cells):
            sheet.paste(cell, (LEFT + c * (TILE + GAP), y))
    for c, caption in enumerate(captions):
        x = LEFT + c * (TILE + GAP) + TILE // 2
        y = top + len(rows) * (height + GAP) + 4
        draw.text((x, y), fit(caption, draw, small, TILE), GREY, small, anchor="ma")


def fit(text: str, draw: ImageDraw.ImageDraw, font, width: int) -> str:
    """`text`, cut with an ellipsis so that it is at most `width` pixels wide."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def before_after(concept: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return grid(f"Erased: {concept[:60]}", [("before", list(before)), ("after", list(after))])


def left_graph(
    concept: str,
    left: list[tuple[int, float]],
    losses: list[dict[str, float]],
    size: tuple[int, int] = (512, 320),
) -> torch.Tensor:
    """How much of the concept is left over the steps [1, H, W, 3]: one curve from 100 %, its last value in
    large type, the losses as thin lines in a strip below. `left`: (step, share in [0, 1]) of every look, the
    first before the run. A sentence where nothing is known.
    """
    sheet = Image.new("RGB", size, PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(12)
    number = f"{left[-1][1]:.0%}" if left else ""
    large = ImageFont.load_default(34)
    draw.text((size[0] - 14, 8), number, CURVE, large, anchor="ra")
    room = size[0] - 36 - draw.textlength(number, large)
    draw.text((12, 10), fit(f"Left of {concept}", draw, font, room), INK, font)
    if len(left) < 2 and len(losses) < 2:
        draw.text((12, 60), "the file does not record how the erasure went", GREY, small)
        return to_tensor(sheet)
    note = (
        "100 % is the untouched model, 0 % is gone"
        if left
        else "how much is left is not recorded; the losses:"
    )
    draw.text((12, 32), fit(note, draw, small, room), GREY, small)
    strip = (48, size[1] - 78 if len(left) > 1 else 58, size[0] - 14, size[1] - 24)
    if len(left) > 1:
        _draw_left(draw, left, (48, 58, size[0] - 14, strip[1] - 30), small)
    _draw_losses(draw, losses, strip, small)
    return to_tensor(sheet)


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _draw_left(draw: ImageDraw.ImageDraw, left: list[tuple[int, float]], box: Box, font) -> None:
    """The curve, a dot for each look, with lines at 100 %, 50 % and 0 %."""
    x0, top, x1, bottom = box
    for share in (1.0, 0.5, 0.0):
        y = bottom - share * (bottom - top)
        draw.line([(x0, y), (x1, y)], FAINT if share else GREY)
        draw.text((x0 - 6, y), f"{share:.0%}", GREY, font, anchor="rm")
    last = max(1, left[-1][0])
    points = [(x0 + step * (x1 - x0) / last, bottom - share * (bottom - top)) for step, share in left]
    draw.line(points, CURVE, 3)
    for x, y in points:
        draw.ellipse([x - 4, y - 4, x + 4, y + 4], CURVE)
    draw.text((x1, bottom + 10), f"step {left[-1][0]}", GREY, font, anchor="rm")


def _draw_losses(draw: ImageDraw.ImageDraw, losses: list[dict[str, float]], box: Box, font) -> None:
    """Thin lines, all on one scale; a loss measures the way to the training's aim, which lies beyond 0 %."""
    if len(losses) < 2:
        return
    x0, top, x1, bottom = box
    highest = max(max(step.values()) for step in losses) or 1.0
    draw.line([(x0, bottom), (x1, bottom)], FAINT)
    x = x0 + 4 + draw.textlength("losses", font) + 10
    draw.text((x0, bottom + 14), "losses", GREY, font, anchor="lm")
    for name in losses[-1]:
        colour = COLOURS.get(name, GREY)
        heights = [max(0.0, step.get(name, 0.0)) / highest * (bottom - top) for step in losses]
        draw.line(
            [(x0 + i * (x1 - x0) / (len(losses) - 1), bottom - h) for i, h in enumerate(heights)], colour, 1
        )
        draw.text((x, bottom + 14), name, colour, font, anchor="lm")
        x += draw.textlength(name, font) + 14
