"""A search through the UNet, which AdvUnlearn and Receler share: find what makes the erased model draw the
concept again.

minimise over delta  | eps(z_t, h(delta)) - eps0(z_t, T0(c)) |^2
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch

from ...diffusion.text import Conditioning
from ..context import Context


def search(
    context: Context,
    rng: random.Random,
    free: torch.Tensor,
    conditioning: Callable[[], Conditioning],
    optimizer: torch.optim.Optimizer,
    steps: int,
    same_state: bool,
) -> None:
    """Move `free` by `steps` steps of `optimizer`; `conditioning` builds one row from it.

    `same_state`: one noisy latent for all steps instead of a new one each (Receler walks one trajectory a
    cycle, AdvUnlearn one a step).
    """
    states = context.source.concept(rng, 1)
    for step in range(steps):
        if step and not same_state:
            states = context.source.concept(rng, 1)
        eps = context.model.predict_noise(states.z, states.t, conditioning())
        loss = (eps - states.eps_concept).square().mean()
        free.grad = torch.autograd.grad(loss, free)[0]
        optimizer.step()
