"""The names and shapes of whole Stable Diffusion models, without their weights, and a LoRA for every layer of
them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sage_core.bench.random_models import FULL_XL, SDXL
from sage_core.diffusion import names
from sage_core.diffusion.architecture import FAMILIES, UNET
from sage_core.lora.surfaces import linear_layers, surface_layers


def clip(width: int, layers: int, heads: int, projected: bool):
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        projection_dim=width,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def model(family: str):
    """What `linear_layers` reads of a model, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**(SDXL | FULL_XL if family == "sdxl" else {"cross_attention_dim": 768}))
        encoders = [clip(768, 12, 12, False)] + ([clip(1280, 32, 20, True)] if family == "sdxl" else [])
    text = SimpleNamespace(encoders=encoders)
    return SimpleNamespace(unet=unet, text=text, family=FAMILIES[family], hosted=False)


def write_checkpoint(family: str, path: Path) -> None:
    """Names and shapes of the single-file checkpoint, as JSON."""
    from tiny import clip_to_open_clip

    whole = model(family)
    sd = names.unet_to_original(whole.unet.state_dict(), whole.unet.config, UNET)
    about = FAMILIES[family]
    for prefix, open_clip, encoder in zip(about.text_prefixes, about.open_clip, whole.text.encoders):
        own = names.with_text_model(encoder.state_dict())
        sd |= {prefix + k: v for k, v in (clip_to_open_clip(own) if open_clip else own).items()}
    path.write_text(json.dumps({name: list(value.shape) for name, value in sd.items()}), encoding="utf-8")


def write_lora(family: str, path: Path) -> int:
    """A file in our names for every layer that any surface trains; their number."""
    whole = model(family)
    text = {name: layer for name, layer in linear_layers(whole).items() if name.startswith("lora_te")}
    layers = surface_layers(whole, "unet") | surface_layers(whole, "both") | text
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{name}.lora_down.weight"] = torch.ones(1, layer.in_features, dtype=torch.float16)
        tensors[f"{name}.lora_up.weight"] = torch.ones(layer.out_features, 1, dtype=torch.float16)
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return len(layers)
