"""The embedding that the erased model still reads as the concept, in closed form (RECE, arXiv 2407.12383).

The UNet reads a prompt through the K and V of its cross-attention alone. With W the untouched matrices and W'
the erased ones, the states that W' reads as W reads the concept's states c solve a ridge regression:

    c' = argmin sum |W' c' - W c|^2 + l |c' - c|^2

The paper's penalty is l |c'|^2. Here it is the distance to c, so that with equal matrices c' = c for every l.
No UNet pass is needed. The text encoder is the untouched one, which an attacker has: erasing in the text
encoder alone is no hindrance here, and what is measured is the UNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.checkpointing import untouched
from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...lora.surfaces import linear_layers
from ...spec import ErasureSpec
from .base import Attempt, OnEvent, attack_images, concept_prompt


@dataclass(frozen=True)
class ClosedFormEmbedding:
    """ridges: l of the equation, relative to the mean eigenvalue of sum W'^T W'; one start each. The budget
    is one solution; it cannot be had for less.
    """

    name: str = "rece"
    ridges: tuple[float, ...] = (1e-4, 1e-2, 1.0)
    latents: int = 0
    title: ClassVar[str] = "an embedding in closed form"
    paper: ClassVar[str] = "RECE, Gong et al., arXiv 2407.12383"
    unit: ClassVar[str] = "solution"
    telling: ClassVar[bool] = True
    budgets: ClassVar[tuple[int, ...]] = (1,)

    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """Pictures of c' for every ridge; `loss`: sum |W' c' - W c|^2 relative to sum |W c|^2."""
        with torch.no_grad(), untouched():
            cond = model.encode([concept_prompt(model, spec)])
        read = moments(model)
        for ridge in self.ridges:
            states, left = still_means(read, cond.hidden[0], ridge)
            found = Conditioning(states[None].to(cond.hidden), cond.pooled)
            yield Attempt(1, attack_images(model, found, images, seed), f"ridge {ridge:g}", left)


@torch.no_grad()
def matrices(model: DiffusionModel) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(W, W') of every K and V of the cross-attention, [out, width] in float64: untouched, and as it is."""
    for name, layer in linear_layers(model).items():
        if name.startswith("lora_unet_") and name.endswith(model.family.readers):
            # The rows of the unit matrix through the layer, so that every hook on it has its say.
            unit = torch.eye(layer.in_features, device=model.device, dtype=model.dtype)
            with untouched():
                before = layer(unit).T.cpu().double()
            yield before, layer(unit).T.cpu().double()


@dataclass(frozen=True)
class Moments:
    """Sums over all K and V, [width, width]: of W'^T W', W'^T W and W^T W. A large model's matrices
    themselves would fill the memory.
    """

    erased: torch.Tensor
    both: torch.Tensor
    untouched: torch.Tensor


def moments(model: DiffusionModel) -> Moments:
    """Of the model as it is against the untouched one."""
    erased: torch.Tensor | float = 0.0
    both: torch.Tensor | float = 0.0
    own: torch.Tensor | float = 0.0
    for before, after in matrices(model):
        erased, both, own = erased + after.T @ after, both + after.T @ before, own + before.T @ before
    return Moments(torch.as_tensor(erased), torch.as_tensor(both), torch.as_tensor(own))


def still_means(read: Moments, concept: torch.Tensor, ridge: float) -> tuple[torch.Tensor, float]:
    """c' [n, width] of states c [n, width], and the share of the squared readings that it misses.

    (sum W'^T W' + l I) c' = (sum W'^T W + l I) c.
    """
    c = concept.detach().cpu().double()
    width = c.shape[1]
    penalty = ridge * read.erased.trace() / width * torch.eye(width, dtype=c.dtype)
    found = torch.linalg.solve(read.erased + penalty, (read.both + penalty) @ c.T).T
    whole = (c @ read.untouched * c).sum()
    missed = (found @ read.erased * found).sum() - 2 * (found @ read.both * c).sum() + whole
    return found, float(missed.clamp_min(0) / whole.clamp_min(1e-30))
