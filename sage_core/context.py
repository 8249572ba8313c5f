"""What the three choices of a method may see: the model, its adapter, the erased names, the retained words, the latents."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch

from .adapters import Adapter
from .diffusion.model import DiffusionModel
from .diffusion.text import Conditioning
from .domain.prompts import BEHIND, NEUTRAL, STYLE_TEMPLATES, compose, is_phrase, meaning
from .domain.prompts import TEMPLATES as CONCEPT_TEMPLATES
from .retention.words import TEMPLATES, likeness_to, other_styles, retained_words
from .spec import ErasureSpec

ADJACENT = 12  # so many retained words count as the concept's neighbourhood
THINGS = 200  # so many of the first retained words are plain things; the built-in list has places, styles and moods behind them


@dataclass
class Context:
    """`source`: latents.LatentBank or FreshTrajectories; `target`: the running target, for terms that share its state; `style`:
    the concept is a style, which is shown on things: then every state, prompt and target has a thing, and the thing stays."""

    model: DiffusionModel
    adapter: Adapter
    names: list[str]
    retained: list[str]
    style: bool = False
    other_styles: list[str] = field(default_factory=list)
    source: object = None
    target: object = None
    _meanings: dict[str, torch.Tensor] = field(default_factory=dict)
    _frozen: dict[str, Conditioning] = field(default_factory=dict)
    _nearest: list[str] | None = None

    @property
    def empty_end(self) -> torch.Tensor:
        """The frozen encoder's end state of the empty prompt, the origin from which meanings are measured; [width]."""
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
                self._meanings[name] = meaning(self.model.text.encode(prompts.tokens).hidden, prompts.read, self.empty_end)
        return self._meanings[name]

    def things(self, rng: random.Random, count: int) -> list[str | None]:
        """What a style is shown on, without repetition where possible; None where the concept is a thing itself."""
        if not self.style:
            return [None] * count
        words = self.retained[:THINGS]
        return sum((rng.sample(words, len(words)) for _ in range(1 + count // len(words))), [])[:count]

    def template(self, rng: random.Random, thing: str | None, name: str) -> str:
        """A template with one place left, the concept's."""
        if thing is None:
            return rng.choice(CONCEPT_TEMPLATES)
        fitting = STYLE_TEMPLATES[:BEHIND] if is_phrase(name) else STYLE_TEMPLATES
        return rng.choice(fitting).replace("{thing}", thing)

    def plain(self, name: str, thing: str | None) -> str:
        """The plainest prompt of the concept: its bare name, or a thing in the style."""
        return name if thing is None else self.plain_template(name, thing).format(name)

    def plain_template(self, name: str, thing: str) -> str:
        """The same with one place left, the style's; without the style it says `neutral`."""
        return STYLE_TEMPLATES[0 if is_phrase(name) else BEHIND].replace("{thing}", thing)

    def neutral(self, thing: str | None) -> str:
        """The same without the concept."""
        return "" if thing is None else NEUTRAL.format(thing=thing)

    def erased_prompt(self, rng: random.Random, thing: str | None = None) -> str:
        """One of the concept's names in a plain template."""
        name = rng.choice(self.names)
        return rng.choice(TEMPLATES).format(name) if thing is None else self.template(rng, thing, name).format(name)

    def nearest(self, count: int = ADJACENT) -> list[str]:
        """The retained words that are most like the concept in what the UNet reads of them, nearest first."""
        if self._nearest is None:
            with self.adapter.off():
                like = likeness_to(self.model, self.names, self.retained)
            self._nearest = [w for _, w in sorted(zip(like, self.retained), key=lambda pair: -pair[0])]
        return self._nearest[:count]

    def retained_prompt(self, rng: random.Random, word: str | None = None) -> str:
        """A retained word in a plain template; where a style is erased, half of them in another style."""
        word = word or rng.choice(self.retained)
        if self.style and rng.random() < 0.5:
            style = rng.choice(self.other_styles)
            return self.template(rng, word, style).format(style)
        return rng.choice(TEMPLATES).format(word)

    def predict_frozen(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """eps0(z, h): the original UNet's prediction, differentiable with respect to the conditioning."""
        with self.adapter.off():
            return self.model.predict_noise(z, t, cond)

    def z0_weight(self, t: torch.Tensor) -> torch.Tensor:
        """What turns a squared error of noise into one of predicted clean latents, (1 - abar) / abar; [n, 1, 1, 1].

        z0_hat = (z_t - sqrt(1 - abar) eps) / sqrt(abar), so that noisy steps weigh more (EAP, AGE).
        """
        a = self.model.alphas[t].view(-1, 1, 1, 1)
        return (1 - a) / a


def build_context(model: DiffusionModel, spec: ErasureSpec, adapter: Adapter) -> Context:
    names = [spec.concept, *(s for s in spec.synonyms if s != spec.concept)]
    with adapter.off():
        retained = retained_words(model, names, spec.retain)
    return Context(model, adapter, names, retained, spec.is_style, other_styles(model, names))
