"""The guard: keeps a concept away while a picture is drawn, whatever the prompt or the embedding says.

Weights that lack a concept still draw it for an embedding that was searched for. But whatever asks for the
concept, the guidance that draws it points the concept's way, and the untouched model knows that way:

    d = e - eps0(z, ""),    e: the guided prediction of the step
    pull = eps0(z, concept) - eps0(z, "")
    where cos(d, pull) > threshold:    d <- d - (1 + push) <d, pull> / |pull|^2 pull

so that the part of the guidance that draws the concept is taken out, and `push` of it turned around. It sees
what is being drawn, not what was asked. Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105) and
negative prompts subtract such a pull at every step without asking whether the picture goes that way.
"""

from __future__ import annotations

import torch

from .diffusion.checkpointing import untouched
from .diffusion.model import DiffusionModel
from .domain.pull import encoded
from .errors import SageError

THRESHOLD, PUSH = 0.6, 0.6
WATCHED = 2  # concepts that are still looked at after the first steps
ALL_LOOKS = 2  # steps at which every concept is looked at


class Looks:
    """Which concepts are looked at next in one run of the sampler, and what was seen.

    All of them at the first steps, then the two that the pictures came nearest to, so that ten concepts cost
    less than ten passes a step.

    Args:
        count: number of concepts.
        threshold: cosine above which a step draws a concept, 0 to 1.
        push: share of what is taken out that is turned around.
    """

    def __init__(self, count: int, threshold: float = THRESHOLD, push: float = PUSH):
        if not 0 < threshold < 1:
            raise SageError(f"The guard's threshold is between 0 and 1, not {threshold}.")
        if not 0 <= push <= 5:
            raise SageError(f"The guard's push is from 0 to 5, not {push}.")
        self.threshold, self.push = threshold, push
        self.strongest = [0.0] * count
        self.cosines: list[list[float]] = []  # the largest of every look, one value a picture

    @property
    def steered(self) -> int:
        """Steps at which something was taken out of one of the pictures."""
        return sum(max(cosines) > self.threshold for cosines in self.cosines)

    def asked(self) -> list[int]:
        """Numbers of the concepts that the next step looks at."""
        ranked = sorted(range(len(self.strongest)), key=lambda i: -self.strongest[i])
        return ranked if len(self.cosines) < ALL_LOOKS else ranked[:WATCHED]

    def steer(
        self, guided: torch.Tensor, base: torch.Tensor, towards: list[torch.Tensor], asked: list[int]
    ) -> torch.Tensor:
        """The step's prediction without what draws a concept; see `steered`. towards: the predictions under
        each concept that was asked for."""
        pulls = [toward - base for toward in towards]
        out, cosines = steered(guided, base, pulls, self.threshold, self.push)
        for i, cosine in zip(asked, cosines):
            self.strongest[i] = max(self.strongest[i], cosine.max().item())
        self.cosines.append(torch.stack(cosines).amax(0).tolist())
        return out


class Guard:
    """Guards pictures of `model` against concepts, whatever LoRAs are on.

    Args:
        concepts: as in prompts. Other words for a concept pull the same way and need not be named.
        threshold, push: see Looks.
    """

    def __init__(
        self, model: DiffusionModel, concepts: list[str], threshold: float = THRESHOLD, push: float = PUSH
    ):
        self.model, self.concepts, self.settings = model, concepts, (threshold, push)
        with untouched(), torch.no_grad():
            self.conds = encoded(model, ["", *concepts])
        self.begin()

    def begin(self) -> None:
        """A new run of the sampler."""
        self.looks = Looks(len(self.concepts), *self.settings)

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, t: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
        """The guided prediction of a step [n, 4, h, w] without what draws a concept."""
        asked = self.looks.asked()
        rows = [0, *(1 + i for i in asked)]
        cond = self.conds[[row for row in rows for _ in range(len(z))]]
        with untouched():
            predicted = self.model.predict_noise(
                z.repeat(len(rows), 1, 1, 1), t.expand(len(z) * len(rows)), cond
            )
        base, *towards = predicted.split(len(z))
        return self.looks.steer(guided, base, towards, asked)


def steered(
    guided: torch.Tensor,
    base: torch.Tensor,
    pulls: list[torch.Tensor],
    threshold: float,
    push: float,
    slope: float | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """(the prediction without the pulls that it follows, its cosine with each of them [n]).

    Noise or predicted clean latents alike, since both are linear in each other. guided, base, pulls:
    [n, 4, h, w]. slope: of a sigmoid in place of the step at the threshold, for who needs its gradient.
    """
    way, cosines = guided - base, []
    for pull in pulls:
        along = _dot(way, pull)
        cosine = along / (_dot(way, way) * _dot(pull, pull)).sqrt().clamp_min(1e-12)
        gate = cosine > threshold if slope is None else torch.sigmoid(slope * (cosine - threshold))
        share = gate * (1 + push) * along / _dot(pull, pull).clamp_min(1e-12)
        way = way - share.view(-1, 1, 1, 1) * pull
        cosines.append(cosine)
    return base + way, cosines


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of every picture; [n]."""
    return (a.float() * b.float()).flatten(1).sum(1)
