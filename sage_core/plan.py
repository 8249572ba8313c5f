"""How an erasure fits into the memory that is there: the frozen weights' precision, what is kept for the backward pass, the batch.

The cheapest way that fits is taken: everything kept; then only what goes into each block (gradient checkpointing, a third more
time); then one sample at a time as well. Where nothing fits, it is said with numbers before anything is begun.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .diffusion.checkpointing import checkpoint_blocks
from .diffusion.model import DiffusionModel
from .errors import SageError
from .memory import step_bytes, weights_bytes
from .methods import METHODS
from .spec import ErasureSpec

WAYS = ((False, None), (True, None), (True, 1))  # (checkpointing, samples at once), quickest first
SPARE = 0.9  # so much of the free memory is planned with; the allocator's gaps take some


@dataclass(frozen=True)
class Plan:
    """dtype: of the frozen weights; at_once: samples in a UNet pass, None: all of a step; weights, step, free: bytes."""

    dtype: torch.dtype
    checkpointing: bool
    at_once: int | None
    weights: int
    step: int
    free: int | None

    @property
    def peak(self) -> int:
        return self.weights + self.step

    def apply(self, model: DiffusionModel) -> None:
        checkpoint_blocks(model.unet, self.checkpointing)
        model.at_once = self.at_once

    def __str__(self) -> str:
        how = ", blocks computed twice to save memory" if self.checkpointing else ""
        how += "" if self.at_once is None else f", {self.at_once} sample at a time"
        room = "" if self.free is None else f" of {gigabytes(self.free)} free"
        return f"{str(self.dtype).removeprefix('torch.')} weights {gigabytes(self.weights)}, a step {gigabytes(self.step)}{how}: {gigabytes(self.peak)}{room}"


def gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB"


def free_bytes(device: torch.device) -> int | None:
    """Memory that may be taken on a device; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(1024 * int(line.split()[1]) for line in f if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def make_plan(model: DiffusionModel, spec: ErasureSpec, dtype: torch.dtype, free: int | None, loaded: int = 0) -> Plan:
    """The quickest way of training that fits into `free` bytes, beside the weights of which `loaded` bytes are there already.

    Raises SageError, with the numbers, where none does.
    """
    spec, method = spec.resolved(), METHODS[spec.method]
    training = method.published if spec.faithful else method.training
    weights = weights_bytes([model.unet, *model.text.encoders], dtype)
    for checkpointing, at_once in WAYS:
        plan = Plan(dtype, checkpointing, at_once, weights, step_bytes(model, spec, training, dtype, checkpointing, at_once), free)
        if free is None or plan.peak - loaded <= SPARE * free:
            return plan
    raise SageError(f"Erasing takes {gigabytes(plan.peak)} of memory at least ({plan}); "
                    f"free more, or train at a smaller resolution than {spec.resolution or model.pixels}.")
