"""Progress for people: one line that renews itself on a terminal, a few lines in a log."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Event:
    """What happens in a run.

    Args:
        phase: "bank", "erase", "look" or "done".
        step, total: how far it is; `total` falls when the cycle finds that it is done.
        losses: of this step, by the name of the term.
        eta: seconds that remain.
        left: share of the concept that is left at the last look, 1 for the untouched model and 0 where it is
            gone (cycle/watch.py); None without looks.
        latents: of a look's pictures, [n, 4, h, w].
    """

    phase: str
    step: int
    total: int
    losses: dict[str, float] = field(default_factory=dict)
    eta: float | None = None
    left: float | None = None
    latents: torch.Tensor | None = None


NAMES = {"bank": "latent bank", "erase": "self-check and erasing", "look": "looking"}


class Progress:
    """Prints events to standard error. Call it with an Event or with a sentence."""

    def __init__(self, stream=None, quiet: bool = False):
        self.stream, self.quiet = stream or sys.stderr, quiet
        self.live = self.stream.isatty()
        self.open_line, self.last = False, 0.0
        self.width = 0  # of the line on the terminal

    def __call__(self, event: Event | str) -> None:
        if self.quiet:
            return
        if isinstance(event, str):
            self._end_line()
            print(event, file=self.stream, flush=True)
            return
        if event.phase == "done":
            self._end_line()
            return
        finished = event.step >= event.total
        if not finished and time.monotonic() - self.last < (0.1 if self.live else 5.0):
            return
        self.last = time.monotonic()
        losses = "  ".join(f"{k} {v:.4f}" for k, v in event.losses.items() if k != "total")
        left = "" if event.left is None else f"  {event.left:.0%} of the concept left"
        eta = "" if event.eta is None or finished else f"  at most {event.eta:.0f} s"
        line = f"{NAMES.get(event.phase, event.phase)} {event.step}/{event.total}  {losses}{left}{eta}"
        if self.live:
            # Spaces over the rest of the last line: not every Windows console knows the escape that erases
            # it.
            print("\r" + line.ljust(self.width), end="", file=self.stream, flush=True)
            self.open_line, self.width = True, len(line)
            if finished:
                self._end_line()
        else:
            print(line, file=self.stream, flush=True)

    def _end_line(self) -> None:
        if self.open_line:
            print(file=self.stream, flush=True)
            self.open_line, self.width = False, 0
