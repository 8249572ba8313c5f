"""What the guard is compared with: ways to keep a concept away that change the sampler and nothing else.

A peer takes the place of the model's classifier-free guidance while it is on. c is the prompt, s the concept:

Negative prompt: the concept where the empty prompt was,

    e = eps(z, s) + g (eps(z, c) - eps(z, s))

Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105, equations 3 to 8), elementwise:

    e     = eps(z, "") + g (eps(z, c) - eps(z, "") - gamma)      gamma only from step `warmup` on
    mu    = min(1, scale |eps(z, c) - eps(z, s)|)  where eps(z, c) - eps(z, s) < threshold, else 0
    gamma = mu (eps(z, s) - eps(z, "")) + momentum nu
    nu   <- beta nu + (1 - beta) gamma                           also while warming up

The paper's equation 6 has max(1, |phi|) for mu; min(1, .) is what its published code computes. Settings are
the paper's, for 50 steps: with any other number the warm-up is the same part of the noise schedule.
diffusers' copy has 20 as the scale of "weak" where the paper has 200.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..domain.pull import encoded

PUBLISHED_STEPS = 50
TIMES = 1000


class Peer(Protocol):
    """Guided noise in place of the model's own; the arguments are those of DiffusionModel.guided."""

    def __call__(
        self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning, empty: Conditioning, guidance: float
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class Safety:
    """Settings of Safe Latent Diffusion under the paper's names: delta, s_S, lambda, s_m and beta_m."""

    warmup: int
    scale: float
    threshold: float
    momentum: float
    beta: float


SETTINGS = {
    "weak": Safety(15, 200.0, 0.0, 0.0, 0.0),
    "medium": Safety(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": Safety(7, 2000.0, 0.025, 0.5, 0.7),
    "max": Safety(0, 5000.0, 1.0, 0.5, 0.7),
}
NEGATIVE = "negative"
PEERS = (NEGATIVE, *(f"sld-{name}" for name in SETTINGS))


class NegativePrompt:
    """The concept as the negative prompt: no more passes than without."""

    def __init__(self, model: DiffusionModel, concept: str):
        self.guided = model.guided
        with torch.no_grad():
            self.concept = encoded(model, [concept])

    def __call__(self, z, t, cond, empty, guidance) -> torch.Tensor:
        return self.guided(z, t, cond, Conditioning.cat([self.concept] * len(z)), guidance)


class SafeLatentDiffusion:
    """One pass a step more than without. Its momentum begins anew with every run of the sampler."""

    def __init__(self, model: DiffusionModel, concept: str, settings: Safety):
        self.model, self.settings = model, settings
        with torch.no_grad():
            self.concept = encoded(model, [concept])
        self.nu, self.last = None, -1

    def __call__(self, z, t, cond, empty, guidance) -> torch.Tensor:
        conds = Conditioning.cat([cond, empty, *[self.concept] * len(z)])
        predicted = self.model.predict_noise(z.repeat(3, 1, 1, 1), t.repeat(3), conds)
        asked, base, unsafe = predicted.chunk(3)
        now = int(t[0])
        if self.nu is None or now >= self.last:  # times fall in a run, so this is another one
            self.nu = torch.zeros_like(z)
        self.last = now
        gamma, self.nu = safety(asked, base, unsafe, self.nu, self.settings)
        if now >= TIMES * (1 - self.settings.warmup / PUBLISHED_STEPS):
            gamma = torch.zeros_like(gamma)
        return base + guidance * (asked - base - gamma)


def safety(
    asked: torch.Tensor, base: torch.Tensor, unsafe: torch.Tensor, nu: torch.Tensor, settings: Safety
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gamma, the momentum after this step). asked, base, unsafe: predictions for the prompt, the empty one
    and the concept, [n, 4, h, w].
    """
    apart = asked - unsafe
    mu = torch.where(apart < settings.threshold, (settings.scale * apart.abs()).clamp(max=1.0), 0.0)
    gamma = mu * (unsafe - base) + settings.momentum * nu
    return gamma, settings.beta * nu + (1 - settings.beta) * gamma


def make_peer(name: str, model: DiffusionModel, concept: str) -> Peer:
    """By its name in PEERS."""
    if name == NEGATIVE:
        return NegativePrompt(model, concept)
    return SafeLatentDiffusion(model, concept, SETTINGS[name.removeprefix("sld-")])


@contextlib.contextmanager
def drawn_by(model: DiffusionModel, peer: Peer) -> Iterator[None]:
    """The model draws with the peer's guidance in the meantime."""
    model.guided = peer  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.guided  # the class's own again
