"""The embedding that the erased model still reads as the concept, in closed form (RECE, arXiv 2407.12383).

The UNet reads a prompt through the K and V of its cross-attention alone. With W the untouched matrices and W'
the erased ones, the states that W' reads as W reads the concept's states c solve a ridge regression (eq. 8 of
the paper):

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

from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...lora.surfaces import linear_layers
from ...spec import ErasureSpec
from ..judge import untouched
from .base import Attempt, OnEvent, attack_images, concept_prompt

READ_BY = ("attn2_to_k", "attn2_to_v")


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
    unit: ClassVar[str] = "solutions"
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
        pairs = matrices(model)
        for ridge in self.ridges:
            states, left = still_means(pairs, cond.hidden[0], ridge)
            found = Conditioning(states[None].to(cond.hidden), cond.pooled)
            yield Attempt(1, attack_images(model, found, images, seed), f"ridge {ridge:g}", left)


@torch.no_grad()
def matrices(model: DiffusionModel) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(W, W') of every K and V of the cross-attention, [out, width] in float64: untouched, and as it is."""
    pairs = []
    for name, layer in linear_layers(model).items():
        if name.startswith("lora_unet_") and name.endswith(READ_BY):
            # The rows of the unit matrix through the layer, so that every hook on it has its say.
            unit = torch.eye(layer.in_features, device=model.device, dtype=model.dtype)
            with untouched():
                before = layer(unit).T.cpu().double()
            pairs.append((before, layer(unit).T.cpu().double()))
    return pairs


def still_means(
    pairs: list[tuple[torch.Tensor, torch.Tensor]], concept: torch.Tensor, ridge: float
) -> tuple[torch.Tensor, float]:
    """c' [n, width] of states c [n, width], and the share of the squared readings that it misses.

    (sum W'^T W' + l I) c' = sum W'^T W c + l c.
    """
    c = concept.detach().cpu().double()
    width = c.shape[1]
    left, right = c.new_zeros(width, width), c.new_zeros(width, width)
    for before, after in pairs:
        left += after.T @ after
        right += after.T @ before
    weight = ridge * left.trace() / width
    eye = torch.eye(width, dtype=c.dtype)
    found = torch.linalg.solve(left + weight * eye, (right + weight * eye) @ c.T).T
    missed = whole = 0.0
    for before, after in pairs:
        missed += float((after @ found.T - before @ c.T).square().sum())
        whole += float((before @ c.T).square().sum())
    return found, missed / max(whole, 1e-30)
