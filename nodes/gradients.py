"""What ComfyUI's own networks need so that a backward pass can go through them.

They are written for sampling: weights belong to inference mode, blocks add to their inputs in place, and some
operations have a quick form without a gradient. One is that of quantised weights, whose layers may quantise
their inputs too: ComfyUI 0.8 then loses part of the gradient and says nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.ldm.modules.attention
import comfy.model_management as management
import comfy.ops
import torch

from .rotations import QUICK

FLOATS8 = [getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)]
WITH_GRADIENT = ("basic", "sub_quad", "split", "xformers", "pytorch")  # ComfyUI's attentions
BLOCKS = (
    "DoubleStreamBlock",
    "SingleStreamBlock",
    "JointBlock",
    "JointTransformerBlock",
    "QwenImageTransformerBlock",
)


@contextmanager
def for_training(network: torch.nn.Module) -> Iterator[None]:
    """Inside, predictions of the network can be differentiated; the backward pass belongs inside too."""
    quick = [*_quick_attentions(), *_quick_multiplications(network)]
    if hasattr(management, "in_training"):  # newer versions then leave out most of what has no gradient
        quick.append((management, "in_training", True))
    quick += _quick_rotations()
    if hasattr(management, "get_cast_buffer"):
        quick.append((comfy.ops, "cast_bias_weight", functools.partial(_kept, comfy.ops.cast_bias_weight)))
    with _replaced(quick), _norms_apart(network), _blocks_again(network):
        yield


@contextmanager
def _replaced(places: list[tuple]) -> Iterator[None]:
    """Inside, attributes are others. places: (owner, name, value)."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
    try:
        for owner, name, value in places:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def _norms_apart(network: torch.nn.Module) -> Iterator[None]:
    norms = [m for m in network.modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = [norm.register_forward_pre_hook(_apart) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _blocks_again(network: torch.nn.Module) -> Iterator[None]:
    blocks = [block for block in recomputed(network) if "forward" not in block.__dict__]
    for block in blocks:
        block.forward = functools.partial(_again, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def recomputed(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that are computed again in the backward pass: those of known classes; of a network that has
    none of them, the members of its own lists.
    """
    known = [m for m in network.modules() if type(m).__name__ in BLOCKS]
    lists = [m for m in network.children() if isinstance(m, torch.nn.ModuleList)]
    return known or [block for blocks in lists for block in blocks]


def _in_networks(names: tuple[str, ...]) -> Iterator[tuple]:
    """(module, name, function) wherever one of ComfyUI's networks has a function under such a name."""
    for path, module in list(sys.modules.items()):
        if path.startswith("comfy.ldm."):
            for name in names:
                if (own := vars(module).get(name)) is not None:
                    yield module, name, own


def _quick_attentions() -> list[tuple]:
    """Torch's own attention in the place of those without a gradient (SageAttention, FlashAttention as
    ComfyUI calls it, int8): what comes before them would not be trained, and nothing would say so.
    """
    module = comfy.ldm.modules.attention
    sound = [vars(module).get(f"attention_{name}") for name in WITH_GRADIENT]
    names = ("optimized_attention", "optimized_attention_masked")
    return [(o, name, module.attention_pytorch) for o, name, own in _in_networks(names) if own not in sound]


def _quick_multiplications(network: torch.nn.Module) -> list[tuple]:
    """Layers of quantised weights that may quantise their inputs too."""
    layers = [m for m in network.modules() if getattr(m, "_full_precision_mm", True) is False]
    return [(layer, "_full_precision_mm", True) for layer in layers]


def _quick_rotations() -> list[tuple]:
    """Rotations of positions without a gradient: of comfy_kitchen, which some networks call even in training,
    and under the names that networks of versions around 0.8 took over from it.
    """
    kitchen = sys.modules.get("comfy_kitchen")
    places = [(kitchen, name, own) for name, own in QUICK.items() if hasattr(kitchen, name)]
    for owner, name, own in _in_networks(("apply_rope", "apply_rope1")):
        if not own.__module__.startswith("comfy.ldm."):
            places.append((owner, name, QUICK[name]))
    return places


def _kept(cast, layer, *args, **kwargs):
    """What ComfyUI's `cast_bias_weight` returns, weights copied where a backward pass needs them. Those that
    come from main memory lie where newer versions put the next layer's too, and may belong to inference mode.
    """
    weight, bias, *rest = cast(layer, *args, **kwargs)
    if torch.is_grad_enabled():
        weight, bias = (
            value.clone() if value is not None and _lent(layer, value) else value for value in (weight, bias)
        )
    return (weight, bias, *rest)


def _lent(layer, value: torch.Tensor) -> bool:
    return hasattr(layer, "_v") or layer.weight is not None and layer.weight.device != value.device


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
    return value.is_inference() and (type(value.data) is torch.Tensor or packed(value))


def _shared(value: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(0, dtype=value.dtype, device=value.device)
    with torch.no_grad():
        own = empty.set_(value.untyped_storage(), value.storage_offset(), value.size(), value.stride())
    if packed(value):
        own = own.as_subclass(type(value))
        vars(own).update(vars(value))
    return own


def packed(value: torch.Tensor) -> bool:
    """Whether a weight is one of ComfyUI-GGUF's, which holds in attributes how to unpack it."""
    return hasattr(value, "tensor_type")


def quantised(value: torch.Tensor) -> bool:
    """Whether a weight is one of ComfyUI's quantised ones: 8 or 4 bits with scales beside them."""
    return hasattr(value, "_qdata")


def coarse(value: torch.Tensor) -> bool:
    """Whether a LoRA that is added to this weight is rounded to 8 or 4 bits."""
    return quantised(value) or value.dtype in FLOATS8
