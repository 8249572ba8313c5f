"""What every attack is, and what several need: the prompt, pictures of the concept, the denoising loss.

An attack has a budget, and hands over pictures at several budgets, so that its success is a curve. It never
judges its own pictures: success.py does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...prompts.kinds import STYLE
from ...prompts.templates import DRAWING, fill, plainest_in_style, put, without_style
from ...spec import ErasureSpec

THING = "house"  # a style is attacked on one thing
NEUTRAL = "object"  # says nothing of the concept
SOLVER_STEPS = 12  # of the pictures of the concept
DRAWING_STEPS = 20  # of the attacked pictures

OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """Pictures [n, 3, H, W] in [-1, 1] that an attack draws.

    budget: what it had spent by then, in the attack's unit. start: where it began, or what it was given.
    loss: the attack's own aim at that point; None where it has none. found: the words that it found, as text.
    """

    budget: int
    pictures: torch.Tensor
    start: str
    loss: float | None = None
    found: str = ""


class Attack(Protocol):
    """A frozen config.

    name: on the command line. paper: where it is from. title: in a sentence. unit: of the budget.
    latents: pictures of the concept, by the untouched model, that it is given. telling: its success says
    that the model still knows the concept; False where a model that never did is attacked as well.
    """

    @property
    def name(self) -> str: ...
    @property
    def paper(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def latents(self) -> int: ...
    @property
    def telling(self) -> bool: ...

    @property
    def budgets(self) -> tuple[int, ...]:
        """Where its success is measured, ascending; the last is all of it."""

    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """`images` pictures at every budget from every start, of the model as it is (adapters on or off).

        latents: clean ones of the concept, [n, 4, h, w]. A model that was changed for an attempt is put back
        when the iterator ends or is closed.
        """


def marked(marks: tuple[int, ...], end: int) -> tuple[int, ...]:
    """The budgets of an attack: the marks on the way, ascending, and the end."""
    return (*(m for m in sorted(set(marks)) if m < end), end)


def template_of(model: DiffusionModel, spec: ErasureSpec) -> str:
    """The attack's prompt with "{}" in place of the concept."""
    kind = spec.kind_of(model.knowledge.styles)
    if kind == STYLE:
        return plainest_in_style(THING, spec.concept, leave="style")
    return fill(DRAWING, spec.concept, kind=kind, leave="thing")


def concept_prompt(model: DiffusionModel, spec: ErasureSpec) -> str:
    """The plain prompt of the concept."""
    return put(template_of(model, spec), spec.concept)


def neutral_prompt(model: DiffusionModel, spec: ErasureSpec) -> str:
    """The same without the concept."""
    if spec.kind_of(model.knowledge.styles) == STYLE:
        return without_style(THING, spec.concept)
    return fill(DRAWING, NEUTRAL)


@torch.no_grad()
def concept_latents(model: DiffusionModel, spec: ErasureSpec, count: int, seed: int) -> torch.Tensor:
    """Clean latents [count, 4, h, w] of the concept; call it with the original model (adapter off)."""
    cond = model.encode([concept_prompt(model, spec)] * count)
    return model.sample(cond, [70_000 + 1000 * seed + i for i in range(count)], SOLVER_STEPS)


@torch.no_grad()
def attack_images(
    model: DiffusionModel, cond: Conditioning, images: int, seed: int = 0, steps: int = DRAWING_STEPS
) -> torch.Tensor:
    """Pictures [n, 3, H, W] that the model draws for an attack's conditioning (one row)."""
    seeds = [80_000 + 1000 * seed + i for i in range(images)]
    return model.decode(model.sample(Conditioning.cat([cond] * images), seeds, steps))


@dataclass(frozen=True)
class Noised:
    """Noised pictures: states z_t [n, 4, h, w] at times t [n], and the noise in them."""

    z: torch.Tensor
    t: torch.Tensor
    noise: torch.Tensor


def noised(
    model: DiffusionModel, latents: torch.Tensor, t: torch.Tensor, index: torch.Tensor, generator
) -> Noised:
    """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise of the latents at `index`, noise drawn on the CPU."""
    noise = torch.randn(len(t), *latents.shape[1:], generator=generator).to(model.device)
    t = t.to(model.device)
    a = model.alphas[t].view(-1, 1, 1, 1)
    return Noised(a.sqrt() * latents[index.to(model.device)] + (1 - a).sqrt() * noise, t, noise)


def random_noised(
    model: DiffusionModel, latents: torch.Tensor, batch: int, generator: torch.Generator
) -> Noised:
    """A batch of random latents at random times."""
    index = torch.randint(len(latents), (batch,), generator=generator)
    return noised(model, latents, torch.randint(1000, (batch,), generator=generator), index, generator)


def fixed_noised(
    model: DiffusionModel, latents: torch.Tensor, batch: int, generator: torch.Generator
) -> Noised:
    """A batch at times spread over the schedule. Searches that compare prompts take one for all of them."""
    times = torch.linspace(100, 900, batch).long()
    return noised(model, latents, times, torch.arange(batch) % len(latents), generator)


def denoising_loss(
    model: DiffusionModel, states: Noised, cond: Conditioning, wanted: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of |eps(z_t, cond, t) - wanted|^2; `cond` has one row, `wanted` is the noise unless given."""
    eps = model.predict_noise(states.z, states.t, Conditioning.cat([cond] * len(states.t)))
    return (eps - (states.noise if wanted is None else wanted)).square().mean()
