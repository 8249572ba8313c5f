"""A judge for every model: the untouched model itself.

A diffusion model is a zero-shot classifier (Li et al., arXiv 2303.16203): a picture z0 shows what the prompt
describes that explains its noise best. For each prompt p, with the same noise e at the same times t for all:

    error(p) = mean over (t, e) of |eps0(z_t, p) - e|^2,   z_t = sqrt(abar) z0 + sqrt(1 - abar) e

A word is seen where its prompt's error is the smallest: smaller than that of the prompt without the word, and
than those of its rivals. On the small models it agrees with their probes on 88 and 92 % of pictures of
things, half of them of a half-erased concept, with false alarms in 3 of 96 neighbours
(docs/lab/second-model.md).

What it cannot know: it sees as its model does. A thing that the model never learnt, or draws wrongly, it
judges wrongly too; a likeness of a person it knows only as well as the model does.
"""

from __future__ import annotations

import torch

from ..diffusion.checkpointing import untouched
from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel
from ..domain.pull import encoded
from ..prompts.kinds import STYLE, THING, guess
from ..prompts.templates import picture_of, without_style
from ..prompts.words import other_styles
from ..spec import ErasureSpec
from .cells import neighbours, plain_prompts

DRAWS = ((500, 0), (600, 1), (500, 2), (600, 3))  # (t, seed of the noise) of each
RIVALS = 4  # words near the concept that a picture may show instead
SEED = 60_000
THING_SHOWN = "house"  # by a style, where nothing else is known
NOTHING = ""  # the rival that stands for the prompt without the word
CANNOT = (
    "it sees as the untouched model does: what that never learnt, or draws wrongly, it judges wrongly too"
)


class ModelJudge:
    """The untouched model as the judge of pictures, whatever LoRAs are on while it looks.

    Its UNet passes: len(DRAWS) for each picture and prompt, and RIVALS + 3 prompts a picture.
    """

    name = "the untouched model"
    cannot = CANNOT

    def __init__(self, model: DiffusionModel, spec: ErasureSpec):
        self.model, self.spec = model, spec
        self.styles = model.knowledge.styles
        self.kind = spec.kind_of(self.styles)
        with untouched():
            if self.kind == STYLE:
                near = other_styles(model, [spec.concept, *spec.synonyms])
            else:
                near = [w for w in neighbours(model, spec) if guess(w, self.styles) == THING]
        self.rivals = near[:RIVALS]
        self.key = repr((type(self).__name__, spec.concept, self.kind, self.rivals))

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell that has words."""
        return plain_prompts(self.model, self.spec, images, seed)

    def expected(self, concept: str) -> str:
        """What `sees` is asked for: the concept itself."""
        return concept

    @torch.no_grad()
    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> list[bool]:
        """Whether each of the pictures [n, 3, H, W], values in [-1, 1], shows the word that is expected."""
        return self.sees_latents(self.model.encode_images(images), expected, prompts)

    @torch.no_grad()
    def sees_latents(self, latents: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> list[bool]:
        """The same of latents [n, 4, h, w] at the scale at which the model was trained."""
        asked = zip(latents.to(self.model.device), expected, prompts)
        with untouched():
            return [self._sees(z0[None], word, prompt.thing or THING_SHOWN) for z0, word, prompt in asked]

    def _sees(self, z0: torch.Tensor, word: str, thing: str) -> bool:
        """Of one picture's latents [1, 4, h, w]. thing: what a style is shown on."""
        words = list(dict.fromkeys([word, NOTHING, self.spec.concept, *self.rivals]))
        cond = encoded(self.model, [self._prompt(w, thing) for w in words])
        errors = torch.zeros(len(words))
        for time, number in DRAWS:
            generator = torch.Generator().manual_seed(SEED + number)
            noise = torch.randn(z0.shape, generator=generator).to(z0.device)
            abar = self.model.alphas[time]
            z = (abar.sqrt() * z0 + (1 - abar).sqrt() * noise).expand(len(words), -1, -1, -1)
            t = torch.full((len(words),), time, device=z0.device)
            errors += (self.model.predict_noise(z, t, cond) - noise).square().mean((1, 2, 3)).cpu()
        return int(errors.argmin()) == 0

    def _prompt(self, word: str, thing: str) -> str:
        if word == NOTHING:
            return without_style(thing, self.spec.concept) if self.kind == STYLE else "a picture"
        own = word == self.spec.concept or self.kind == STYLE and word in self.rivals
        kind = self.kind if own else guess(word, self.styles)
        return picture_of(word, kind, thing)
