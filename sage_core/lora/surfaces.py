"""Which layers an erasure may change, under the names that LoRA files use for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SageError

if TYPE_CHECKING:
    from torch import nn

    from ..diffusion.model import DiffusionModel

SURFACES = ("text", "cross_attention", "both", "unet")
# Attention without out_proj cannot be loaded by diffusers, so the text surface always takes every matrix of a
# layer.
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


CROSS_ATTENTION_LAYERS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")


def text_prefixes(encoders: int) -> list[str]:
    """What the text encoders are called in LoRA files: `lora_te` alone, or `lora_te1` and `lora_te2`."""
    return ["lora_te"] if encoders == 1 else [f"lora_te{i + 1}" for i in range(encoders)]


def linear_layers(model: DiffusionModel) -> dict[str, nn.Linear]:
    """Every linear layer that a LoRA may name, under the name that LoRA files use for it (see
    docs/lora-format.md).
    """
    from torch import nn  # the command line's arguments need SURFACES without it

    found = {}
    for prefix, encoder in zip(text_prefixes(len(model.text.encoders)), model.text.encoders):
        for name, module in encoder.named_modules():
            if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in TEXT_LAYERS:
                # transformers 5.6 dropped `text_model.` from the module tree; the files keep it.
                full = name if name.startswith("text_model.") else f"text_model.{name}"
                found[f"{prefix}_{full.replace('.', '_')}"] = module
    for name, module in model.unet.named_modules():
        if isinstance(module, nn.Linear):
            found[f"lora_unet_{name.replace('.', '_')}"] = module
    return found


def surface_layers(model: DiffusionModel, surface: str) -> dict[str, nn.Linear]:
    """The layers of a surface: the text encoders' matrices, the UNet's cross-attention, both, or all of the
    UNet's transformer blocks.
    """
    if surface not in SURFACES:
        raise SageError(f"There is no surface {surface!r}; choose one of {', '.join(SURFACES)}.")
    cross = tuple(s.replace(".", "_") for s in CROSS_ATTENTION_LAYERS)
    layers = linear_layers(model)
    text = {k: m for k, m in layers.items() if not k.startswith("lora_unet_")}
    unet = {k: m for k, m in layers.items() if k.startswith("lora_unet_") and k.endswith(cross)}
    if surface == "unet":
        return {k: m for k, m in layers.items() if k.startswith("lora_unet_") and "transformer_blocks" in k}
    return {**(text if surface != "cross_attention" else {}), **(unet if surface != "text" else {})}
