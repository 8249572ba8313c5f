"""The guard: keeps a concept away while a picture is drawn, whatever the prompt or the embedding says.

Weights that lack a concept still draw it for an embedding that was searched for. But whatever asks for the
concept, the guidance that draws it points the concept's way, and the untouched model knows that way:

    d = e - eps0(z, ""),    e: the guided prediction of the step
    pull = eps0(z, concept) - eps0(z, "")
    where cos(d, pull) > threshold:    d <- d - (1 + push) <d, pull> / |pull|^2 pull

so that the part of the guidance that draws the concept is taken out, and `push` of it turned around. It sees
what is being drawn, not what was asked.

Some embeddings draw the concept by steps that each point its way a little. Other pictures point its way too,
but only at first, while all pulls are alike. So a step is also changed where the mean of its picture's
cosines so far is above LASTING of the threshold, from the SETTLED-th look on.

Steps say nothing of a picture that is handed in to be edited, and an attack may find steps that pass.
So pictures are looked at too (domain/shown.py). An edit of one that shows a concept is drawn from noise
instead. A finished one that shows a concept is drawn again, and then every part of a step that points the
concept's way goes.

Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105) and negative prompts subtract such a pull at
every step without asking whether the picture goes that way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .diffusion.checkpointing import untouched
from .diffusion.model import DiffusionModel
from .domain.pull import encoded
from .domain.shown import SHOWN, TIMES, dot, share_of, shown
from .errors import SageError
from .prompts.kinds import STYLE, guess

THRESHOLD, PUSH = 0.7, 0.6
LASTING = 0.65  # of the threshold: above it the mean of a picture's cosines draws the concept
SETTLED = 10  # looks after which that mean tells
WATCHED = 2  # concepts that are still looked at after the first steps
ALL_LOOKS = 2  # steps at which every concept is looked at
RULE = (THRESHOLD, PUSH, LASTING, SETTLED, SHOWN, TIMES)  # what pictures under a guard depend on


class Looks:
    """Which concepts are looked at next in one run of the sampler, and what was seen.

    All of them at the first steps, then the two that the pictures came nearest to, so that ten concepts cost
    less than ten passes a step.

    Args:
        count: number of concepts.
        threshold: cosine above which a single step draws a concept, 0 to 1.
        push: share of what is taken out that is turned around.
        strict: every step that points a concept's way draws it.
    """

    def __init__(self, count: int, threshold: float = THRESHOLD, push: float = PUSH, strict: bool = False):
        if not 0 < threshold < 1:
            raise SageError(f"The guard's threshold is between 0 and 1, not {threshold}.")
        if not 0 <= push <= 5:
            raise SageError(f"The guard's push is from 0 to 5, not {push}.")
        self.threshold, self.push, self.strict = threshold, push, strict
        self.strongest = [0.0] * count
        self.cosines: list[list[torch.Tensor]] = [[] for _ in range(count)]  # of each look, [n]
        self.number = 0  # of looks
        self.steered = 0  # looks at which something was taken out of one of the pictures

    def asked(self) -> list[int]:
        """Numbers of the concepts that the next step looks at."""
        ranked = sorted(range(len(self.strongest)), key=lambda i: -self.strongest[i])
        return ranked if self.number < ALL_LOOKS else ranked[:WATCHED]

    def steer(
        self, guided: torch.Tensor, base: torch.Tensor, towards: list[torch.Tensor], asked: list[int]
    ) -> torch.Tensor:
        """The step's prediction without what draws a concept; see `steered`. towards: the predictions under
        each concept that was asked for."""
        gates = []

        def gate(place: int, cosine: torch.Tensor) -> torch.Tensor:
            gates.append(self._draws(asked[place], cosine))
            return gates[-1]

        out = steered(guided, base, [toward - base for toward in towards], gate, self.push)
        self.number += 1
        self.steered += int(torch.stack(gates).any())
        return out

    def _draws(self, concept: int, cosine: torch.Tensor) -> torch.Tensor:
        """Which of the pictures [n] draw the concept, by this look's cosines [n] and those before."""
        self.strongest[concept] = max(self.strongest[concept], cosine.max().item())
        seen = self.cosines[concept]
        seen.append(cosine)
        if self.strict:
            return cosine > 0
        draws = cosine > self.threshold
        if len(seen) >= SETTLED:
            draws = draws | ((torch.stack(seen).mean(0) > LASTING * self.threshold) & (cosine > 0))
        return draws


