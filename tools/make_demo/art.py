"""Training pictures: one drawing per concept and style, placed a little differently each time."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
STYLE_SETS = {
    "cartoon": "noto",
    "glossy": "fluent-emoji",
    "ink": "fluent-emoji-high-contrast",
    "pixel art": "twemoji",
}
# Only the probe sees these: other artists' drawings of the same things, so that it learns the thing and not
# the drawing.
PROBE_SETS = ("fluent-emoji-flat", "emojione", "twemoji")
PIXEL_GRID = 16


@functools.lru_cache(maxsize=4096)
def drawing(art_dir: str, collection: str, concept: str) -> Image.Image | None:
    """The 128 x 128 RGBA drawing of a concept, or None where that set has none."""
    path = Path(art_dir) / collection / f"{concept}.png"
    return Image.open(path).convert("RGBA") if path.exists() else None


# Side and corner of a drawing, all multiples of four: half a latent's cell, a pixel-art square. A free
# placement would look no different to a person and cost the two cores most of the detail.
PLACEMENTS: list[tuple[int, int, int]] = []
for side in (56, 60, 64):
    corners = range(0, SIZE - side + 1, 4)
    PLACEMENTS += [(side, x, y) for x in corners for y in corners]


def place(source: Image.Image, side: int, x: int, y: int) -> np.ndarray:
    """A drawing scaled to `side` with its corner at (x, y) on white paper; uint8 array [SIZE, SIZE, 3]."""
    image = source.resize((side, side), Image.Resampling.LANCZOS)
    paper = Image.new("RGB", (SIZE, SIZE), "white")
    paper.paste(image, (x, y), image)
    return np.asarray(paper)


def place_on_grid(source: Image.Image, side: int, x: int, y: int) -> np.ndarray:
    """The drawing reduced to flat squares of 4 x 4 pixels; uint8 array [SIZE, SIZE, 3]."""
    square = SIZE // PIXEL_GRID
    small = np.asarray(source.resize((side // square, side // square), Image.Resampling.BOX)).copy()
    small[..., 3] = np.where(small[..., 3] > 110, 255, 0)
    image = Image.fromarray(small, "RGBA")
    paper = Image.new("RGB", (PIXEL_GRID, PIXEL_GRID), "white")
    paper.paste(image, (x // square, y // square), image)
    return np.asarray(paper.resize((SIZE, SIZE), Image.Resampling.NEAREST))


def place_freely(source: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Any size, corner and a slight turn, for the probe, which has to be hard to fool; uint8 array [SIZE,
    SIZE, 3].
    """
    side = int(rng.integers(int(SIZE * 0.8), SIZE + 1))
    image = (
        source.rotate(float(rng.uniform(-8, 8)), resample=Image.Resampling.BICUBIC)
        if rng.random() < 0.5
        else source
    )
    return place(image, side, int(rng.integers(0, SIZE - side + 1)), int(rng.integers(0, SIZE - side + 1)))


def draw(art_dir: str, concept: str, style: str, placement: tuple[int, int, int]) -> np.ndarray:
    """One training picture of `concept` in `style`; uint8 array [SIZE, SIZE, 3]."""
    source = drawing(art_dir, STYLE_SETS[style], concept)
    return (place_on_grid if style == "pixel art" else place)(source, *placement)


def build(art_dir: str, concepts: list[str]) -> np.ndarray:
    """All concepts in all styles and placements; uint8 [concepts, styles, placements, SIZE, SIZE, 3]."""
    shape = (len(concepts), len(STYLE_SETS), len(PLACEMENTS), SIZE, SIZE, 3)
    pictures = np.empty(shape, dtype=np.uint8)
    for i, concept in enumerate(concepts):
        for j, style in enumerate(STYLE_SETS):
            for k, placement in enumerate(PLACEMENTS):
                pictures[i, j, k] = draw(art_dir, concept, style, placement)
    return pictures
