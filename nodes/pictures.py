"""Images for people: loss graphs, before above after, grids. ComfyUI's images are [n, H, W, 3] in [0, 1]."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

INK, GREY, PAPER = (27, 27, 31), (120, 120, 130), (255, 255, 255)
COLOURS = {"total": (27, 27, 31), "erase": (200, 60, 50), "relations": (40, 110, 190), "noise": (60, 150, 80)}
TILE = 160


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
    return picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)


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


def grid(title: str, rows: list[tuple[str, list[torch.Tensor]]], captions: list[str] | None = None) -> torch.Tensor:
    """A labelled grid [1, H, W, 3]: `rows` of (label, images [H, W, 3]), a caption below each column."""
    font, small, left, top, gap = ImageFont.load_default(18), ImageFont.load_default(12), 84, 44, 6
    columns = max(len(images) for _, images in rows)
    cells = [[tile(image) for image in images] for _, images in rows]
    height = max(c.size[1] for row in cells for c in row)
    sheet = Image.new("RGB", (left + columns * (TILE + gap) + gap, top + len(rows) * (height + gap) + (26 if captions else gap)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap + 4, 12), title, INK, font)
    for r, (label, _) in enumerate(rows):
        y = top + r * (height + gap)
        draw.text((gap + 4, y + height // 2), label, INK, small, anchor="lm")
        for c, cell in enumerate(cells[r]):
            sheet.paste(cell, (left + c * (TILE + gap), y))
    for c, caption in enumerate(captions or []):
        draw.text((left + c * (TILE + gap) + TILE // 2, sheet.size[1] - 8), fit(caption, draw, small, TILE), GREY, small, anchor="ms")
    return to_tensor(sheet)


def fit(text: str, draw: ImageDraw.ImageDraw, font, width: int) -> str:
    """`text`, cut with an ellipsis so that it is at most `width` pixels wide."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
        text = text[:-1]
    return text + "..."


def before_after(concept: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    return grid(f"Erased: {concept[:60]}", [("before", list(before)), ("after", list(after))])


def loss_graph(concept: str, losses: list[dict[str, float]], size: tuple[int, int] = (512, 288)) -> torch.Tensor:
    """Losses over the steps as lines [1, H, W, 3]; a sentence where none are known."""
    sheet = Image.new("RGB", size, PAPER)
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(16), ImageFont.load_default(12)
    draw.text((12, 10), fit(f"Losses while erasing {concept}", draw, font, size[0] - 24), INK, font)
    if len(losses) < 2:
        draw.text((12, 40), "no losses are recorded in the file", GREY, small)
        return to_tensor(sheet)
    left, top, right, bottom = 52, 62, size[0] - 14, size[1] - 26
    highest = max(max(step.values()) for step in losses) or 1.0
    draw.line([(left, top), (left, bottom), (right, bottom)], GREY)
    draw.text((left - 6, top), f"{highest:.2g}", GREY, small, anchor="rm")
    draw.text((left - 6, bottom), "0", GREY, small, anchor="rm")
    draw.text((right, bottom + 12), f"step {len(losses)}", GREY, small, anchor="rm")
    x = left
    for name in losses[-1]:
        colour = COLOURS.get(name, GREY)
        heights = [max(0.0, step.get(name, 0.0)) / highest * (bottom - top) for step in losses]
        points = [(left + i * (right - left) / (len(losses) - 1), bottom - h) for i, h in enumerate(heights)]
        draw.line(points, colour, 2)
        draw.text((x, 40), name, colour, small)
        x += draw.textlength(name, small) + 16
    return to_tensor(sheet)