class Guard:
    """Guards pictures of `model` against concepts, whatever LoRAs are on.

    Args:
        concepts: as in prompts. Other words for a concept pull the same way and need not be named.
        threshold, push: see Looks.
        pictures: whether pictures are looked at as well, not only steps.
    """

    def __init__(
        self,
        model: DiffusionModel,
        concepts: list[str],
        threshold: float = THRESHOLD,
        push: float = PUSH,
        pictures: bool = True,
    ):
        self.model, self.concepts, self.settings = model, concepts, (threshold, push)
        self.pictures = pictures
        self.again = 0  # pictures that were drawn again, since they showed a concept
        with untouched(), torch.no_grad():
            self.conds = encoded(model, ["", *concepts])
        self.begin()

    def begin(self, strict: bool = False) -> None:
        """A new run of the sampler. strict: see Looks."""
        self.looks = Looks(len(self.concepts), *self.settings, strict)

    @torch.no_grad()
    def __call__(self, z: torch.Tensor, t: torch.Tensor, guided: torch.Tensor) -> torch.Tensor:
        """The guided prediction of a step [n, 4, h, w] without what draws a concept."""
        asked = self.looks.asked()
        base, *towards = self._predicted(z, t, asked)
        return self.looks.steer(guided, base, towards, asked)

    @torch.no_grad()
    def shows(self, z0: torch.Tensor) -> torch.Tensor:
        """Which of the pictures show one of the concepts; [n], bool.

        z0: clean latents [n, 4, h, w], as the model has them.
        """
        if not self.pictures:
            return torch.zeros(len(z0), dtype=torch.bool, device=z0.device)

        def shares(time: int, noise: torch.Tensor) -> list[torch.Tensor]:
            kept = self.model.alphas[time]
            z, t = kept.sqrt() * z0 + (1 - kept).sqrt() * noise, torch.tensor([time], device=z0.device)
            base, *towards = self._predicted(z, t, list(range(len(self.concepts))))
            return [share_of(noise, base, toward) for toward in towards]

        return shown(z0, shares)

    def _predicted(self, z: torch.Tensor, t: torch.Tensor, asked: list[int]) -> tuple[torch.Tensor, ...]:
        """The untouched model's predictions without a prompt, then under each concept that is asked for."""
        rows = [0, *(1 + i for i in asked)]
        cond = self.conds[[row for row in rows for _ in range(len(z))]]
        with untouched():
            predicted = self.model.predict_noise(
                z.repeat(len(rows), 1, 1, 1), t.expand(len(z) * len(rows)), cond
            )
        return predicted.split(len(z))


def not_guarded(concepts: list[str], styles: tuple[str, ...] = ()) -> str:
    """What to tell the user of concepts that are styles; empty without any. styles: that the model is known
    to have.

    A style's guidance is small beside that of the thing that is drawn in it, and points elsewhere for every
    thing. So no threshold finds it (docs/lab/guard.md).
    """
    found = [repr(concept) for concept in concepts if guess(concept, styles) == STYLE]
    if not found:
        return ""
    return (
        f"the guard sees things, not styles, and hardly keeps {', '.join(found)} away; erase a style instead"
    )


def steered(
    guided: torch.Tensor,
    base: torch.Tensor,
    pulls: list[torch.Tensor],
    gate: Callable[[int, torch.Tensor], torch.Tensor],
    push: float,
) -> torch.Tensor:
    """The prediction without the pulls that it follows.

    Noise or predicted clean latents alike, since both are linear in each other.

    Args:
        guided, base, pulls: [n, 4, h, w].
        gate: from a pull's number and the cosines [n] of the pictures' guidance with it, how much of the
            pull goes: 0 or False to 1 or True for each picture.
        push: see Looks.
    """
    way = guided - base
    for number, pull in enumerate(pulls):
        along = dot(way, pull)
        cosine = along / (dot(way, way) * dot(pull, pull)).sqrt().clamp_min(1e-12)
        share = gate(number, cosine) * (1 + push) * along / dot(pull, pull).clamp_min(1e-12)
        way = way - share.view(-1, 1, 1, 1) * pull
    return base + way
