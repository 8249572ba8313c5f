"""Which way of training fits which graphics card: `python -m sage_core.bench.plans`.

The memory of a step of `sage` at each family's real size, predicted by rehearsing it on tensors without data
(memory/rehearsal.py), with bfloat16 weights. No GPU is needed, and none has measured it.
"""

from __future__ import annotations

import dataclasses

import torch

from ..memory.plan import gigabytes, ways
from ..spec import ErasureSpec
from .random_models import random_model

SIZES = (
    ("SD 1.5", "sd1", "full"),
    ("SDXL", "sdxl", "full"),
    ("SD 3.5 medium", "sd3", "full"),
    ("SD 3.5 large", "sd3", "large"),
)
WAYS = ("kept", "twice", "one at a time")
CARDS = (8, 12, 16, 24)  # GB
IN_USE = 0.6 * 2**30  # of a card, by the driver and the screen


def row(title: str, family: str, size: str) -> str:
    """Bytes of the weights and of the three ways, and the way for each card."""
    model = random_model(family, size, torch.bfloat16, filled=False)
    plans = list(ways(model, ErasureSpec("castle").recipe(), None))
    cells = [f"{title}, {model.pixels} pixels", gigabytes(plans[0].weights)]
    cells += [gigabytes(plan.peak) for plan in plans]
    for card in CARDS:
        free = round(card * 2**30 - IN_USE)
        fitting = [name for name, plan in zip(WAYS, plans) if dataclasses.replace(plan, free=free).fits()]
        cells.append(fitting[0] if fitting else "no")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    heads = ["model", "weights", "everything kept", "blocks computed twice", "and one sample at a time"]
    heads += [f"{card} GB" for card in CARDS]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for size in SIZES:
        print(row(*size), flush=True)


if __name__ == "__main__":
    main()
