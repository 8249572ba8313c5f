"""Where noisy latents come from: a bank walked once, or, as the papers' own code has it, a fresh trajectory
at every step.

Reference implementations sample a trajectory at every training step (50 UNet passes of 55 in ESD). The bank
walks a few of them once with a fast solver. Every stop gives a training state (z_t, t), and the predictions
eps0(z_t, c) and eps0(z_t, "") that guidance needed anyway are the erasing target: they cost nothing more and
are never computed again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..methods.context import Context
from ..methods.states import Kept, States


@dataclass
class LatentBank:
    """Erasing states (z, t, eps0 of the concept and of the empty prompt), and retained ones (z, t, prompt,
    eps0).

    erase_deck, retain_deck: if given, states are dealt like cards, every one of them before any comes again.
    These are the indices that are still to come, on the CPU. A short run sees each state once or twice, and
    this leaves less to chance.
    """

    erase_z: torch.Tensor
    erase_t: torch.Tensor
    eps_concept: torch.Tensor
    eps_empty: torch.Tensor
    retain_z: torch.Tensor
    retain_t: torch.Tensor
    retain_eps: torch.Tensor
    erase_scene: torch.Tensor  # index into scenes
    retain_prompt: torch.Tensor  # index into retain_prompts
    scenes: list[str | None]
    retain_prompts: list[str]
    erase_deck: torch.Tensor | None = None
    retain_deck: torch.Tensor | None = None
    # Indices that draw.
    ON_CPU: ClassVar[frozenset[str]] = frozenset(
        {"erase_scene", "retain_prompt", "erase_deck", "retain_deck"}
    )

    @classmethod
    def restored(
        cls, tensors: dict[str, torch.Tensor], about: dict[str, Any], device: torch.device
    ) -> LatentBank:
        """What `tensors` and `about` returned, on a device."""
        placed: dict[str, Any] = {}
        for name, tensor in tensors.items():
            placed[name] = tensor if name in cls.ON_CPU else tensor.to(device)
        return cls(**placed, scenes=about["scenes"], retain_prompts=about["retain_prompts"])

    def extend(self, more: LatentBank) -> None:
        """Take in the states of another bank; a deck deals them next."""
        first, kept = len(self.erase_t), len(self.retain_t)
        more.erase_scene = more.erase_scene + len(self.scenes)
        more.retain_prompt = more.retain_prompt + len(self.retain_prompts)
        for name in self.tensors().keys() - {"erase_deck", "retain_deck"}:
            setattr(self, name, torch.cat([getattr(self, name), getattr(more, name)]))
        self.scenes = [*self.scenes, *more.scenes]
        self.retain_prompts = [*self.retain_prompts, *more.retain_prompts]
        if self.erase_deck is not None and self.retain_deck is not None:
            self.erase_deck = torch.cat([torch.arange(first, len(self.erase_t)), self.erase_deck])
            self.retain_deck = torch.cat([torch.arange(kept, len(self.retain_t)), self.retain_deck])

    def about(self) -> dict[str, Any]:
        """What a saved state holds of it beside its tensors; JSON values."""
        return {"scenes": self.scenes, "retain_prompts": self.retain_prompts}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)}

    def concept(self, rng: random.Random, count: int) -> States:
        """`count` random states of the concept's trajectories."""
        index, self.erase_deck = _draw(rng, len(self.erase_t), count, self.erase_deck)
        scenes = [self.scenes[i] for i in self.erase_scene[index].tolist()]
        index = index.to(self.erase_z.device)
        return States(
            self.erase_z[index], self.erase_t[index], self.eps_concept[index], self.eps_empty[index], scenes
        )

    def retained(self, rng: random.Random, count: int) -> Kept:
        """`count` random states of retained prompts."""
        index, self.retain_deck = _draw(rng, len(self.retain_t), count, self.retain_deck)
        prompts = [self.retain_prompts[i] for i in self.retain_prompt[index].tolist()]
        index = index.to(self.retain_z.device)
        return Kept(self.retain_z[index], self.retain_t[index], self.retain_eps[index], prompts)


def _draw(
    rng: random.Random, states: int, count: int, deck: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`count` indices of `states`, at random or from the deck, and the deck that is left.

    A used-up deck is shuffled anew.
    """
    if deck is None:
        return torch.tensor([rng.randrange(states) for _ in range(count)]), None
    while len(deck) < count:
        deck = torch.cat([deck, torch.tensor(rng.sample(range(states), states))])
    return deck[:count], deck[count:]


@dataclass
class FreshTrajectories:
    """What the papers' own code does: at every call the model IN TRAINING denoises from noise to a random
    time, guided.

    context: what to draw; steps: solver steps of a whole trajectory.
    """

    context: Context
    steps: int
    guidance: float

    @property
    def model(self) -> DiffusionModel:
        return self.context.model

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def about(self) -> dict[str, Any]:
        """Nothing: a saved state need not hold it."""
        return {}

    @torch.no_grad()
    def concept(self, rng: random.Random, count: int) -> States:
        """`count` states on one fresh guided trajectory each, stopped at the same random time."""
        scenes = self.context.scenes(rng, count)
        names = [rng.choice(self.context.names) for _ in scenes]
        prompts = [self.context.plain(name, scene) for name, scene in zip(names, scenes)]
        neutral = [self.context.aim(scene, name) for name, scene in zip(names, scenes)]
        z, t = self._walk(prompts, rng)
        with self.context.adapter.off():
            cond = Conditioning.cat([self.model.encode(prompts), self.model.encode(neutral)])
            eps_concept, eps_empty = self.model.predict_noise(
                torch.cat([z, z]), torch.cat([t, t]), cond
            ).chunk(2)
        return States(z, t, eps_concept, eps_empty, scenes)

    @torch.no_grad()
    def retained(self, rng: random.Random, count: int) -> Kept:
        """The same for retained prompts."""
        prompts = [rng.choice(self.context.retained) for _ in range(count)]
        z, t = self._walk(prompts, rng)
        with self.context.adapter.off():
            return Kept(z, t, self.model.predict_noise(z, t, self.model.encode(prompts)), prompts)

    def _walk(self, prompts: list[str], rng: random.Random) -> tuple[torch.Tensor, torch.Tensor]:
        solver, z = (
            self.model.scheduler(self.steps),
            self.model.noise([rng.randrange(2**31) for _ in prompts]),
        )
        cond, empty = self.model.encode(prompts), self.model.encode([""] * len(prompts))
        stop = rng.randrange(self.steps)
        for t in solver.timesteps[:stop]:
            z = solver.step(
                self.model.guided(z, t.expand(len(z)), cond, empty, self.guidance), t, z
            ).prev_sample
        return z, solver.timesteps[stop].expand(len(z)).to(self.model.device)
