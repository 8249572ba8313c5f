"""Where noisy latents come from: a bank walked once, or, as the papers' own code has it, a fresh trajectory
at every step.

Reference implementations sample a trajectory at every training step (50 UNet passes of 55 in ESD). The bank
walks a few of them once with a fast solver. Every stop gives a training state (z_t, t), and the predictions
eps0(z_t, c) and eps0(z_t, "") that guidance needed anyway are the erasing target: they cost nothing more and
are never computed again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..errors import SageError
from ..methods.states import Kept, States


@dataclass
class LatentBank:
    """Erasing states (z, t, eps0 of the concept, eps0 of the empty prompt) and retained ones (z, t, prompt,
    eps0).

    erase_deck, retain_deck: where they are given, states are dealt like cards, every one of them before any
    comes again; these are the indices that are still to come, on the CPU. A short run sees each state once or
    twice, and leaves less to chance so.
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
    ON_CPU: ClassVar[frozenset[str]] = frozenset(
        {"erase_scene", "retain_prompt", "erase_deck", "retain_deck"}
    )  # indices that draw

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
    """`count` of so many states, at random or from the deck, and the deck that is left; a used-up one is
    shuffled anew.
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

    context: object
    steps: int
    guidance: float

    @property
    def model(self) -> DiffusionModel:
        return self.context.model

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    @torch.no_grad()
    def concept(self, rng: random.Random, count: int) -> States:
        """`count` states on one fresh guided trajectory each, stopped at the same random time."""
        scenes = self.context.scenes(rng, count)
        names = [rng.choice(self.context.names) for _ in scenes]
        prompts = [self.context.plain(name, scene) for name, scene in zip(names, scenes)]
        neutral = [self.context.neutral(scene, name) for name, scene in zip(names, scenes)]
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


@torch.no_grad()
def build_bank(
    model: DiffusionModel,
    concept_prompts: list[str],
    retain_prompts: list[str],
    seeds: list[int],
    solver_steps: int,
    guidance: float,
    on_state: Callable[[int, int], None] = lambda done, total: None,
    batch: int = 16,
    neutral_prompts: list[str] | None = None,
    scenes: list[str | None] | None = None,
    dealt: bool = False,
) -> LatentBank:
    """Walk one trajectory per concept prompt, guided away from its neutral prompt (the empty one), and one
    unguided per retained prompt with the frozen model.

    `seeds`: one per trajectory, concepts first. `scenes`: what each concept prompt has beside the concept.
    `dealt`: see LatentBank. Call it with every adapter off. `on_state` hears of progress.
    """
    total = solver_steps * (len(concept_prompts) + len(retain_prompts))
    done = 0

    def walk(prompts: list[str], own_seeds: list[int], neutral: list[str] | None) -> list[torch.Tensor]:
        nonlocal done
        guided = neutral is not None
        cond, empty = model.encode(prompts), model.encode(neutral) if guided else None
        solver, z = model.scheduler(solver_steps), model.noise(own_seeds)
        stops = []
        for t in solver.timesteps:
            ts = t.expand(len(z)).to(model.device)
            if guided:
                eps_c, eps_empty = model.predict_noise(
                    torch.cat([z, z]), torch.cat([ts, ts]), Conditioning.cat([cond, empty])
                ).chunk(2)
                eps = eps_empty + guidance * (eps_c - eps_empty)
            else:
                eps = eps_c = eps_empty = model.predict_noise(z, ts, cond)
            stops.append((z, ts, eps_c, eps_empty))
            z = solver.step(eps, t, z).prev_sample
            done += len(z)
            on_state(done, total)
        return [torch.cat(column) for column in zip(*stops)]

    def walk_all(prompts: list[str], own_seeds: list[int], neutral: list[str] | None) -> list[torch.Tensor]:
        if not prompts:  # nothing is erased or retained by its noise
            return [
                torch.zeros(0, *model.latent_shape),
                torch.zeros(0, dtype=torch.long),
                *[torch.zeros(0, *model.latent_shape)] * 2,
            ]
        parts = [slice(i, i + batch) for i in range(0, len(prompts), batch)]
        chunks = [walk(prompts[p], own_seeds[p], neutral and neutral[p]) for p in parts]
        return [torch.cat(column) for column in zip(*chunks)]

    def order(count: int) -> torch.Tensor:
        """Which trajectory a state is of."""
        rows = [
            i + j
            for i in range(0, count, batch)
            for _ in range(solver_steps)
            for j in range(min(batch, count - i))
        ]
        return torch.tensor(rows, dtype=torch.long)

    n = len(concept_prompts)
    erase = walk_all(concept_prompts, seeds[:n], neutral_prompts or [""] * n)
    retain = walk_all(retain_prompts, seeds[n:], None)
    if not all(torch.isfinite(part).all() for part in (*erase, *retain)):
        raise SageError(
            "The untouched model predicts NaN or infinite noise in"
            f" {str(model.dtype).removeprefix('torch.')}; load it in a wider precision (--precision bf16 or"
            " fp32), or use another checkpoint."
        )
    decks = [torch.zeros(0, dtype=torch.long) for _ in range(2)] if dealt else []
    return LatentBank(
        *erase,
        *retain[:3],
        order(n),
        order(len(retain_prompts)),
        scenes or [None] * n,
        retain_prompts,
        *decks,
    )
