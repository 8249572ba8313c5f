"""What the three choices of a method may see: the model, its adapter, the erased names, the retained words,
the latents.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..lora.adapter import Adapter
from ..prompts import templates
from ..prompts.compose import compose, meaning
from ..prompts.kinds import STYLE, THING, guess
from ..prompts.words import likeness_to

ADJACENT = 12  # so many retained words count as the concept's neighbourhood
# so many of the first retained words are plain things; the built-in list has places, styles and moods behind
# them
THINGS = 200


@dataclass
class Context:
    """`source`: latents.LatentBank or FreshTrajectories; `target`: the running target, for terms that share
    its state; `kind`: what the concept is, one of kinds.KINDS; `styled`: the share of a thing's erased and of
    retained prompts that are in a style.

    A scene is what stands beside the concept in a prompt and stays: a thing that shows the erased style, one
    of the other styles that the erased thing is shown in, or None, the concept alone. Erased as a bare word
    only, a thing comes back in some styles.
    """

    model: DiffusionModel
    adapter: Adapter
    names: list[str]
    retained: list[str]
    kind: str = THING
    other_styles: list[str] = field(default_factory=list)
    styled: float = 0.0
    source: object = None
    target: object = None
    _meanings: dict[str, torch.Tensor] = field(default_factory=dict)
    _frozen: dict[str, Conditioning] = field(default_factory=dict)
    _nearest: list[str] | None = None

    @property
    def style(self) -> bool:
        """Whether the concept is a style."""
        return self.kind == STYLE

    @cached_property
    def things(self) -> list[str]:
        """Retained words on which a style can be shown: plain things."""
        plain = [w for w in self.retained[:THINGS] if self.kind_of(w) == THING]
        return plain or ["house", "tree", "person"]

    def kind_of(self, word: str) -> str:
        """The kind of a retained word, guessed."""
        return guess(word, self.model.knowledge.styles)

    @property
    def empty_end(self) -> torch.Tensor:
        """The frozen encoder's end state of the empty prompt, the origin from which meanings are measured;
        [width].
        """
        return self.frozen("").hidden[0, 1].float()

    def frozen(self, prompt: str) -> Conditioning:
        """T0(prompt), computed once; one row."""
        if prompt not in self._frozen:
            with torch.no_grad(), self.adapter.off():
                self._frozen[prompt] = self.model.encode([prompt])
        return self._frozen[prompt]

    def frozen_rows(self, prompts: list[str]) -> Conditioning:
        """T0 of each prompt, a row each."""
        return Conditioning.cat([self.frozen(p) for p in prompts])

    def meaning_of(self, name: str) -> torch.Tensor:
        """What the frozen encoder says of the bare name: [1, positions, width]."""
        if name not in self._meanings:
            with torch.no_grad(), self.adapter.off():
                prompts = compose(self.model.text, name, ["{}"])
                self._meanings[name] = meaning(
                    self.model.text.encode(prompts.tokens).hidden, prompts.read, self.empty_end
                )
        return self._meanings[name]

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
        """What `plain(name, scene)` says without the concept. name: its first name if none is given."""
        if scene is None:
            return ""
        if self.style:
            return templates.without_style(scene, name or self.names[0])
        return templates.without_thing(scene)

    def erased_prompt(self, rng: random.Random, scene: str | None = None) -> str:
        """One of the concept's names in a plain template."""
        name = rng.choice(self.names)
        if scene is None:
            return templates.put(rng.choice(templates.plain_templates(name, self.kind)), name)
        return templates.put(self.template(rng, scene, name), name)

    def nearest(self, count: int = ADJACENT) -> list[str]:
        """The retained words that are most like the concept in what the UNet reads of them, nearest first."""
        if self._nearest is None:
            with self.adapter.off():
                like = likeness_to(self.model, self.names, self.retained)
            self._nearest = [w for _, w in sorted(zip(like, self.retained), key=lambda pair: -pair[0])]
        return self._nearest[:count]

    def retained_prompt(self, rng: random.Random) -> str:
        """A retained word in a plain template or, as often as `kept_styled` says, in one of the other styles."""
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
        return [
            self.shown(rng, word, styles[i % len(styles)] if i < count else None)
            for i, word in enumerate(words)
        ]

    @property
    def kept_styled(self) -> float:
        """The share of the retained prompts that are in a style: half of them, where a style is erased."""
        return 0.5 if self.style else self.styled

    def shown(self, rng: random.Random, word: str, style: str | None) -> str:
        """A word in a plain template, or in a style. A word that is a style itself gets no other one."""
        kind = self.kind_of(word)
        if style is None or kind == STYLE:
            return templates.put(rng.choice(templates.plain_templates(word, kind)), word)
        return templates.put(rng.choice(templates.in_style(word, style, leave="style", kind=kind)), style)

    def predict_frozen(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """eps0(z, h): the original UNet's prediction, differentiable with respect to the conditioning."""
        with self.adapter.off():
            return self.model.predict_noise(z, t, cond)

    def z0_weight(self, t: torch.Tensor) -> torch.Tensor:
        """What turns a squared error of noise into one of predicted clean latents, (1 - abar) / abar; [n, 1,
        1, 1].

        z0_hat = (z_t - sqrt(1 - abar) eps) / sqrt(abar), so that noisy steps weigh more (EAP, AGE).
        """
        a = self.model.alphas[t].view(-1, 1, 1, 1)
        return (1 - a) / a


def _draw(rng: random.Random, words: list[str], count: int) -> list[str]:
    return sum((rng.sample(words, len(words)) for _ in range(1 + count // len(words))), [])[:count]
