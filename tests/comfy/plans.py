"""Which graphics cards hold a training pass through ComfyUI's own networks, predicted:

COMFYUI_PATH=... python -m tests.comfy.plans

The bytes are those of inside_memory.py at each model's real size: 1024 pixels, one prompt, bfloat16. A card
is counted with 0.6 GB in use by others and a tenth left free. Prints a table for docs/flow-families.md: where
the weights are in 16 bits, then in 8.
"""

from __future__ import annotations

import os
from pathlib import Path

from . import server

FAMILIES = (
    *("FLUX.1 dev", "Chroma", "FLUX.2 klein 4B", "FLUX.2 dev"),
    *("Qwen-Image", "Z-Image", "SD 3.5 medium", "SD 3.5 large"),
    *("Krea 2", "Anima", "HunyuanImage 2.1"),
)
INSIDE = Path(__file__).parent / "inside_memory.py"
CARDS = (8, 12, 16, 24)
GB = 2**30


def way(card: int, weights: float, step: int, block: int) -> str:
    """Where the weights are on a card of so many GB."""
    free = 0.9 * (card - 0.6) * GB
    if weights + step + block <= free:
        return "on the card"
    return "offloaded" if step + 2 * block <= free else "no"


def row(family: str, found: dict) -> str:
    weights, step, block = found["weights"], found["step"], found["block"]
    cells = [family, *(f"{part / GB:.1f} GB" for part in (weights, step, block))]
    for card in CARDS:
        places = [way(card, share * weights, step, block) for share in (1, 0.5)]
        cells.append(places[0] if places[0] == places[1] else " / ".join(places))
    return f"| {' | '.join(cells)} |"


def main() -> None:
    heads = ["model", "weights", "a pass", "a block's weights", *(f"{card} GB" for card in CARDS)]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for family in FAMILIES:
        found = server.result_of(Path(os.environ["COMFYUI_PATH"]), INSIDE, family)
        if "missing" not in found:
            print(row(family, found), flush=True)


if __name__ == "__main__":
    main()
