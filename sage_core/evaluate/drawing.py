"""Draw an evaluation's prompts: from noise, or as edits of pictures that are there (img2img)."""

from __future__ import annotations

import torch

from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel, together
from ..diffusion.text import Conditioning

STEPS = 20
EDIT_SEED = 7_000  # further: an edit's noise is not the noise that its picture was drawn from


def draw(model: DiffusionModel, prompts: list[Prompt], originals: torch.Tensor | None = None) -> torch.Tensor:
    """Pictures [n, 3, H, W] in [-1, 1], in the order of the prompts.

    originals: the untouched model's pictures of the same prompts, [n, 3, H, W], which edits start from; None:
    the model is untouched, and its own are taken.
    """
    groups: dict[tuple, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault((prompt.strength, prompt.guidance), []).append(i)
    pictures: dict[int, torch.Tensor] = {}
    for strength, guidance in sorted(groups):  # strength 0, which is drawn from noise, comes first
        index = groups[strength, guidance]
        texts, seeds = [prompts[i].text for i in index], [prompts[i].seed for i in index]
        if strength == 0:
            drawn = model.generate(texts, seeds, STEPS, guidance)
        else:
            first = [prompts[i].edits for i in index]
            start = torch.stack([pictures[k] if originals is None else originals[k] for k in first])
            drawn = edit(model, start, texts, [s + EDIT_SEED for s in seeds], strength, STEPS, guidance)
        pictures |= dict(zip(index, drawn))
    return torch.stack([pictures[i] for i in range(len(prompts))])


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
    does (SDEdit, Meng et al., arXiv 2108.01073).

    strength: the share of the `steps` that is denoised again, in (0, 1]; 1 keeps next to nothing of them.
    """
    images, batch = [], together(model.pixels)
    for i in range(0, len(prompts), batch):
        part = slice(i, i + batch)
        cond = model.text.encode(model.text.tokenize(prompts[part], truncate=True))
        empty = Conditioning.cat([model.encode([""])] * len(cond))
        solver = model.scheduler(steps)
        begin = steps - min(steps, max(1, round(steps * strength)))
        times = solver.timesteps[begin:]
        solver.set_begin_index(begin)
        z0, noise = model.encode_images(pictures[part].to(model.device)), model.noise(seeds[part])
        z = solver.add_noise(z0, noise, times[:1].expand(len(z0)))
        images.append(model.decode(model.denoise(z, solver, times, cond, empty, guidance)))
    return torch.cat(images)
