"""A small SD3 with the bundled text encoder as ComfyUI sees it: a checkpoint in SD3's layout.

SD3's own text side in ComfyUI always has CLIP-L's width and a tokenizer for T5. So this model brings its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from ..sage_core.demo import FLOW
from ..sage_core.diffusion import names_sd3
from ..sage_core.diffusion.architecture import FAMILIES, UNET
from ..sage_core.diffusion.names_sd3 import CLIP_G, CONTEXT
from .demo_checkpoint import DemoClipTokenizer, DemoTextModel, autoencoder, text_encoder, weights

DEPTH = 4


class FlowTextModel(DemoTextModel):
    """Read before its last layer, without the final norm."""

    def __init__(self, device="cpu", dtype=None, model_options=None):
        super().__init__(
            device, dtype, model_options, layer="hidden", layer_idx=-2, layer_norm_hidden_state=False
        )


class FlowClipModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **kwargs):
        super().__init__(
            device=device, dtype=dtype, model_options=model_options or {}, clip_model=FlowTextModel, **kwargs
        )

    def encode_token_weights(self, token_weight_pairs):
        """As SD3 has it with CLIP-L alone: zeros where CLIP-G's and T5's states would be."""
        hidden, pooled, *extra = super().encode_token_weights(token_weight_pairs)
        hidden = torch.nn.functional.pad(hidden, (0, CONTEXT - hidden.shape[-1]))
        return hidden, torch.nn.functional.pad(pooled, (0, CLIP_G)), *extra


class FlowModel(comfy.supported_models.SD3):
    """SD3's description with this model's sizes."""

    unet_config = {**comfy.supported_models.SD3.unet_config, "depth": DEPTH}

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(DemoClipTokenizer, FlowClipModel)


def state_dict(folder: Path) -> dict[str, torch.Tensor]:
    """The model of a diffusers folder as one state dict in SD3's single-file layout."""
    config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES["sd3"]
    own = names_sd3.widened(weights(folder / "transformer"), config)
    sd = names_sd3.to_original(own, config["num_layers"], UNET)
    return sd | text_encoder(family.text_prefixes[0]) | autoencoder(folder / "vae", family)


def load(folder: Path = FLOW):
    """(MODEL, CLIP, VAE) of ComfyUI."""
    models = comfy.supported_models.models
    if FlowModel not in models:
        models.insert(0, FlowModel)  # before SD3 itself, which matches any depth
    model, clip, vae, _ = comfy.sd.load_state_dict_guess_config(state_dict(folder))
    return model, clip, vae
