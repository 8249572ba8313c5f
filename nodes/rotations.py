"""Rotations of positions that can be differentiated, in the place of ComfyUI's quick ones.

Turns are matrices [..., n, 2, 2]. A rotation turns pairs of channels by them: of neighbours, or of a channel
of the first half and its fellow in the second.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Pairs of neighbouring channels of x [..., 2 n], each turned by its matrix."""
    pairs = x.to(turns.dtype).unflatten(-1, (-1, 2)).unsqueeze(-2)
    return (turns * pairs).sum(-1).flatten(-2).to(x.dtype)


def rotated_halves(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The same of pairs that lie half of the channels apart."""
    pairs = x.to(turns.dtype).unflatten(-1, (2, -1)).movedim(-2, -1).unsqueeze(-2)
    return (turns * pairs).sum(-1).movedim(-1, -2).flatten(-2).to(x.dtype)


def both_rotated(q: torch.Tensor, k: torch.Tensor, turns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return rotated(q, turns), rotated(k, turns)


def both_rotated_halves(
    q: torch.Tensor, k: torch.Tensor, turns: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return rotated_halves(q, turns), rotated_halves(k, turns)


def normed(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), scale.to(x.dtype), epsilon)


def both_normed_and_rotated(q, k, turns, q_scale, k_scale=None, epsilon=1e-6):
    """Queries and keys divided by their root mean square, then rotated."""
    return (
        rotated(normed(q, q_scale, epsilon), turns),
        rotated(normed(k, q_scale if k_scale is None else k_scale, epsilon), turns),
    )


def both_normed_and_rotated_halves(q, k, turns, q_scale, k_scale=None, epsilon=1e-6, rot_dim=0):
    """The same in halves; rot_dim: only so many channels, the first, are rotated."""
    k_scale = q_scale if k_scale is None else k_scale
    return (
        _front_rotated(normed(q, q_scale, epsilon), turns, rot_dim),
        _front_rotated(normed(k, k_scale, epsilon), turns, rot_dim),
    )


def _front_rotated(x: torch.Tensor, turns: torch.Tensor, channels: int) -> torch.Tensor:
    if not channels:
        return rotated_halves(x, turns)
    return torch.cat([rotated_halves(x[..., :channels], turns), x[..., channels:]], -1)


def one_normed_and_rotated(x, turns, scale, epsilon=1e-6):
    return rotated(normed(x, scale, epsilon), turns)


# Under ComfyUI's own names for them.
QUICK = {
    "apply_rope": both_rotated,
    "apply_rope1": rotated,
    "apply_rope_split_half": both_rotated_halves,
    "apply_rope_split_half1": rotated_halves,
    "rms_rope": both_normed_and_rotated,
    "rms_rope1": one_normed_and_rotated,
    "rms_rope_split_half": both_normed_and_rotated_halves,
}
