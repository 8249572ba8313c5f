"""ESD's target (Gandikota et al., arXiv 2303.07345, eq. 7), which SAGE, EAP and AdvUnlearn share."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NegativeGuidance:
    """eta: how far beyond the empty prompt, away from the concept; 0 is the empty prompt's own prediction."""

    eta: float = 1.0

    def __call__(self, eps_c: torch.Tensor, eps_empty: torch.Tensor) -> torch.Tensor:
        """eps0("") - eta (eps0(c) - eps0("")); all [n, 4, h, w]."""
        return eps_empty - self.eta * (eps_c - eps_empty)
