"""The loop that trains both bundled models: rates by the clock, averaged weights, a log, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from .optim import Schedule

SAVE_EVERY = 300  # seconds


def descend(
    name: str,
    models: Sequence[torch.nn.Module],
    averages: Sequence[torch.nn.Module],
    optimizers: Sequence[torch.optim.Optimizer],
    seconds: float,
    samples: int,
    loss_of_batch: Callable[[], torch.Tensor],
    save: Callable[[float, int, bool], None],
    done: float = 0.0,
    step: int = 0,
) -> None:
    """Train `models` until `seconds` in all are spent; `averages` become the mean of their latest weights.

    name: in the log. samples: of a batch. loss_of_batch: of the next batch. save: called with the seconds and
    steps so far, and whether it is the end. done, step: what earlier runs spent.
    """
    schedule = Schedule(optimizers, seconds)
    live = [p for model in models for p in model.parameters()]
    averaged = [p for model in averages for p in model.parameters()]
    start, saved, mean, begun = time.time() - done, done, None, step
    while (elapsed := time.time() - start) < seconds:
        schedule(elapsed)
        loss = loss_of_batch()
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, live, 1 - min(0.998, (step + 1) / (step + 10)))
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        if step % 25 == 0:
            rate = (step - begun) * samples / max(elapsed - done, 1)
            print(f"{name} {elapsed:6.0f} s  step {step}  {rate:.0f} samples/s  loss {mean:.4f}", flush=True)
        if elapsed - saved > SAVE_EVERY:
            saved = elapsed
            save(elapsed, step, False)
    save(elapsed, step, True)
