"""Whether a picture shows a concept, by the model's own predictions.

With noise n on a picture's clean latents, the state z and the untouched model's predictions of n say

    share = < n - eps0(z, ""), pull > / |pull|^2,    pull = eps0(z, concept) - eps0(z, "")

A model that predicts the mean of the noise gives 1 in the mean over pictures of the concept and 0 over all
pictures, whatever the model and the concept. Above 1/2, the noise is predicted better with the concept's name
than without any, which is the rule of the Diffusion Classifier (Li et al., arXiv 2303.16203).
"""

from __future__ import annotations

import torch

SHOWN = 0.5  # the share above which a picture shows the concept
TIMES = (300, 500, 700)  # of 1000: noise that hides details and leaves shapes
SEED = 45_000  # of the noise, away from those that pictures are drawn from


def share_of(truth: torch.Tensor, base: torch.Tensor, toward: torch.Tensor) -> torch.Tensor:
    """The share above of each picture at one state; [n].

    Noise or clean latents alike, since both are linear in each other.

    Args:
        truth: the noise in the state, or the picture's own latents; [n, 4, h, w].
        base, toward: predicted without and with the concept's name; [n, 4, h, w].
    """
    pull = (toward - base).float()
    along = ((truth - base).float() * pull).flatten(1).sum(1)
    return along / pull.square().flatten(1).sum(1).clamp_min(1e-12)


def noise_at(place: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Noise of the state at TIMES[place], [1, *shape], the same for every picture; on the CPU."""
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(SEED + place))
