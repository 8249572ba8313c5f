"""Adam of a search, in a saved run."""

from __future__ import annotations

import torch


def load_adam(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, tensors: dict[str, torch.Tensor]
) -> None:
    """Give Adam back what it knew of a parameter; nothing, where it had not stepped yet.

    It counts its steps on the CPU.
    """
    known = {
        k: v.clone().cpu() if k == "step" else v.clone()
        for k, v in tensors.items()
        if k in ("step", "exp_avg", "exp_avg_sq")
    }
    if known:
        optimizer.state[parameter] = known
