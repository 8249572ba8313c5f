"""EraseAnything's target (arXiv 2412.20413): negative guidance, and attention that leaves the concept.

    L = L_ESD + w_a 1280 mean_places | A(places, concept) | + w_c InfoNCE
    InfoNCE = log softmax( cos(A_s, [A, A_1 .. A_K]) / temperature )[0]

A: the shares of attention that the concept's tokens take in the last layer that reads text; |.| is the norm
over heads. InfoNCE is small where the trained model's map is unlike the frozen one of the concept or of a
synonym (A_s), and like those of K other words.

It differs from the authors' code in four points. Every step has all terms; theirs takes them in turn. All
maps of a step are of one noisy latent; theirs are of different pictures. Every map is read at its own word;
theirs are all read at the concept's positions. InfoNCE's maps are means over heads; theirs are of the first.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ...diffusion.cost import FORWARD, ROW
from ...diffusion.text import Conditioning
from ..attention import listening, positions_of
from ..base import Terms
from ..context import Context
from ..states import States
from .negative_guidance import NegativeGuidance, NegativeGuidanceTarget

PLACES = 1280  # of FLUX at 512 pixels, 1,024 of the picture and 256 of the text, over which the paper sums


@dataclass(frozen=True)
class Unattended(NegativeGuidance):
    """attended: weight of the concept's attention; contrast: of InfoNCE; others: words in it (all as
    published). The maps are those of one sample a step.
    """

    attended: float = 1e-3
    contrast: float = 0.1
    others: int = 3
    temperature: float = 0.07

    def passes(self, walk: int, batch: int) -> int:
        return ROW + (1 + self.others) * FORWARD

    def rows(self, batch: int) -> int:
        return 1

    def start(self, context: Context) -> UnattendedTarget:
        return UnattendedTarget(self, context)


class UnattendedTarget(NegativeGuidanceTarget):
    config: Unattended

    def __call__(
        self, states: States, cond: Conditioning, rng: random.Random, generator: torch.Generator
    ) -> Terms:
        """The negative guidance under "erase", and the two losses of attention, numbers."""
        config, context = self.config, self.context
        z, t = states.z[:1], states.t[:1]
        others = rng.sample(context.retained, min(config.others, len(context.retained)))
        names = [context.names[0], rng.choice(context.names), *others]
        with torch.no_grad(), context.adapter.off():
            like, *unlike = [flat(self.looks(z, t, word)) for word in names[1:]]
        looks = self.looks(z, t, names[0])
        attended = config.attended * PLACES * looks.norm(dim=1).sum(-1).mean()
        contrast = config.contrast * likeness(flat(looks), like, unlike, config.temperature)
        return super().__call__(states, cond, rng, generator) | {"attended": attended, "contrast": contrast}

    def looks(self, z: torch.Tensor, t: torch.Tensor, word: str) -> torch.Tensor:
        """Of the last layer that reads text, at the tokens of a bare word; [1, heads, places, tokens]."""
        with listening(self.context.model.unet) as heard:
            self.context.model.predict_noise(z, t, self.context.model.encode([word]))
        return heard[-1].looks(positions_of(self.context.model.text, word)).float()


def flat(looks: torch.Tensor) -> torch.Tensor:
    """One map [places] of many: the mean over heads and tokens."""
    return looks[0].mean(0).mean(-1)


def likeness(
    own: torch.Tensor, like: torch.Tensor, unlike: list[torch.Tensor], temperature: float
) -> torch.Tensor:
    """How much likelier `own` than any of `unlike` goes with `like`, all [places]; a log probability."""
    cosines = torch.stack([F.cosine_similarity(like, other, dim=0) for other in (own, *unlike)])
    return (cosines / temperature).log_softmax(0)[0]
