"""The prompts of one erasure: how its concept and the retained words are written."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field
from functools import cached_property

from . import templates
from .kinds import STYLE, THING, guess

# The built-in list names plain things first; places, styles and moods follow.
THINGS = 200


@dataclass(kw_only=True)
class Writer:
    """Writes prompts of the concept, of the same without the concept, and of retained words.

    A scene is what is beside the concept in a prompt and stays: a thing that shows the erased style, one
    of the other styles that the erased thing is shown in, or None, the concept alone. Erased as a bare word
    only, a thing comes back in some styles.

    Args:
        names: the concept and its other names.
        given: those of them that the user gave, the concept first; trajectories show these alone.
        retained: words that must stay, the user's first.
        kind: what the concept is, one of kinds.KINDS.
        other_styles: styles that stay.
        styled: share of a thing's prompts, and of retained prompts, that are in a style.
        styles: names of styles that the model is known to have.
        becomes: what is drawn in the concept's place; empty: nothing.
    """

    names: list[str]
    retained: list[str]
    kind: str = THING
    other_styles: list[str] = field(default_factory=list)
    styled: float = 0.0
    styles: tuple[str, ...] = ()
    given: list[str] = field(default_factory=list)
    becomes: str = ""

    def __post_init__(self) -> None:
        self.given = self.given or self.names

    def any_name(self, rng: random.Random) -> str:
        """One of the given names half of the time, and one of all names otherwise."""
        return rng.choice(self.given if rng.random() < 0.5 else self.names)

    @property
    def style(self) -> bool:
        """Whether the concept is a style."""
        return self.kind == STYLE

    @cached_property
    def things(self) -> list[str]:
        """Retained words on which a style can be shown: plain things."""
        plain = [w for w in self.retained[:THINGS] if self.kind_of(w) == THING]
        return plain or ["house", "tree", "person"]

    def put_first(self, scenes: list[str]) -> None:
        """From now on these are the first of the other styles. (The scenes of a style are things.)"""
        if not self.style:
            self.other_styles[:] = dict.fromkeys([*scenes, *self.other_styles])

    def kind_of(self, word: str) -> str:
        """The kind of a retained word, guessed."""
        return guess(word, self.styles)

    @property
    def kept_styled(self) -> float:
        """The share of the retained prompts that are in a style: half of them, where a style is erased."""
        return 0.5 if self.style else self.styled

    def scenes(self, rng: random.Random, count: int) -> list[str | None]:
        """What the concept is shown with, without repetition where possible: a style always with things, a
        thing partly in styles.
        """
        if self.style:
            return _draw(rng, self.things, count)
        shown = _draw(rng, self.other_styles, round(self.styled * count)) if self.other_styles else []
        return [*shown, *[None] * (count - len(shown))]

    def template(self, rng: random.Random, scene: str | None, name: str) -> str:
        """A template with one place left, the concept's."""
        if scene is None:
            return rng.choice(templates.concept_templates(name, self.kind))
        if self.style:
            return rng.choice(templates.in_style(scene, name, leave="style"))
        return rng.choice(templates.in_style(name, scene, leave="thing", kind=self.kind))

    def plain(self, name: str, scene: str | None) -> str:
        """The plainest prompt of the concept: its bare name, or a thing in a style."""
        return name if scene is None else templates.put(self.plain_template(name, scene), name)

    def plain_template(self, name: str, scene: str) -> str:
        """Like `plain`, with "{}" in place of the concept; see `neutral` for the prompt without it."""
        if self.style:
            return templates.plainest_in_style(scene, name, leave="style")
        return templates.plainest_in_style(name, scene, leave="thing", kind=self.kind)

    def neutral(self, scene: str | None, name: str | None = None) -> str:
        """What `plain(name, scene)` says without the concept. name: its first name if it is not given."""
        if scene is None:
            return ""
        if self.style:
            return templates.without_style(scene, name or self.names[0])
        return templates.without_thing(scene)

    def aim(self, scene: str | None, name: str | None = None) -> str:
        """What `plain(name, scene)` becomes: the same with the replacement, or without the concept."""
        return self.plain(self.becomes, scene) if self.becomes else self.neutral(scene, name)

    def erased_prompt(self, rng: random.Random, scene: str | None = None) -> str:
        """One of the concept's names in a plain template."""
        name = self.any_name(rng)
        if scene is None:
            return templates.put(rng.choice(templates.plain_templates(name, self.kind)), name)
        return templates.put(self.template(rng, scene, name), name)

    def retained_prompt(self, rng: random.Random) -> str:
        """A retained word in a plain template or, as often as `kept_styled` says, in one of the other
        styles.
        """
        styled = self.other_styles and rng.random() < self.kept_styled
        return self.shown(rng, rng.choice(self.retained), rng.choice(self.other_styles) if styled else None)

    def retained_prompts(self, rng: random.Random, words: list[str], scenes: list[str | None]) -> list[str]:
        """One prompt a word.

        Few are drawn, so chance has no say in the styles: they come in turn, first those that the concept is
        shown in, which would go with it.
        """
        erased = [] if self.style else [s for s in scenes if s]
        styles = list(dict.fromkeys([*erased, *rng.sample(self.other_styles, len(self.other_styles))]))
        count = round(self.kept_styled * len(words)) if styles else 0
        turns, prompts = itertools.cycle(styles), []
        for i, word in enumerate(words):
            prompts.append(self.shown(rng, word, next(turns) if i < count else None))
        return prompts

    def shown(self, rng: random.Random, word: str, style: str | None) -> str:
        """A word in a plain template, or in a style. A word that is a style itself gets no other one."""
        kind = self.kind_of(word)
        if style is None or kind == STYLE:
            return templates.put(rng.choice(templates.plain_templates(word, kind)), word)
        return templates.put(rng.choice(templates.in_style(word, style, leave="style", kind=kind)), style)


def _draw(rng: random.Random, words: list[str], count: int) -> list[str]:
    """`count` of the words in random order; no word twice before all others have come once."""
    drawn = []
    for _ in range(1 + count // len(words)):
        drawn += rng.sample(words, len(words))
    return drawn[:count]
