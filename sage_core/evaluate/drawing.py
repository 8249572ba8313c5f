"""Draw an evaluation's prompts: from noise, or as edits of pictures that are there (img2img, inpainting)."""

from __future__ import annotations

import dataclasses

import torch

from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel, together
from ..diffusion.text import Conditioning
from ..diffusion.weighting import encode_weighted

STEPS = 20
EDIT_SEED = 7_000  # further: an edit's noise is not the noise that its picture was drawn from


def draw(model: DiffusionModel, prompts: list[Prompt], originals: torch.Tensor | None = None) -> torch.Tensor:
    """Pictures [n, 3, H, W] in [-1, 1], in the order of the prompts. Prompts that differ only in what is
    asked of their pictures share one.

    originals: the untouched model's pictures of the same prompts, [n, 3, H, W], which edits start from; None:
    the model is untouched, and its own are taken.
    """
    firsts: dict[Prompt, int] = {}
    first_of = [firsts.setdefault(_as_drawn(prompt), i) for i, prompt in enumerate(prompts)]
    groups: dict[tuple, list[int]] = {}
    for i in firsts.values():
        prompt = prompts[i]
        way = (prompt.strength, prompt.guidance, prompt.hole, prompt.weighted)
        groups.setdefault(way, []).append(i)
    pictures: dict[int, torch.Tensor] = {}
    for way in sorted(groups):  # strength 0, which is drawn from noise, comes first
        index, (strength, guidance, hole, weighted) = groups[way], way
        texts, seeds = [prompts[i].text for i in index], [prompts[i].seed for i in index]
        if strength == 0:
            drawn = _from_noise(model, texts, seeds, guidance, weighted)
        else:
            sources = [prompts[i].edits for i in index]
            start = torch.stack([pictures[k] if originals is None else originals[k] for k in sources])
            seeds = [seed + EDIT_SEED for seed in seeds]
            if hole:
                drawn = inpaint(model, start, texts, seeds, hole, STEPS, guidance)
            else:
                drawn = edit(model, start, texts, seeds, strength, STEPS, guidance)
        pictures |= dict(zip(index, drawn))
    return torch.stack([pictures[i] for i in first_of])


def _as_drawn(prompt: Prompt) -> Prompt:
    """A prompt without what is asked of its picture."""
    return dataclasses.replace(prompt, cell="", expected="", thing="")


def _from_noise(
    model: DiffusionModel, texts: list[str], seeds: list[int], guidance: float, weighted: bool
) -> torch.Tensor:
    if not weighted:
        return model.generate(texts, seeds, STEPS, guidance)
    images, batch = [], together(model.pixels)
    for i in range(0, len(texts), batch):
        cond = encode_weighted(model.text, texts[i : i + batch])
        images.append(model.decode(model.sample(cond, seeds[i : i + batch], STEPS, guidance)))
    return torch.cat(images)


@torch.no_grad()
def edit(
    model: DiffusionModel,
    pictures: torch.Tensor,
    prompts: list[str],
    seeds: list[int],
    strength: float,
    steps: int = STEPS,
    guidance: float = 5.0,
) -> torch.Tensor:
    """Pictures [n, 3, H, W] in [-1, 1] drawn again from their latents with noise on them, as hosts' img2img
    does (SDEdit, Meng et al., arXiv 2108.01073). Under a guard, nothing stays of a picture that shows what it
    keeps away: its prompt is drawn from noise.

    strength: the share of the `steps` that is denoised again, in (0, 1]; 1 keeps next to nothing of them.
    """
    images, batch = [], together(model.pixels)
    for i in range(0, len(prompts), batch):
        part = slice(i, i + batch)
        cond, empty = _conditionings(model, prompts[part])
        z0, noise = model.encode_images(pictures[part].to(model.device)), model.noise(seeds[part])
        shown = [False] * len(z0) if model.guard is None else model.guard.shows(z0).tolist()
        stay, go = ([row for row, s in enumerate(shown) if s == which] for which in (False, True))
        drawn = torch.empty_like(noise)
        if stay:
            solver = model.scheduler(steps)
            begin = steps - min(steps, max(1, round(steps * strength)))
            times = solver.timesteps[begin:]
            solver.set_begin_index(begin)
            z = solver.add_noise(z0[stay], noise[stay], times[:1].expand(len(stay)))
            drawn[stay] = model.denoise(z, solver, times, cond[stay], empty[stay], guidance)
        if go:
            drawn[go] = model.sample(cond[go], [seeds[i + row] for row in go], steps, guidance, empty[go])
        images.append(model.decode(drawn))
    return torch.cat(images)


@torch.no_grad()
def inpaint(
    model: DiffusionModel,
    pictures: torch.Tensor,
    prompts: list[str],
    seeds: list[int],
    hole: float,
    steps: int = STEPS,
    guidance: float = 5.0,
) -> torch.Tensor:
    """Pictures [n, 3, H, W] in [-1, 1] of which the middle is drawn anew from pure noise, by a UNet of four
    channels: after each step the outside is the picture's latents again, with that step's noise on them, and
    at the end without (RePaint, Lugmayr et al., arXiv 2201.09865, but without its resampling).

    hole: share of the side, in (0, 1]; see `middle`.
    """
    images, batch = [], together(model.pixels)
    inside = middle(model.latent_shape[1:], hole).to(model.device)
    for i in range(0, len(prompts), batch):
        part = slice(i, i + batch)
        cond, empty = _conditionings(model, prompts[part])
        solver = model.scheduler(steps)
        z0, noise = model.encode_images(pictures[part].to(model.device)), model.noise(seeds[part])

        def outside(number: int, solver=solver, z0=z0, noise=noise) -> torch.Tensor:
            """The picture's latents, as noisy as the step with that number takes them."""
            if number == steps:
                return z0
            return solver.add_noise(z0, noise, solver.timesteps[number : number + 1].expand(len(z0)))

        def keep(z: torch.Tensor, number: int, outside=outside) -> torch.Tensor:
            return torch.where(inside, z, outside(number + 1))

        z = torch.where(inside, noise, outside(0))
        images.append(model.decode(model.denoise(z, solver, solver.timesteps, cond, empty, guidance, keep)))
    return torch.cat(images)


def middle(shape: tuple[int, ...], share: float) -> torch.Tensor:
    """A mask [h, w] that is true in the middle: a square of that share of the side, as near to it as it can
    be in the centre, and never empty.
    """
    mask = torch.zeros(shape, dtype=torch.bool)
    edges = [min((side - 1) // 2, round(side * (1 - share) / 2)) for side in shape]
    mask[edges[0] : shape[0] - edges[0], edges[1] : shape[1] - edges[1]] = True
    return mask


def _conditionings(model: DiffusionModel, prompts: list[str]) -> tuple[Conditioning, Conditioning]:
    """Of the prompts, and of as many empty ones."""
    cond = model.text.encode(model.text.tokenize(prompts, truncate=True))
    return cond, Conditioning.cat([model.encode([""])] * len(cond))
