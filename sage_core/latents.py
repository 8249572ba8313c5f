"""The latent bank: noisy latents along a few trajectories, with the frozen predictions that were made to walk them.

Reference implementations sample a fresh trajectory at every training step (50 UNet passes of 55 in ESD). Here a few are
walked once with a fast solver. Every stop gives a training state (z_t, t), and the predictions eps0(z_t, c) and
eps0(z_t, "") that guidance needed anyway are the erasing target: they cost nothing more and are never computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .diffusion.model import DiffusionModel
from .diffusion.text import Conditioning


@dataclass
class Rows:
    """Samples for the UNet batch of a step: predict noise in `z` at `t` under `cond`, compare with `target`."""

    z: torch.Tensor
    t: torch.Tensor
    cond: Conditioning
    target: torch.Tensor
    weight: float


@dataclass
class LatentBank:
    """Erasing states (z, t, eps0 of the concept, eps0 of the empty prompt) and retained ones (z, t, prompt, eps0)."""

    erase_z: torch.Tensor
    erase_t: torch.Tensor
    eps_concept: torch.Tensor
    eps_empty: torch.Tensor
    retain_z: torch.Tensor
    retain_t: torch.Tensor
    retain_eps: torch.Tensor
    retain_prompt: torch.Tensor  # index into retain_prompts
    retain_prompts: list[str]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {k: v for k, v in self.__dict__.items() if isinstance(v, torch.Tensor)}


@torch.no_grad()
def build_bank(model: DiffusionModel, concept_prompts: list[str], retain_prompts: list[str], seeds: list[int], solver_steps: int,
               guidance: float, on_state=lambda done, total: None, batch: int = 16) -> LatentBank:
    """Walk one guided trajectory per concept prompt and one unguided per retained prompt with the frozen model.

    `seeds`: one per trajectory, concepts first. Call it with every adapter off. `on_state` hears of progress.
    """
    total = solver_steps * (len(concept_prompts) + len(retain_prompts))
    done = 0

    def walk(prompts: list[str], own_seeds: list[int], guided: bool) -> list[torch.Tensor]:
        nonlocal done
        cond, empty = model.encode(prompts), Conditioning.cat([model.encode([""])] * len(prompts))
        solver, z = model.scheduler(solver_steps), model.noise(own_seeds)
        stops = []
        for t in solver.timesteps:
            ts = t.expand(len(z)).to(model.device)
            if guided:
                eps_c, eps_empty = model.predict_noise(torch.cat([z, z]), torch.cat([ts, ts]), Conditioning.cat([cond, empty])).chunk(2)
                eps = eps_empty + guidance * (eps_c - eps_empty)
            else:
                eps = eps_c = eps_empty = model.predict_noise(z, ts, cond)
            stops.append((z, ts, eps_c, eps_empty))
            z = solver.step(eps, t, z).prev_sample
            done += len(z)
            on_state(done, total)
        return [torch.cat(column) for column in zip(*stops)]

    def walk_all(prompts: list[str], own_seeds: list[int], guided: bool) -> list[torch.Tensor]:
        chunks = [walk(prompts[i : i + batch], own_seeds[i : i + batch], guided) for i in range(0, len(prompts), batch)]
        return [torch.cat(column) for column in zip(*chunks)]

    erase = walk_all(concept_prompts, seeds[: len(concept_prompts)], guided=True)
    retain = walk_all(retain_prompts, seeds[len(concept_prompts) :], guided=False)
    order = [i + j for i in range(0, len(retain_prompts), batch) for _ in range(solver_steps) for j in range(len(retain_prompts[i : i + batch]))]
    return LatentBank(*erase, retain[0], retain[1], retain[2], torch.tensor(order), retain_prompts)
