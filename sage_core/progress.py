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
    """Prints events to standard error: a bar on a terminal, a line every few seconds in a log.

    Call it with an Event or with a sentence.
    """

    def __init__(self, stream=None, quiet: bool = False):
        self.stream, self.quiet = stream or sys.stderr, quiet
        self.live = self.stream.isatty()
        self.last = 0.0  # when the last line was printed
        self.bar, self.phase = None, ""

    def __call__(self, event: Event | str) -> None:
        if self.quiet:
            return
        if isinstance(event, str):
            self._close()
            print(event, file=self.stream, flush=True)
        elif event.phase == "done":
            self._close()
        elif event.step >= event.total or time.monotonic() - self.last >= (0.1 if self.live else 5.0):
            self.last = time.monotonic()
            self._show(event)

    def _show(self, event: Event) -> None:
        name, finished = NAMES.get(event.phase, event.phase), event.step >= event.total
        parts = [f"{loss} {value:.4f}" for loss, value in event.losses.items() if loss != "total"]
        if event.left is not None:
            parts.append(f"{event.left:.0%} of the concept left")
        if event.eta is not None and not finished:
            parts.append(f"at most {event.eta:.0f} s")
        text = "  ".join(parts)
        if not self.live:
            print(f"{name} {event.step}/{event.total}  {text}".rstrip(), file=self.stream, flush=True)
            return
        if self.bar is None or self.phase != event.phase:
            self._close()
            self.bar, self.phase = self._new_bar(name, event), event.phase
        self.bar.total, self.bar.n = event.total, event.step
        self.bar.set_postfix_str(text)
        if finished:
            self._close()

    def _new_bar(self, name: str, event: Event):
        from tqdm import tqdm

        return tqdm(
            desc=name,
            total=event.total,
            initial=event.step,
            file=self.stream,
            ascii=True,  # not every Windows console has the block characters
            dynamic_ncols=True,
            bar_format="{desc} {n_fmt}/{total_fmt} [{bar:16}]{postfix}",
        )

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def escape_unprintable() -> None:
    """Print characters that the console lacks as escapes: a console in cp1252 must not end hours of
    training.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
