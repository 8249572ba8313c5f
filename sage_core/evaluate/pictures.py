"""Contact sheets of pictures: an evaluation's before and after, and plain labelled ones."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont

from .further import ALSO
from .hard import COMPANION, EDITS, HARD_CELLS, INPAINT, LANGUAGES, STRENGTHS, WEIGHTED
from .measure import Evaluation, cells_of

TITLES = {
    "concept": "the concept",
    "synonyms": "words for it, not given",
    "near": "its neighbours",
    "far": "other things",
    "misspelt": "misspelt",
    "long": "in a long prompt",
    "beside": "beside another thing",
    COMPANION: "the thing beside it",
    WEIGHTED: "with weights",
    LANGUAGES: "in other languages",
    "also": "in other words",
    **dict(zip(EDITS, (f"edited, strength {strength:g}" for strength in STRENGTHS))),
    INPAINT: "inpainted",
    "attacked": "under attack",
}
ASKED = (
    "concept",
    "synonyms",
    ALSO,
    *(cell for cell in HARD_CELLS if cell != COMPANION),
)  # cells of which less is better
INK, GREY, PAPER, RED = "#1b1b1f", "#6b6b76", "#ffffff", "#b3261e"
TILE, GAP, LEFT = 96, 6, 170


def title(cell: str) -> str:
    """A cell's name in words; a list's is its own."""
    return TITLES.get(cell, cell)


def to_pil(image: torch.Tensor, side: int | None = None) -> Image.Image:
    """One picture [3, H, W] in [-1, 1] as a PIL image, resized to `side` x `side` pixels where given."""
    array = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array)
    return picture if side is None else picture.resize((side, side), Image.Resampling.LANCZOS)


def _paste_row(
    sheet: Image.Image,
    corner: tuple[int, int],
    images: Iterable[torch.Tensor],
    captions: Sequence[str] = (),
    side: int = TILE,
) -> None:
    """Pictures [3, H, W] side by side from a corner (x, y), each above its caption if there are any."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    x, y = corner
    for column, image in enumerate(images):
        sheet.paste(to_pil(image, side), (x, y))
        if captions:
            draw.text((x + side // 2, y + side + 3), captions[column], GREY, font, anchor="ma")
        x += side + GAP


def sheet(images: torch.Tensor, labels: list[str], columns: int = 8, side: int = TILE) -> Image.Image:
    """A plain labelled contact sheet."""
    rows = -(-len(images) // columns)
    out = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + 20) + GAP), PAPER)
    for row in range(rows):
        part = slice(row * columns, (row + 1) * columns)
        _paste_row(out, (GAP, GAP + row * (side + 20)), images[part], labels[part], side)
    return out


def picture(evaluation: Evaluation, columns: int = 8) -> Image.Image:
    """Before above after for every cell: the same prompt and seed in a column, its words beneath."""
    rows = {}
    for cell in cells_of(evaluation.prompts):
        index = [i for i, prompt in enumerate(evaluation.prompts) if prompt.cell == cell]
        if index:
            rows[cell] = index[:columns]
    block = 2 * TILE + GAP + 34
    height = 64 + len(rows) * block + (TILE + 34 if evaluation.attacked is not None else 0)
    out = Image.new("RGB", (LEFT + columns * (TILE + GAP) + GAP, height), PAPER)
    draw, small = ImageDraw.Draw(out), ImageFont.load_default(11)
    spec = evaluation.report["spec"]
    method = f"   (method {spec['method']})" if "method" in spec else ""
    heading = f"Erased: {spec['concept']}{method}"
    draw.text((GAP + 4, 16), heading, INK, ImageFont.load_default(20))
    y = 56
    for cell, index in rows.items():
        _label(draw, evaluation.report, cell, y)
        captions = [_fit(caption(evaluation.prompts[i].text), draw, small) for i in index]
        _paste_row(out, (LEFT, y), evaluation.before[index])
        _paste_row(out, (LEFT, y + TILE + 2), evaluation.after[index], captions)
        y += block
    if evaluation.attacked is not None:
        label = f"{TITLES['attacked']}\nafter: {evaluation.report['after']['attacked']:.0%}"
        draw.text((GAP + 4, y + 20), label, INK, ImageFont.load_default(13))
        _paste_row(out, (LEFT, y), evaluation.attacked[:columns])
    return out


def _label(draw: ImageDraw.ImageDraw, report: dict, cell: str, y: int) -> None:
    font = ImageFont.load_default(13)
    draw.text((GAP + 4, y + 8), title(cell), INK, font)
    for k, when in enumerate(("before", "after")):
        value = report[when][cell]
        shown = when if value is None else f"{when}: {value:.0%} seen"
        draw.text(
            (GAP + 4, y + TILE // 2 + k * (TILE + 2)),
            shown,
            RED if when == "after" and cell in ASKED else GREY,
            font,
        )


def caption(prompt: str) -> str:
    """A prompt without its filler words: "an ink drawing of an owl" is "ink: owl"."""
    short = re.sub(r"^a picture of (an? )?", "", prompt)
    short = re.sub(r" drawing of (an? )?", ": ", short)
    return re.sub(r"^an? ", "", short)


def _fit(text: str, draw: ImageDraw.ImageDraw, font) -> str:
    """A caption, cut to a tile's width."""
    while draw.textlength(text, font=font) > TILE + 2 and len(text) > 4:
        text = text[:-2].rstrip(". ") + "…" if not text.endswith("…") else text[:-3] + "…"
    return text
