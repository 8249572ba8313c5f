"""Whether a picture shows a concept, by the model's own predictions.

With noise n on a picture's clean latents, the state z and the untouched model's predictions of n say

    share = < n - eps0(z, ""), pull > / |pull|^2,    pull = eps0(z, concept) - eps0(z, "")

A model that predicts the mean of the noise gives 1 in the mean over pictures of the concept and 0 over all
pictures, whatever the model and the concept. Above 1/2, the noise is predicted better with the concept's name
than without any, which is the rule of the Diffusion Classifier (Li et al., arXiv 2303.16203).
"""

from __future__ import annotations

from collections.abc import Callable

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
    pull = toward - base
    return dot(truth - base, pull) / dot(pull, pull).clamp_min(1e-12)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of every picture; [n], float32."""
    return (a.float() * b.float()).flatten(1).sum(1)


def shown(z0: torch.Tensor, shares: Callable[[int, torch.Tensor], list[torch.Tensor]]) -> torch.Tensor:
    """Which of the pictures show one of the concepts; [n], bool.

    Args:
        z0: their clean latents, [n, 4, h, w].
        shares: of each concept [n], from one of TIMES and the noise of its state, [1, 4, h, w].
    """
    total = torch.zeros((), device=z0.device)
    for place, time in enumerate(TIMES):
        draw = torch.Generator().manual_seed(SEED + place)  # the same noise for every picture
        noise = torch.randn(1, *z0.shape[1:], generator=draw).to(z0)
        total = total + torch.stack(shares(time, noise))
    return (total / len(TIMES) > SHOWN).any(0)
