"""The bundled model as ComfyUI sees it: a checkpoint in SD 1.x layout, and what ComfyUI must know of its
sizes.

It imports `comfy` because it describes an architecture to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import torch

from ..sage_core.demo import DEMO
from ..sage_core.diffusion import names
from ..sage_core.diffusion.architecture import FAMILIES, UNET, Family
from ..sage_core.diffusion.autoencoder import PREFIX
from ..sage_core.diffusion.weights import read_safetensors

CLIP_CONFIG: dict = json.loads((DEMO / "text_encoder" / "config.json").read_text(encoding="utf-8"))
SPECIAL = {
    "start": CLIP_CONFIG["bos_token_id"],
    "end": CLIP_CONFIG["eos_token_id"],
    "pad": CLIP_CONFIG["pad_token_id"],
}


class DemoTokenizer(comfy.sd1_clip.SDTokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None, **kwargs):
        super().__init__(
            tokenizer_path=str(DEMO / "tokenizer"),
            embedding_directory=embedding_directory,
            embedding_size=CLIP_CONFIG["hidden_size"],
            tokenizer_data=tokenizer_data or {},
        )


class DemoClipTokenizer(comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, embedding_directory=None, tokenizer_data=None):
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            tokenizer=DemoTokenizer,
        )


class DemoTextModel(comfy.sd1_clip.SDClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **reading):
        super().__init__(
            device=device,
            dtype=dtype,
            textmodel_json_config=dict(CLIP_CONFIG),
            special_tokens=SPECIAL,
            return_projected_pooled=False,
            model_options=model_options or {},
            **reading,
        )
        # ComfyUI's CLIP has 49,408 tokens whatever its configuration says; the bundled model has its own,
        # smaller vocabulary.
        table = self.operations.Embedding(
            CLIP_CONFIG["vocab_size"], CLIP_CONFIG["hidden_size"], dtype=dtype, device=device
        )
        self.transformer.text_model.embeddings.token_embedding = table


class DemoClipModel(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, device="cpu", dtype=None, model_options=None, **kwargs):
        super().__init__(
            device=device, dtype=dtype, model_options=model_options or {}, clip_model=DemoTextModel, **kwargs
        )


class DemoModel(comfy.supported_models.SD15):
    """SD 1.5's description with the bundled model's sizes."""

    unet_config = {
        **comfy.supported_models.SD15.unet_config,
        "context_dim": CLIP_CONFIG["hidden_size"],
        "model_channels": 96,
    }

    def clip_target(self, state_dict=None):
        return comfy.supported_models_base.ClipTarget(DemoClipTokenizer, DemoClipModel)


def state_dict() -> dict[str, torch.Tensor]:
    """The bundled model as one state dict in SD 1.x' single-file layout, with its autoencoder as ComfyUI
    stores a TAESD.
    """
    config = json.loads((DEMO / "unet" / "config.json").read_text(encoding="utf-8"))
    family = FAMILIES["sd1"]
    sd = names.unet_to_original(weights(DEMO / "unet"), config, UNET)
    sd |= text_encoder(family.text_prefixes[0])
    return sd | autoencoder(DEMO / "vae", family)


def text_encoder(prefix: str) -> dict[str, torch.Tensor]:
    """The bundled text encoder, which both bundled models have, under names that begin with `prefix`."""
    return {prefix + k: v for k, v in names.with_text_model(weights(DEMO / "text_encoder")).items()}


def autoencoder(folder: Path, family: Family) -> dict[str, torch.Tensor]:
    """A bundled model's autoencoder as ComfyUI stores a TAESD."""
    sd = {}
    for key, value in weights(folder).items():
        side, _, index, rest = key.split(".", 3)
        # ComfyUI's decoder begins with a clamp of its own, so its indices are one higher.
        sd[f"{PREFIX}taesd_{side}.{int(index) + (side == 'decoder')}.{rest}"] = value
    # ComfyUI undoes the family's factor and shift before decoding; the bundled models' latents have neither.
    sd[PREFIX + "vae_scale"] = torch.tensor(family.vae_scale)
    sd[PREFIX + "vae_shift"] = torch.tensor(family.vae_shift)
    return sd


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of one part of a bundled model."""
    return read_safetensors(next(folder.glob("*.safetensors")))


def load():
    """(MODEL, CLIP, VAE) of ComfyUI."""
    if DemoModel not in comfy.supported_models.models:
        comfy.supported_models.models.append(DemoModel)
    model, clip, vae, _ = comfy.sd.load_state_dict_guess_config(state_dict())
    return model, clip, vae
