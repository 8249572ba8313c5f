"""Suites by kind: what the four cells ask for, in fuller scenes than the plain prompts.

A suite is a file of data/ with a section for every cell. A line is a prompt; {name} is the section's word,
{a_name} the same with its article, {styled} a thing in that style. Behind a bar stands what must be seen,
where that is not the section's word. Neighbours and other things are those that the judge knows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..diffusion.knowledge import Judge, Prompt
from ..diffusion.model import DiffusionModel
from ..prompts.kinds import PERSON, STYLE, THING, bare_words, guess
from ..prompts.templates import SHOWN_ON, noun, plainest_in_style
from ..prompts.words import other_styles
from ..spec import ErasureSpec
from .cells import CELLS, EVALUATION_SEED

BY_KIND = "kind"
OBJECTS, STYLES, PEOPLE, NUDITY = "objects", "styles", "people", "nudity"
SCENES = (OBJECTS, STYLES, PEOPLE, NUDITY)
OF_KIND = {THING: OBJECTS, STYLE: STYLES, PERSON: PEOPLE}
UNCLOTHED = frozenset({"nude", "nudity", "naked", "nakedness", "topless", "nsfw", "unclothed"})
WORDS = 12  # of a cell at least, where the judge knows as many


@dataclass(frozen=True)
class Scene:
    """A line of a suite: a template, and what must be seen in it; "": the section's word."""

    text: str
    expected: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it takes a word."""
        return "{" in self.text


@functools.cache
def read_scenes(name: str) -> dict[str, tuple[Scene, ...]]:
    """The sections of a suite's file, one for every cell."""
    text = (Path(__file__).parent / "data" / f"{name}.txt").read_text(encoding="utf-8")
    sections: dict[str, list[Scene]] = {cell: [] for cell in CELLS}
    own: list[Scene] = []
    for line in text.splitlines():
        if line.startswith("["):
            own = sections[line.strip("[]")]
        elif line and not line.startswith("#"):
            template, _, expected = (part.strip() for part in line.partition("|"))
            own.append(Scene(template, expected))
    return {cell: tuple(scenes) for cell, scenes in sections.items()}


def suite_for(spec: ErasureSpec, styles: tuple[str, ...] = ()) -> str:
    """The name of the suite for a concept: of its kind, or the one about nudity where its words say so."""
    if UNCLOTHED & set(bare_words(spec.concept)):
        return NUDITY
    return OF_KIND[spec.kind_of(styles)]


@dataclass(frozen=True)
class InScenes:
    """A judge that has a suite's prompts drawn in place of its own. suite: of SCENES, or BY_KIND."""

    judge: Judge
    model: DiffusionModel
    spec: ErasureSpec
    suite: str = BY_KIND

    @property
    def name(self) -> str:
        return self.judge.name

    @property
    def cannot(self) -> str:
        return self.judge.cannot

    @property
    def key(self) -> str:
        """The judge's: its verdicts do not depend on who wrote the prompts."""
        return getattr(self.judge, "key", "")

    def expected(self, concept: str) -> str:
        """The name that the judge has for the concept."""
        return self.judge.expected(concept)

    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> Sequence[bool | None]:
        """What the judge says."""
        return self.judge.sees(images, expected, prompts)

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell that has words, or lines of its own. Call it with every adapter
        off.
        """
        known = self.judge.prompts(concept, given, max(images, WORDS), seed)
        styles = self.model.knowledge.styles
        own = suite_for(self.spec, styles) if self.suite == BY_KIND else self.suite
        scenes, words = read_scenes(own), self._words(known, given, own)
        prompts = []
        for cell in CELLS:
            lines = [s for s in scenes[cell] if words[cell] or not s.is_open]
            for i in range(images if lines else 0):
                prompts.append(self._prompt(cell, lines, words[cell], i, EVALUATION_SEED + 1000 * seed + i))
        return prompts

    def _words(self, known: list[Prompt], given: tuple[str, ...], suite: str) -> dict[str, list[str]]:
        """The words of every section."""
        spec, styles = self.spec, self.model.knowledge.styles
        names = spec.recipe(styles).names
        others = [word for word in self.model.knowledge.synonyms(spec.concept) if word not in given]
        words = {"concept": [spec.concept], "synonyms": list(dict.fromkeys([*names[1:], *others]))}
        for cell in ("near", "far"):
            asked = dict.fromkeys(p.expected for p in known if p.cell == cell)
            like_it = suite == STYLES and cell == "near"  # a style's neighbours are styles
            words[cell] = [w for w in asked if (guess(w, styles) == STYLE) == like_it]
        if suite == STYLES:
            words["near"] = words["near"] or other_styles(self.model, list(names))
        return words

    def _prompt(self, cell: str, lines: list[Scene], words: list[str], turn: int, seed: int) -> Prompt:
        """Every word meets every line."""
        scene = lines[(turn + turn // max(1, len(words))) % len(lines)]
        word = words[turn % len(words)] if words else ""
        thing = SHOWN_ON[turn % len(SHOWN_ON)]
        text = scene.text
        if scene.is_open:
            kind = self._kind(word)
            a_name, styled = noun(word, kind), plainest_in_style(thing, word)
            text = text.format(name=word, a_name=a_name, styled=styled)
        own = self.judge.expected(self.spec.concept) if cell in ("concept", "synonyms") else word
        return Prompt(cell, text, scene.expected or own, seed, thing)

    def _kind(self, word: str) -> str:
        styles = self.model.knowledge.styles
        own = word in self.spec.recipe(styles).names
        return self.spec.kind_of(styles) if own else guess(word, styles)
