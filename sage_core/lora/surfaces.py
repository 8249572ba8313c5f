"""Which layers an erasure may change, under the names that LoRA files use for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from ..errors import SageError

if TYPE_CHECKING:
    from torch import nn

    from ..diffusion.model import DiffusionModel

SURFACES = ("text", "cross_attention", "both", "unet")
# Attention without out_proj cannot be loaded by diffusers, so the text surface always takes every matrix of a
# layer.
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def text_prefixes(model: DiffusionModel) -> list[str]:
    """What the text encoders are called in LoRA files: `lora_te` alone, or `lora_te1` and `lora_te2`."""
    encoders = len(model.text.encoders)
    if encoders == 1 and not model.family.flow:
        return ["lora_te"]
    return [f"lora_te{i + 1}" for i in range(encoders)]


def paths(model: DiffusionModel) -> dict[str, str]:
    """By a layer's name in LoRA files: where diffusers and transformers have it, with the part in front
    (`transformer.transformer_blocks.0.attn.add_k_proj`).
    """
    from torch import nn

    found = {}
    parts = ("text_encoder", "text_encoder_2", "text_encoder_3")
    prefixes = text_prefixes(model)
    modules = [*zip(parts, prefixes, model.text.encoders), ("transformer", "lora_unet", model.unet)]
    for part, prefix, whole in modules:
        for name, module in whole.named_modules():
            if isinstance(module, nn.Linear):
                clip = part != "transformer" and not name.startswith("text_model.")
                full = f"text_model.{name}" if clip else name
                found[f"{prefix}_{full.replace('.', '_')}"] = f"{part}.{full}"
    return found


def file_names(model: DiffusionModel) -> Mapping[str, str | tuple[str, ...]] | None:
    """The names that files for this model have where they are not kohya's (see lora.file.write_lora)."""
    if not model.hosted:
        return paths(model) if model.family.flow else None
    from ..diffusion.hosted_families import diffusers_names

    names = {path: diffusers_names(model.family, path) for path, _ in model.unet.named_modules()}
    return {f"lora_unet_{path.replace('.', '_')}": own for path, own in names.items() if own}


def hosted_layers(model: DiffusionModel) -> dict[str, nn.Linear]:
    """The layers of a host's network that only text goes through (diffusion/hosted_families.py).

    A host's linear layers need not be torch's: its own hold quantised weights, and have the same sizes.
    """
    from ..diffusion.hosted_families import diffusers_names

    found = {}
    for path, module in model.unet.named_modules():
        if diffusers_names(model.family, path) and hasattr(module, "in_features"):
            found[f"lora_unet_{path.replace('.', '_')}"] = cast("nn.Linear", module)
    return found


def linear_layers(model: DiffusionModel) -> dict[str, nn.Linear]:
    """Every linear layer that a LoRA may name, under the name that LoRA files use for it (see
    docs/lora-format.md).
    """
    from torch import nn  # the command line's arguments need SURFACES without it

    found = {}
    for prefix, encoder in zip(text_prefixes(model), model.text.encoders):
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
    """The layers of a surface: the text encoders' matrices, those through which the network reads text (a
    UNet's cross-attention), both, or all of the network's transformer blocks.

    Raises SageError for the text encoders alone where T5, which is never trained, reads prompts too.
    """
    if surface not in SURFACES:
        raise SageError(f"There is no surface {surface!r}; choose one of {', '.join(SURFACES)}.")
    if model.hosted:
        return hosted_layers(model)
    if surface == "text" and model.text.t5 is not None:
        raise SageError(
            "The model also reads prompts through T5, which no LoRA changes, so a concept that only CLIP"
            " forgot would still be drawn: choose the surface both or cross_attention."
        )
    layers = linear_layers(model)
    text = {k: m for k, m in layers.items() if not k.startswith("lora_unet_")}
    unet = {k: m for k, m in layers.items() if k.startswith("lora_unet_") and k.endswith(model.family.cross)}
    if surface == "unet":
        return {k: m for k, m in layers.items() if k.startswith("lora_unet_") and "transformer_blocks" in k}
    return {**(text if surface != "cross_attention" else {}), **(unet if surface != "text" else {})}
