"""Gradient checkpointing (Chen et al., arXiv 1604.06174): a block's activations are computed again in the
backward pass, not kept.

Wrapped by hand, so that every version of diffusers does the same, and so that a block is computed again with
the adapters on or off as they were the first time: a prediction of the frozen model may be differentiated
after its adapter is on again.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Iterator

import torch
from torch.utils.checkpoint import checkpoint

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock", "JointTransformerBlock")
SWITCHES: weakref.WeakSet = (
    weakref.WeakSet()
)  # what is `enabled` or not and changes what a block computes: the adapters


def checkpoint_blocks(unet: torch.nn.Module, on: bool) -> None:
    """Keep only what goes into each residual and transformer block of a network.

    With `on` False everything is kept again.
    """
    for module in unet.modules():
        if type(module).__name__ in BLOCKS:
            module.__dict__.pop("forward", None)  # an instance's own forward hides its class's
            if on:
                module.forward = functools.partial(_forward, module.forward)


def _forward(forward, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return again(forward, *args, **kwargs)


def again(forward, *args, **kwargs):
    """`forward`, computed again in the backward pass with the adapters on or off as they are now."""
    return checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, context_fn=_contexts, **kwargs
    )


def _contexts():
    return contextlib.nullcontext(), _as_then({switch: switch.enabled for switch in SWITCHES})


@contextlib.contextmanager
def _as_then(then: dict) -> Iterator[None]:
    now = {switch: switch.enabled for switch in then}
    try:
        for switch, enabled in then.items():
            switch.enabled = enabled
        yield
    finally:
        for switch, enabled in now.items():
            switch.enabled = enabled


@contextlib.contextmanager
def untouched() -> Iterator[None]:
    """Inside, every adapter is off."""
    on = [switch for switch in SWITCHES if switch.enabled]
    for switch in on:
        switch.enabled = False
    try:
        yield
    finally:
        for switch in on:
            switch.enabled = True
