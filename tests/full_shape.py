"""A checkpoint with Stable Diffusion 1.5's real shapes and random weights, written once per machine (about 2 GB)."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from sage_core.diffusion import names
from sage_core.diffusion.architecture import UNET

SD1_UNET = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


def full_sd1(path: Path) -> Path:
    """Half-precision random tensors in the shapes of SD 1.5, original layout, without an autoencoder."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD1_UNET)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
    shapes = names.unet_to_original(unet.state_dict(), unet.config, UNET)
    shapes |= {f"cond_stage_model.transformer.{k}": v for k, v in names.with_text_model(text.state_dict()).items()}
    generator = torch.Generator().manual_seed(0)
    sd = {k: (0.02 * torch.randn(v.shape, generator=generator)).half() for k, v in shapes.items()}
    save_file(sd, path)
    return path
