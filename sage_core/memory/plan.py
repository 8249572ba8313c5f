"""How an erasure fits into the memory that is there: the weights' precision, what is kept, the batch.

The quickest way that fits is taken: keep everything for the backward pass; else keep only what goes into each
block (gradient checkpointing, a third more time); else also send one sample at a time through the UNet. Where
nothing fits, an error with the numbers comes before anything begins.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..cycle.result import Erasure
from ..cycle.run import erase
from ..diffusion.checkpointing import checkpoint_blocks
from ..diffusion.model import DiffusionModel
from ..errors import OutOfMemory, SageError, one_line
from ..methods.recipe import Recipe
from ..progress import Event
from .rehearsal import samples, skeleton, step_bytes, weights_bytes

# Cards whose float16 ends in NaN.
BROKEN_HALF = ["1660", "1650", "1630", "T500", "T550", "T600", "MX550", "MX450", "T2000", "T1000", "T1200"]
SPARE = 0.9  # share of the free memory that is planned with; a GPU's allocator leaves gaps
# On a CPU a step takes more than is alive in it: the heap keeps holes that nothing fits into
# (docs/real-checkpoints.md).
HEAP = 1.4


@dataclass(frozen=True)
class Plan:
    """One way to train.

    Args:
        dtype: of the frozen weights.
        checkpointing: compute blocks again in the backward pass instead of keeping what they need.
        at_once: samples in a UNet pass, at most.
        whole: whether that is all samples of a step.
        weights, step, free: bytes.
    """

    dtype: torch.dtype
    checkpointing: bool
    at_once: int
    whole: bool
    weights: int
    step: int
    free: int | None

    @property
    def peak(self) -> int:
        return self.weights + self.step

    @property
    def how(self) -> str:
        """The way, in words; empty where nothing is saved."""
        parts = []
        if self.checkpointing:
            parts.append("with blocks computed twice to save memory")
        if not self.whole:
            parts.append(f"with {self.at_once} sample at a time")
        return ", ".join(parts)

    def __str__(self) -> str:
        room = "" if self.free is None else f" of {gigabytes(self.free)} free"
        how = f" {self.how}" if self.how else ""
        return (
            f"{str(self.dtype).removeprefix('torch.')} weights {gigabytes(self.weights)}, a step"
            f" {gigabytes(self.step)}{how}: {gigabytes(self.peak)}{room}"
        )

    def fits(self, loaded: int = 0) -> bool:
        """Whether it fits into what is free; loaded: bytes of the weights that are in memory already."""
        return self.free is None or self.peak - loaded <= SPARE * self.free

    def set_up(self, model: DiffusionModel) -> None:
        """Have the model's passes take this way."""
        checkpoint_blocks(model.unet, self.checkpointing)
        model.at_once = self.at_once

    def smaller(self) -> Plan | None:
        """The next way, slower and with less memory (its bytes are not known); None after the last."""
        if not self.checkpointing:
            return dataclasses.replace(self, checkpointing=True)
        return dataclasses.replace(self, at_once=1, whole=False) if self.at_once > 1 else None


def gigabytes(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MB"


def frozen_dtype(device: torch.device) -> torch.dtype:
    """The frozen weights' precision on a device: bfloat16, else float16 where that is quick, else float32.

    torch says that older cards have bfloat16 as well, but they go through float32 for it, many times slower.
    """
    if device.type != "cuda":
        return torch.float32
    if torch.version.hip or torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    name, quick = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device) >= (7, 0)
    return torch.float16 if quick and not any(card in name for card in BROKEN_HALF) else torch.float32


def free_bytes(device: torch.device) -> int | None:
    """Memory that may be taken on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as f:
            return next(1024 * int(line.split()[1]) for line in f if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def ways(model: DiffusionModel, recipe: Recipe, free: int | None, gaps: float = 1.0) -> Iterator[Plan]:
    """The ways of training, the quickest first; each is rehearsed when it is asked for.

    gaps: factor by which a step takes more than is alive in it.
    """
    count, ghost = samples(recipe), skeleton(model)
    weights = weights_bytes([model.unet, *model.text.modules])
    for checkpointing, at_once in ((False, count), (True, count), (True, 1)):
        step = round(gaps * step_bytes(ghost, recipe, checkpointing, at_once))
        yield Plan(model.dtype, checkpointing, at_once, at_once == count, weights, step, free)


def make_plan(
    model: DiffusionModel, recipe: Recipe, free: int | None, loaded: int = 0, gaps: float = 1.0
) -> Plan:
    """The quickest way of training that fits into `free` bytes.

    Raises SageError, with the numbers, if none does.

    Args:
        loaded: bytes of the weights that are in memory already.
        gaps: as in `ways`.
    """
    for plan in ways(model, recipe, free, gaps):
        if plan.fits(loaded):
            return plan
    raise SageError(
        f"Erasing takes {gigabytes(plan.peak)} of memory at least ({plan}); "
        f"free more, or train at a smaller resolution than {recipe.resolution or model.pixels}."
    )


def fit(model: DiffusionModel, recipe: Recipe, device: torch.device) -> Plan | None:
    """Plan, set the model up accordingly and move it to the device.

    The autoencoder follows when pictures are drawn. None for a model that is known to fit anywhere, and for a
    closed form, which has no step. Raises SageError if nothing fits.
    """
    plan = None
    if model.hosted:  # the host loads and offloads as it does for sampling
        model.to(device)
        return None
    if not model.knowledge.quick and recipe.method.closed is None:
        there = weights_bytes([model.unet, *model.text.modules]) if model.device == device else 0
        plan = make_plan(model, recipe, free_bytes(device), there, HEAP if device.type == "cpu" else 1.0)
        plan.set_up(model)
    model.to(device)
    return plan


def erase_as_planned(
    model: DiffusionModel,
    recipe: Recipe,
    plan: Plan | None,
    on_event: Callable[[Event], None],
    say: Callable[[str], None],
    state: Path | None = None,
    resume: bool = False,
    save_every: float = 10.0,
    looks: bool = True,
) -> Erasure:
    """cycle.run.erase in the way that `fit` has set up.

    If memory runs out all the same, because something else took it, the run resumes from its last saved state
    in the next smaller way, which `say` reports. Raises OutOfMemory after the last way.
    """
    while True:
        try:
            return erase(model, recipe, on_event, state, resume, save_every, looks)
        except OutOfMemory as error:
            plan = None if plan is None else plan.smaller()
            if plan is None:
                raise
            say(f"memory ran out ({one_line(error.__cause__ or error)}); resuming {plan.how}")
        # Outside of the handler, which holds what the failed step had made.
        plan.set_up(model)
        resume = True
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.no_grad()
def seconds_a_pass(model: DiffusionModel, recipe: Recipe) -> float:
    """Seconds of a UNet forward on one sample at the recipe's size: the second of two, past any warm-up."""
    pixels, cost = model.pixels, dataclasses.replace(model.cost)
    model.pixels = recipe.resolution or pixels
    try:
        z, t, cond = model.noise([0]), torch.tensor([500], device=model.device), model.encode([""])
        model.predict_noise(z, t, cond).sum().item()
        start = time.monotonic()
        model.predict_noise(z, t, cond).sum().item()
        return time.monotonic() - start
    finally:
        model.pixels, model.cost = pixels, cost
