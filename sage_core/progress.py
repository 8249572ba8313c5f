"""Progress for people: a bar on a terminal, a few lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

    from .domain.check import Checked
    from .domain.found import Domain


@dataclass(frozen=True)
class Event:
    """What happens in a run.

    Args:
        phase: "domain", "bank", "prompts", "erase", "check", "refit", "look" or "done"; "draw" and "judge" in
            an evaluation.
        step, total: how far it is; `total` falls when the cycle finds that it is done.
        losses: of this step, by the name of the term.
        eta: seconds that remain.
        left: share of the concept that is left at the last look, 1 for the untouched model and 0 where it is
            gone (cycle/watch.py); None without looks.
        latents: of a look's pictures, [n, 4, h, w].
        domain: what the search found, with its last event.
        checked: what the last check found, with its event.
        concept: what is erased, where `domain` or `checked` is given.
    """

    phase: str
    step: int
    total: int
    losses: dict[str, float] = field(default_factory=dict)
    eta: float | None = None
    left: float | None = None
    latents: torch.Tensor | None = None
    domain: Domain | None = None
    checked: Checked | None = None
    concept: str = ""


OnEvent = Callable[[Event], None]

NAMES = {
    "domain": "searching other words for it",
    "bank": "latent bank",
    "prompts": "encoding prompts",
    "erase": "self-check and erasing",
    "refit": "reading the words that stay",
    "check": "checking what is left",
    "look": "looking",
    "draw": "drawing",
    "judge": "judging",
}
SECONDS = 5.0  # between two lines in a log


class Progress:
    """Prints events to standard error: a bar on a terminal, a line every few seconds in a log.

    Call it with an Event or with a sentence.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False):
        self.stream, self.quiet = stream or sys.stderr, quiet
        self.live = self.stream.isatty()
        self.bar: tqdm | None = None
        self.last = 0.0  # time of the last line in a log

    def __call__(self, event: Event | str) -> None:
        if self.quiet:
            return
        if isinstance(event, str):
            self._close()
            print(event, file=self.stream, flush=True)
        elif event.phase == "done":
            self._close()
        elif event.domain is not None:
            self._close()
            print("\n".join(event.domain.lines(event.concept)), file=self.stream, flush=True)
        elif event.checked is not None:
            self._close()
            print(event.checked.sentence(event.concept), file=self.stream, flush=True)
        elif self.live:
            self._show(event)
        else:
            self._log(event)

    def _show(self, event: Event) -> None:
        first = self.bar is None
        if self.bar is None:
            # Imported here: the ComfyUI node imports this module and draws no bar.
            from tqdm import tqdm

            self.bar = tqdm(
                desc=name_of(event.phase),
                total=event.total,
                initial=event.step,
                file=self.stream,
                dynamic_ncols=True,  # a line that is too long is cut off: one that wraps cannot be replaced
                miniters=1,
                bar_format="{desc}: |{bar:20}| {n_fmt}/{total_fmt}{postfix}",
            )
        self.bar.total = event.total  # it falls when the cycle finds that it is done
        self.bar.set_description_str(name_of(event.phase), refresh=False)
        self.bar.set_postfix_str(", ".join(details(event)), refresh=first)
        self.bar.update(event.step - self.bar.n)
        if event.step >= event.total:
            self._close()

    def _log(self, event: Event) -> None:
        if event.step < event.total and time.monotonic() - self.last < SECONDS:
            return
        self.last = time.monotonic()
        line = "  ".join([f"{name_of(event.phase)} {event.step}/{event.total}", *details(event)])
        print(line, file=self.stream, flush=True)

    def _close(self) -> None:
        """Leave the bar as it is and go to the next line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def name_of(phase: str) -> str:
    return NAMES.get(phase, phase)


def details(event: Event) -> list[str]:
    """Losses, what is left of the concept and the seconds that remain, where they are known."""
    parts = [f"{name} {value:.4f}" for name, value in event.losses.items() if name != "total"]
    if event.left is not None:
        parts.append(f"{event.left:.0%} of the concept left")
    if event.eta is not None and event.step < event.total:
        parts.append(f"at most {event.eta:.0f} s")
    return parts


def escape_unprintable() -> None:
    """Print characters that the console lacks as escapes: a console in cp1252 must not end hours of
    training.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
