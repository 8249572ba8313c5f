"""A small step that is tried before anything long: does every layer that matters get its gradient?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..sage_core.errors import SageError

if TYPE_CHECKING:
    from ..sage_core.diffusion.hosted import HostedModel
    from ..sage_core.lora.adapter import Adapter

PIXELS = 64
MOVED = (0.05, 0.01, 0.002, 0.0004)  # of the loss: steps along the gradient, to compare it with the slope
LIKE = (0.5, 2.0)  # the slope in units of the gradient; half precision blurs it


@contextmanager
def in_a_sentence(core: HostedModel) -> Iterator[None]:
    """Inside, whatever a network cannot do in training becomes a SageError that says what to load."""
    from . import bridge

    try:
        yield
    except bridge.OutOfMemory:
        raise
    except (RuntimeError, TypeError, AttributeError, ValueError, LookupError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SageError(
            f"This {core.family.title} model cannot be trained through as it is loaded ({first[:160]}); load"
            " it in bf16, fp16, fp8 or GGUF, without other attention or speed patches."
        ) from error


def tried(core: HostedModel, surface: str) -> None:
    """One forward and backward at the smallest size. Raises RuntimeError where layers that matter get no
    gradient, or, of a network whose layers nobody has listed, where it is not the slope of the loss.
    """
    from ..sage_core.lora.adapter import Adapter
    from ..sage_core.lora.surfaces import surface_layers

    core.to(core.device)
    layers = surface_layers(core, surface)
    adapter = Adapter.create(layers, 1, 1.0, torch.Generator().manual_seed(0), core.device)
    pixels, core.pixels = core.pixels, PIXELS
    try:
        z, t, cond = core.noise([0]), torch.tensor([500], device=core.device), core.encode(["a"])

        def loss() -> torch.Tensor:  # a sum: a mean's gradient may be too small for half precision
            return core.predict_noise(z, t, cond).square().sum()

        first = loss()
        first.backward()
        without = [name for name, up in adapter.up.items() if not _moved_by(up.grad)]
        if len(without) == len(layers) or (without and _matter(without, adapter, loss)):
            raise RuntimeError(f"no gradient arrives at {len(without)} of {len(layers)} layers")
        if core.family.watched and not _is_slope(adapter, loss, first.item()):
            raise RuntimeError("the gradient that arrives is not the slope of the loss")
    finally:
        core.pixels = pixels
        adapter.remove()


def _moved_by(gradient: torch.Tensor | None) -> bool:
    if gradient is None or not gradient.isfinite().all():
        return False
    return bool(gradient.abs().sum() > 0)


@torch.no_grad()
def _matter(names: list[str], adapter: Adapter, loss: Callable[[], torch.Tensor]) -> bool:
    """Whether the prediction depends on these layers; a last block may drop its text. A card may not compute
    the same twice, so the difference is set against that of two equal passes.
    """
    before, again = loss().item(), loss().item()
    for name in names:
        adapter.up[name].fill_(1.0)
    after = loss().item()
    for name in names:
        adapter.up[name].zero_()
    return abs(after - before) > 10 * abs(again - before) + 1e-6 * abs(before)


@torch.no_grad()
def _is_slope(adapter: Adapter, loss: Callable[[], torch.Tensor], size: float) -> bool:
    """Whether the loss changes along the gradient as the gradient says, in one of the steps at least: half
    precision does not see a small one, and on a large one the slope bends.
    """
    ways = {name: up.grad for name, up in adapter.up.items() if up.grad is not None}
    square = sum(float(way.square().sum()) for way in ways.values())
    for moved in MOVED:
        step = moved * size / square
        found = []
        for sign in (1, -1):
            for name, way in ways.items():
                adapter.up[name].copy_(sign * step * way)
            found.append(loss().item())
        if LIKE[0] < (found[0] - found[1]) / (2 * step * square) < LIKE[1]:
            return True
    return False
