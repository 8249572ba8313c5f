"""What ComfyUI's own networks need so that a backward pass can go through them.

They are written for sampling: weights belong to inference mode, blocks add to their inputs in place, and some
operations have a quick form without a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as management
import torch

BLOCKS = (
    "DoubleStreamBlock",
    "SingleStreamBlock",
    "JointTransformerBlock",
    "QwenImageTransformerBlock",
)


@contextmanager
def for_training(network: torch.nn.Module) -> Iterator[None]:
    """Inside, predictions of the network can be differentiated; the backward pass belongs inside too."""
    known = hasattr(management, "in_training")  # from 0.8 on: ComfyUI then leaves out what has no gradient
    before = getattr(management, "in_training", False)
    handles = [
        m.register_forward_pre_hook(_apart) for m in network.modules() if isinstance(m, torch.nn.LayerNorm)
    ]
    blocks = [m for m in network.modules() if type(m).__name__ in BLOCKS and "forward" not in m.__dict__]
    for block in blocks:
        block.forward = functools.partial(_again, block.forward)
    if known:
        management.in_training = True
    try:
        yield
    finally:
        if known:
            management.in_training = before
        for block in blocks:
            del block.forward
        for handle in handles:
            handle.remove()


def _apart(module, args):
    """A block adds to what its norm has read; the backward pass needs that as it was."""
    return (args[0].clone(), *args[1:]) if torch.is_grad_enabled() else None


def _again(forward, *args, **kwargs):
    """Computed again in the backward pass, from inputs that nothing has added to."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    from ..sage_core.diffusion.checkpointing import again

    return again(functools.partial(_on_copies, forward), *args, **kwargs)


def _on_copies(forward, *args, **kwargs):
    def copied(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    return forward(*map(copied, args), **{name: copied(value) for name, value in kwargs.items()})


def own_weights(network: torch.nn.Module) -> None:
    """Have every weight as a tensor outside of inference mode that shares its memory: nothing that was made
    inside can be kept for a backward pass.
    """
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None and _shareable(value):
                module._parameters[name] = torch.nn.Parameter(_shared(value), requires_grad=False)
        for name, value in module._buffers.items():
            if value is not None and _shareable(value):
                module._buffers[name] = _shared(value)


def _shareable(value: torch.Tensor) -> bool:
    return value.is_inference() and type(value.data) is torch.Tensor


def _shared(value: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(0, dtype=value.dtype, device=value.device)
    with torch.no_grad():
        return empty.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())
