"""Checkpoints that hosts recognise by their shapes, with random weights (about 2 GB each)."""

from __future__ import annotations

from pathlib import Path

import tiny
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sage_core.diffusion import names
from sage_core.diffusion.architecture import FAMILIES, UNET

SD1_UNET = {
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def full_sd1(path: Path) -> Path:
    """Half-precision random tensors in the shapes of SD 1.5, original layout, without an autoencoder."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD1_UNET)
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    shapes = names.unet_to_original(unet.state_dict(), unet.config, UNET)
    shapes |= {
        f"cond_stage_model.transformer.{k}": v for k, v in names.with_text_model(text.state_dict()).items()
    }
    return _save(shapes, path)


SLIM = (320, 320, 320, 320)


def thin_sd1(path: Path) -> Path:
    """SD 1.x as hosts recognise it, with a UNet that stays 320 channels wide."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD1_UNET | {"block_out_channels": SLIM})
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
    shapes = names.unet_to_original(unet.state_dict(), unet.config, UNET)
    return _save(
        shapes
        | {
            FAMILIES["sd1"].text_prefixes[0] + k: v
            for k, v in names.with_text_model(text.state_dict()).items()
        },
        path,
    )


def thin_sd2(path: Path) -> Path:
    """SD 2.x likewise: OpenCLIP's text encoder in its own names, all 24 layers of it."""
    with torch.device("meta"):
        config = {
            "block_out_channels": SLIM,
            "cross_attention_dim": 1024,
            "use_linear_projection": True,
            "attention_head_dim": (5,) * 4,
        }
        unet = UNet2DConditionModel(**SD1_UNET | config)
        text = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16
            )
        )
    shapes = names.unet_to_original(unet.state_dict(), unet.config, UNET)
    own = tiny.clip_to_open_clip(names.with_text_model(text.state_dict()))
    return _save(shapes | {FAMILIES["sd2"].text_prefixes[0] + k: v for k, v in own.items()}, path)


SDXL_UNET = {
    "sample_size": 128,
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "attention_head_dim": (5, 5, 5),
    "block_out_channels": (320, 320, 320),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}


def thin_sdxl(path: Path) -> Path:
    """SDXL as hosts recognise it, with a UNet that stays 320 channels wide; its two text encoders have their
    real shapes.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET)
        small = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
            )
        )
        large = CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=1280,
                intermediate_size=5120,
                num_hidden_layers=32,
                num_attention_heads=20,
                projection_dim=1280,
            )
        )
    shapes = names.unet_to_original(unet.state_dict(), unet.config, UNET)
    first, second = FAMILIES["sdxl"].text_prefixes
    shapes |= {first + k: v for k, v in names.with_text_model(small.state_dict()).items()}
    shapes |= {
        second + k: v for k, v in tiny.clip_to_open_clip(names.with_text_model(large.state_dict())).items()
    }
    return _save(shapes, path)


def _save(shapes: dict, path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    save_file({k: (0.02 * torch.randn(v.shape, generator=generator)).half() for k, v in shapes.items()}, path)
    return path
