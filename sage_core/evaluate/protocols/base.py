"""What every protocol is, and how its pictures are drawn: a few at a time, for they are thousands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol as Interface

import torch

from ...diffusion.knowledge import Judge, Prompt
from ...diffusion.model import DiffusionModel
from ...lora.adapter import Adapter
from ...spec import ErasureSpec
from ..drawing import draw

AT_ONCE = 16  # prompts that are drawn and judged together
SEED = 40_000  # away from the other cells' seeds
OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class Subject:
    """What a protocol is run on: the model with the erasure on it, and the judges of the pictures."""

    model: DiffusionModel
    adapter: Adapter
    spec: ErasureSpec
    judges: tuple[Judge, ...]


class Protocol(Interface):
    """A frozen config. name: its columns are `name.column`."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]:
        """What a requirement may be about, with the name in front."""

    def check(self, judges: tuple[Judge, ...]) -> None:
        """Raises SageError where no judge can do it."""

    def run(self, subject: Subject, images: int | None, seed: int, on_event: OnEvent) -> dict:
        """The protocol's part of the report; `images`: None for as many as papers draw. It has "title", and
        "columns": by column (before, after, hits after, pictures); None where nothing was measured.
        """


def pairs(
    subject: Subject, prompts: list[Prompt], on_event: OnEvent, what: str
) -> Iterator[tuple[list[Prompt], torch.Tensor, torch.Tensor]]:
    """(prompts, pictures before, pictures after), a few at a time; pictures [n, 3, H, W] in [-1, 1]. A guard
    of the model's is off for the pictures before.
    """
    model = subject.model
    for i in range(0, len(prompts), AT_ONCE):
        part = prompts[i : i + AT_ONCE]
        on_event(f"{what}: pictures {i + 1} to {i + len(part)} of {len(prompts)}, before and after")
        guard, model.guard = model.guard, None
        try:
            with subject.adapter.off():
                before = draw(model, part)
        finally:
            model.guard = guard
        yield part, before, draw(model, part)
