"""The latent bank of a run: which prompts are walked, and the walk."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..errors import SageError
from ..methods.context import Context
from ..methods.method import Training
from ..progress import Event
from .latents import LatentBank

WALKED_TOGETHER = 16  # trajectories in one UNet batch


def latent_bank(
    context: Context, training: Training, rng: random.Random, on_event: Callable[[Event], None]
) -> LatentBank:
    """The bank of this run: the erased names in turn, and retained prompts, each once where possible."""
    # A short run does not draw more stops than its steps can use.
    useful = math.ceil(training.steps * training.erase_batch / training.solver_steps)
    wanted = training.trajectories
    if wanted:
        wanted = max(wanted, len(context.given))  # every name is seen; found ones pull as the concept does
    scenes = context.scenes(rng, min(wanted, useful))
    concept, neutral, aims = [], [], []
    for i, scene in enumerate(scenes):
        name = context.given[i % len(context.given)]
        concept.append(context.plain(name, scene))
        neutral.append(context.neutral(scene, name))
        aims.append(context.aim(scene, name))
    retained = min(training.retain_trajectories, 4 * useful)
    words = retained_bank_words(context, rng, retained, training.adjacent)
    retain = context.retained_prompts(rng, rng.sample(words, len(words)), scenes)
    seeds = [rng.randrange(2**31) for _ in range(len(concept) + len(retain))]
    with context.adapter.off():
        return build_bank(
            context.model,
            concept,
            retain,
            seeds,
            training.solver_steps,
            training.guidance,
            lambda done, total: on_event(Event("bank", done, total)),
            neutral_prompts=neutral,
            aims=aims if context.becomes else None,
            scenes=scenes,
            dealt=training.dealt,
        )


def further_bank(context: Context, training: Training, rng: random.Random, scenes: list[str]) -> LatentBank:
    """States of the concept in these scenes, a trajectory each, and as many of other words in them (of a
    style: of the same things without it).
    """
    name = context.given[0]
    shown: list[str | None] = list(scenes)
    words = scenes if context.style else rng.sample(context.retained, 2 * len(scenes))
    others = context.retained_prompts(rng, words, shown)
    seeds = [rng.randrange(2**31) for _ in range(2 * len(scenes))]
    with context.adapter.off():
        return build_bank(
            context.model,
            [context.plain(name, scene) for scene in scenes],
            others[: len(scenes)],
            seeds,
            training.solver_steps,
            training.guidance,
            neutral_prompts=[context.neutral(scene, name) for scene in scenes],
            aims=[context.aim(scene, name) for scene in scenes] if context.becomes else None,
            scenes=shown,
        )


def retained_bank_words(context: Context, rng: random.Random, count: int, adjacent: float) -> list[str]:
    """Words for the retained trajectories.

    A share of them is adjacent to the concept, where erasing does its damage (FADE, arXiv 2503.19783). The
    others are drawn from all.
    """
    close = context.nearest() if adjacent else []
    words = rng.sample(close, min(len(close), round(adjacent * count)))
    rest = [w for w in context.retained if w not in words] or words
    drawn: list[str] = []
    for _ in range(1 + count // len(rest)):
        drawn += rng.sample(rest, len(rest))
    return [*words, *drawn][:count]


@torch.no_grad()
def build_bank(
    model: DiffusionModel,
    concept_prompts: list[str],
    retain_prompts: list[str],
    seeds: list[int],
    solver_steps: int,
    guidance: float,
    on_state: Callable[[int, int], None] = lambda done, total: None,
    batch: int = WALKED_TOGETHER,
    neutral_prompts: list[str] | None = None,
    aims: list[str] | None = None,
    scenes: list[str | None] | None = None,
    dealt: bool = False,
) -> LatentBank:
    """Walk one trajectory for each prompt with the frozen model (call it with every adapter off).

    A concept's trajectory is guided away from its neutral prompt (the empty one); a retained one is not.

    Args:
        seeds: one for each trajectory, concepts first.
        on_state: called with (states done, states in all).
        batch: trajectories in one UNet batch.
        aims: what each concept prompt becomes, where that is not its neutral prompt.
        scenes: what each concept prompt has beside the concept.
        dealt: see LatentBank.
    """
    n = len(concept_prompts)
    walk = Walk(model, solver_steps, guidance, batch, solver_steps * len(seeds), on_state)
    erase = walk.all(concept_prompts, seeds[:n], neutral_prompts or [""] * n, aims)
    retain = walk.all(retain_prompts, seeds[n:], None)
    if not all(torch.isfinite(part).all() for part in (*erase, *retain)):
        raise SageError(
            "The untouched model predicts NaN or infinite noise in"
            f" {str(model.dtype).removeprefix('torch.')}; load it in a wider precision (--precision bf16 or"
            " fp32), or use another checkpoint."
        )
    erase_z, erase_t, eps_concept, eps_empty = erase
    retain_z, retain_t, retain_eps, _ = retain
    empty = torch.zeros(0, dtype=torch.long)
    return LatentBank(
        erase_z,
        erase_t,
        eps_concept,
        eps_empty,
        retain_z,
        retain_t,
        retain_eps,
        walk.order(n),
        walk.order(len(retain_prompts)),
        scenes or [None] * n,
        retain_prompts,
        erase_deck=empty if dealt else None,
        retain_deck=empty if dealt else None,
    )


class Walk:
    """Trajectories through a fast solver; every stop is kept."""

    def __init__(
        self,
        model: DiffusionModel,
        steps: int,
        guidance: float,
        batch: int,
        total: int,
        on_state: Callable[[int, int], None],
    ):
        self.model, self.steps, self.guidance, self.batch = model, steps, guidance, batch
        self.done, self.total, self.on_state = 0, total, on_state

    def all(
        self,
        prompts: list[str],
        seeds: list[int],
        neutral: list[str] | None,
        aims: list[str] | None = None,
    ) -> list[torch.Tensor]:
        """(z, t, eps0 of the prompt, eps0 of what it becomes) of every stop, one tensor each.

        neutral: what guidance leads away from; None for unguided trajectories. aims: what the prompts become;
        None: the neutral prompts.
        """
        if not prompts:  # nothing is erased or retained by its noise
            latents = torch.zeros(0, *self.model.latent_shape)
            return [latents, torch.zeros(0, dtype=torch.long), latents, latents]
        chunks = []
        for i in range(0, len(prompts), self.batch):
            part = slice(i, i + self.batch)
            chunks.append(
                self._together(
                    prompts[part],
                    seeds[part],
                    None if neutral is None else neutral[part],
                    None if aims is None else aims[part],
                )
            )
        return [torch.cat(column) for column in zip(*chunks)]

    def _together(
        self, prompts: list[str], seeds: list[int], neutral: list[str] | None, aims: list[str] | None
    ) -> list[torch.Tensor]:
        model = self.model
        cond = model.encode(prompts)
        both = cond if neutral is None else Conditioning.cat([cond, model.encode(neutral)])
        aim = None if aims is None else model.encode(aims)
        solver, z = model.scheduler(self.steps), model.noise(seeds)
        stops = []
        for t in solver.timesteps:
            ts = t.expand(len(z)).to(model.device)
            if neutral is None:
                eps = eps_own = eps_neutral = model.predict_noise(z, ts, cond)
            else:
                predicted = model.predict_noise(torch.cat([z, z]), torch.cat([ts, ts]), both)
                eps_own, eps_neutral = predicted.chunk(2)
                eps = eps_neutral + self.guidance * (eps_own - eps_neutral)
            eps_aim = eps_neutral if aim is None else model.predict_noise(z, ts, aim)
            stops.append((z, ts, eps_own, eps_aim))
            z = solver.step(eps, t, z).prev_sample
            self.done += len(z)
            self.on_state(self.done, self.total)
        return [torch.cat(column) for column in zip(*stops)]

    def order(self, count: int) -> torch.Tensor:
        """Of which trajectory each state is, for `count` trajectories; [states]."""
        rows: list[int] = []
        for first in range(0, count, self.batch):
            together = list(range(first, min(first + self.batch, count)))
            rows += together * self.steps
        return torch.tensor(rows, dtype=torch.long)
