"""Models of real shapes with random weights, and thin ones: speed and memory do not depend on the values.

Thin is every width a fifth, at the full depth. Both sides of SD 1.5 then do about a 25th of the work, and at
448 pixels a prompt costs a sixtieth of a UNet pass, by multiplications, as it does in SD 1.5 at 512; SDXL's
at 896 as in SDXL at 1024.
"""

from __future__ import annotations

import torch

from ..diffusion.architecture import FAMILIES
from ..diffusion.load import text_stack
from ..diffusion.model import DiffusionModel
from ..diffusion.schedule import standard

DOWN, UP = ("CrossAttnDownBlock2D",), ("CrossAttnUpBlock2D",)
SD1 = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": DOWN * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + UP * 3,
}
SDXL = {
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D",) + DOWN * 2,
    "up_block_types": UP * 2 + ("UpBlock2D",),
}
FULL_XL = {"block_out_channels": (320, 640, 1280), "attention_head_dim": (5, 10, 20)}
THIN_XL = {
    "block_out_channels": (64, 128, 256),
    "attention_head_dim": (1, 2, 4),
    "norm_num_groups": 16,
    "cross_attention_dim": 416,
    "projection_class_embeddings_input_dim": 6 * 256 + 256,
}
THIN = {
    "block_out_channels": (64, 128, 256, 256),
    "norm_num_groups": 16,
    "cross_attention_dim": 160,
    "attention_head_dim": 2,
}
# Of each family, full and thin: the UNet, the text encoders (width, layers, heads, projection), and pixels.
SIZES = {
    ("sd1", "full"): (SD1, [(768, 12, 12, None)], 512),
    ("sd1", "thin"): (SD1 | THIN, [(160, 12, 10, None)], 448),
    ("sdxl", "full"): (SDXL | FULL_XL, [(768, 12, 12, None), (1280, 32, 20, 1280)], 1024),
    ("sdxl", "thin"): (SDXL | THIN_XL, [(160, 12, 10, None), (256, 32, 4, 256)], 896),
}


def random_model(family: str, size: str, dtype: torch.dtype, pixels: int | None = None) -> DiffusionModel:
    """A model of that family, "full" or "thin", on the CPU, in small random weights, so that nothing
    overflows; `pixels`: in place of its own.
    """
    from diffusers import UNet2DConditionModel

    config, encoders, own = SIZES[family, size]
    pixels = pixels or own
    torch.manual_seed(0)
    with torch.device("meta"):
        parts = [UNet2DConditionModel(sample_size=pixels // 8, **config), *(clip(*e) for e in encoders)]
    for part in parts:
        _fill(part, dtype)
    known = FAMILIES[family]
    text = text_stack(known, parts[1:])
    return DiffusionModel(
        known,
        text,
        parts[0],
        None,
        standard(),
        False,
        f"random {size} {family}",
        fingerprint="random",
        pixels=pixels,
    )


def clip(width: int, layers: int, heads: int, projection: int | None):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        bos_token_id=49406,
        eos_token_id=49407,
        **({"projection_dim": projection} if projection else {}),
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _fill(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Memory in place of shapes, in the precision that is wanted; norms are norms, everything else is small
    noise.
    """
    torch.nn.Module.to(module, dtype).to_empty(device="cpu")
    for name, p in module.named_parameters():
        if p.ndim == 1:
            torch.nn.init.constant_(p, 1.0 if name.endswith("weight") else 0.0)
        else:
            torch.nn.init.normal_(p, std=0.02)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    module.requires_grad_(False).eval()
