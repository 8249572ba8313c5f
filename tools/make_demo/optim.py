"""Muon for the matrices, AdamW for the rest: fewer steps to the same picture, which is what two cores can
afford.
"""

from __future__ import annotations

import torch


def orthogonalise(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrix by a quintic Newton-Schulz iteration (Jordan et al., "Muon", 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised per matrix; convolution kernels are flattened to [out, in * k * k]."""

    def __init__(self, params, lr: float = 0.012, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                buffer = state.setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad)
                update = p.grad.add(buffer, alpha=group["momentum"]).reshape(p.shape[0], -1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(orthogonalise(update).reshape(p.shape), alpha=-group["lr"] * scale)


def build_optimizers(modules, muon_lr: float, adam_lr: float, skip=("embedding", "conv_in", "conv_out")):
    """Muon on hidden matrices, AdamW on embeddings, first and last layers, biases and norms."""
    matrices, others = [], []
    for module in modules:
        for name, p in module.named_parameters():
            hidden = p.ndim >= 2 and not any(s in name for s in skip) and min(p.shape[0], p[0].numel()) > 4
            (matrices if hidden else others).append(p)
    return [
        Muon(matrices, lr=muon_lr),
        torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.97), weight_decay=0.01),
    ]


class Schedule:
    """Warm-up, flat, then linearly to zero; every optimiser keeps its own peak rate."""

    def __init__(self, optimizers, total: float, warmup: float = 0.02, flat: float = 0.4):
        self.total, self.warmup, self.flat = total, warmup, flat
        self.peaks = [(group, group["lr"]) for opt in optimizers for group in opt.param_groups]

    def __call__(self, done: float) -> float:
        """`done`: progress in the units of `total` (seconds or steps); returns the factor applied."""
        x = done / self.total
        factor = x / self.warmup if x < self.warmup else min(1.0, (1 - x) / (1 - self.flat))
        factor = max(0.0, min(1.0, factor + 1e-3))
        for group, peak in self.peaks:
            group["lr"] = peak * factor
        return factor
