"""Classes or artists, one of which is erased: is it gone, and are the others still there?

Papers erase each of ten Imagenette classes in turn and report the accuracy of the erased one and the mean of
the other nine (Gandikota et al., arXiv 2303.07345); of five artists likewise.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ...diffusion.knowledge import Judge, Prompt
from ...errors import SageError
from ...prompts.kinds import STYLE, bare_words, guess
from ...prompts.templates import noun
from ...spec import ErasureSpec
from ..lists import Line, read_list
from .base import SEED, OnEvent, Subject, pairs

MOST_CLASSES = 1000


@dataclass
class Tally:
    """Of one class: how often it was seen, of how many pictures of which the judge can say."""

    before: int = 0
    after: int = 0
    pictures: int = 0
    drift: float = 0.0

    def add(self, before: bool, after: bool, drift: float) -> None:
        self.before += before
        self.after += after
        self.pictures += 1
        self.drift += drift


@dataclass(frozen=True)
class Classes:
    """classes: the name of each. templates: in turn, with {name} and {a_name}. lines: prompts with a label, a
    user's, in place of both. images: of a class, as papers draw. kind: "thing" or "style".
    """

    name: str
    title: str
    paper: str
    unit: str
    kind: str
    images: int
    guidance: float
    templates: tuple[str, ...]
    classes: tuple[str, ...]
    lines: tuple[Line, ...] = field(default=())

    @property
    def columns(self) -> tuple[str, ...]:
        return f"{self.name}.erased", f"{self.name}.others"

    @classmethod
    def read(cls, name: str, file: str) -> Classes:
        """One of the package's own, from data/."""
        text = (Path(__file__).parent.parent / "data" / f"{file}.txt").read_text(encoding="utf-8")
        values: dict[str, list[str]] = defaultdict(list)
        for line in text.splitlines():
            if line and not line.startswith("#"):
                key, _, value = line.partition(":")
                values[key].append(value.strip())
        return cls(
            name,
            title=values["title"][0],
            paper=values["paper"][0],
            unit=values["unit"][0],
            kind=values["kind"][0],
            images=int(values["images"][0]),
            guidance=float(values["guidance"][0]),
            templates=tuple(values["prompt"]),
            classes=tuple(values["name"]),
        )

    def of_file(self, argument: str) -> Classes:
        """The same with a user's classes: a table of prompts with a column `class` or `artist`, or a text
        file with one class a line. Raises SageError where it is neither.
        """
        found = read_list(argument)
        labels = tuple(dict.fromkeys(line.label for line in found.lines if line.label))
        if labels:
            lines = tuple(line for line in found.lines if line.label)
            changed = dataclasses.replace(self, classes=labels, lines=lines)
        elif Path(argument).suffix.lower() in (".csv", ".tsv"):
            raise SageError(
                f"The table {argument} says nowhere what is shown; it needs a column class or artist."
            )
        else:
            changed = dataclasses.replace(self, classes=tuple(line.text for line in found.lines))
        if not 2 <= len(changed.classes) <= MOST_CLASSES:
            raise SageError(
                f"{argument} has {len(changed.classes)} different {self.unit} names; from 2 to"
                f" {MOST_CLASSES} can be compared."
            )
        return dataclasses.replace(changed, title=f"{len(changed.classes)} {self.unit} names of {found.name}")

    def check(self, judges: tuple[Judge, ...]) -> None:
        """Any judge will do; one that knows none of the classes leaves the table empty."""

    def erased(self, spec: ErasureSpec) -> str | None:
        """The class that the erasure is of: named as its concept or a synonym, or, an artist, inside it."""
        names = [" ".join(bare_words(name)) for name in (spec.concept, *spec.synonyms)]
        for own in self.classes:
            plain = " ".join(bare_words(own))
            if plain in names or self.kind == STYLE and any(plain in n or n in plain for n in names):
                return own
        return None

    def prompts(self, expected: dict[str, str], images: int | None, seed: int) -> list[Prompt]:
        """Of every class so many prompts, the classes one behind the other. expected: the judge's names."""
        first = SEED + 1000 * seed
        prompts = []
        for own in self.classes:
            lines = [line for line in self.lines if line.label == own] or self._own_lines(own, images)
            for i, line in enumerate(lines if images is None else lines[:images]):
                number = first + i if line.seed is None else line.seed
                guidance = self.guidance if line.guidance is None else line.guidance
                prompts.append(Prompt(own, line.text, expected[own], number, guidance=guidance))
        return prompts

    def _own_lines(self, own: str, images: int | None) -> list[Line]:
        a_name = noun(own, guess(own))
        texts = [template.format(name=own, a_name=a_name) for template in self.templates]
        return [Line(texts[i % len(texts)]) for i in range(self.images if images is None else images)]

    def run(self, subject: Subject, images: int | None, seed: int, on_event: OnEvent) -> dict:
        judge, spec = subject.judges[0], subject.spec
        erased = self.erased(spec)
        expected = {own: judge.expected(spec.concept) if own == erased else own for own in self.classes}
        tallies = {own: Tally() for own in self.classes}
        for part, before, after in pairs(subject, self.prompts(expected, images, seed), on_event, self.name):
            asked = [prompt.expected for prompt in part]
            seen = zip(judge.sees(before, asked, part), judge.sees(after, asked, part))
            drifts = ((before - after).abs().mean((1, 2, 3)) / 2).tolist()
            for prompt, (was, still), drift in zip(part, seen, drifts):
                if was is not None and still is not None:
                    tallies[prompt.cell].add(was, still, drift)
        return self._report(judge, erased, tallies)

    def _report(self, judge: Judge, erased: str | None, tallies: dict[str, Tally]) -> dict:
        groups = {
            "erased": [tallies[erased]] if erased else [],
            "others": [tally for own, tally in tallies.items() if own != erased],
        }
        return {
            "title": self.title,
            "paper": self.paper,
            "unit": self.unit,
            "judge": judge.name,
            "erased": erased,
            "classes": {own: _row([tally]) for own, tally in tallies.items()},
            "columns": {f"{self.name}.{group}": _row(of) for group, of in groups.items()},
        }


def _row(tallies: list[Tally]) -> dict | None:
    """The mean over classes, as papers take it; None where the judge cannot say of any picture."""
    seen = [tally for tally in tallies if tally.pictures]
    if not seen:
        return None
    means = [
        sum(getattr(t, part) / t.pictures for t in seen) / len(seen) for part in ("before", "after", "drift")
    ]
    before, after, drift = (round(value, 4) for value in means)
    hits, pictures = sum(t.after for t in seen), sum(t.pictures for t in seen)
    return {"before": before, "after": after, "drift": drift, "hits": hits, "pictures": pictures}
