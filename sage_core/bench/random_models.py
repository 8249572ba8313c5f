"""Models of real shapes with random weights, and thin ones: speed and memory do not depend on the values.

Thin is every width a fifth, at the full depth. Both sides of SD 1.5 then do about a 25th of the work, and at
448 pixels a prompt costs a sixtieth of a UNet pass, by multiplications, as it does in SD 1.5 at 512; SDXL's
at 896 as in SDXL at 1024.
"""

from __future__ import annotations

import torch

from ..diffusion.architecture import FAMILIES, Family
from ..diffusion.load import text_stack
from ..diffusion.model import DiffusionModel
from ..diffusion.schedule import flow, standard

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
SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "patch_size": 2,
}
MEDIUM_3 = SD3 | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
}
LARGE_3 = SD3 | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}
THIN_3 = MEDIUM_3 | {"num_attention_heads": 5, "caption_projection_dim": 320, "pos_embed_max_size": 64}
# Of each family, full and thin: the network, the text encoders (width, layers, heads, projection), pixels.
SIZES = {
    ("sd1", "full"): (SD1, [(768, 12, 12, None)], 512),
    ("sd1", "thin"): (SD1 | THIN, [(160, 12, 10, None)], 448),
    ("sd3", "full"): (MEDIUM_3, [(768, 12, 12, 768), (1280, 32, 20, 1280)], 1024),  # 3.5 medium
    ("sd3", "large"): (LARGE_3, [(768, 12, 12, 768), (1280, 32, 20, 1280)], 1024),  # 3.5 large
    ("sd3", "thin"): (THIN_3, [(160, 12, 10, 160), (256, 32, 4, 256)], 448),
    ("sdxl", "full"): (SDXL | FULL_XL, [(768, 12, 12, None), (1280, 32, 20, 1280)], 1024),
    ("sdxl", "thin"): (SDXL | THIN_XL, [(160, 12, 10, None), (256, 32, 4, 256)], 896),
}


def random_model(
    family: str, size: str, dtype: torch.dtype, pixels: int | None = None, filled: bool = True
) -> DiffusionModel:
    """A model of that family, "full" or "thin" (SD 3 also "large"), on the CPU, in small random weights, so
    that nothing overflows; `pixels`: in place of its own. Not filled: shapes alone, on torch's meta device.
    """
    config, encoders, own = SIZES[family, size]
    pixels, known = pixels or own, FAMILIES[family]
    torch.manual_seed(0)
    with torch.device("meta"):
        parts = [_network(known, pixels, config), *(clip(*e) for e in encoders)]
    for part in parts:
        torch.nn.Module.to(part, dtype).requires_grad_(False).eval()
        if filled:
            _fill(part)
    text = text_stack(known, parts[1:])
    if known.flow:
        text.widths = config["joint_attention_dim"], config["pooled_projection_dim"]
    return DiffusionModel(
        known,
        text,
        parts[0],
        None,
        flow(3.0) if known.flow else standard(),
        False,
        f"random {size} {family}",
        fingerprint="random",
        pixels=pixels,
    )


def _network(family: Family, pixels: int, config: dict) -> torch.nn.Module:
    from diffusers import SD3Transformer2DModel, UNet2DConditionModel

    if family.flow:
        return SD3Transformer2DModel(sample_size=pixels // 8, attention_head_dim=64, **config)
    return UNet2DConditionModel(sample_size=pixels // 8, **config)


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


def _fill(module: torch.nn.Module) -> None:
    """Memory in place of shapes; norms are norms, everything else is small noise."""
    module.to_empty(device="cpu")
    for name, p in module.named_parameters():
        if p.ndim == 1:
            torch.nn.init.constant_(p, 1.0 if name.endswith("weight") else 0.0)
        else:
            torch.nn.init.normal_(p, std=0.02)
    for name, buffer in module.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        else:
            buffer.normal_(std=0.02)  # SD 3's positions
