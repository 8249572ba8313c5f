"""The autoencoder of a single-file checkpoint:

Stable Diffusion's KL autoencoder, or a TAESD as ComfyUI stores it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from .weights import build, fill

PREFIX = "first_stage_model."


def from_original(sd: Mapping[str, torch.Tensor], family, dtype: torch.dtype):
    """An AutoencoderKL, an AutoencoderTiny, or None where the state dict holds no autoencoder."""
    if any(k.startswith(PREFIX + "taesd_decoder.") for k in sd):
        return _tiny(sd, dtype)
    if PREFIX + "decoder.conv_in.weight" in sd:
        return _kl(sd, family, dtype)
    return None


def _tiny(sd, dtype):
    """TAESD's decoder starts with a clamp that diffusers applies outside the list of layers: indices shift by
    one.
    """
    from diffusers import AutoencoderTiny

    own = {}
    for key, value in sd.items():
        if key.startswith(PREFIX + "taesd_encoder."):
            own["encoder.layers." + key.removeprefix(PREFIX + "taesd_encoder.")] = value
        elif key.startswith(PREFIX + "taesd_decoder."):
            index, rest = key.removeprefix(PREFIX + "taesd_decoder.").split(".", 1)
            own[f"decoder.layers.{int(index) - 1}.{rest}"] = value
    channels = len(own["encoder.layers.14.weight"]) if "encoder.layers.14.weight" in own else 4
    config = {"latent_channels": channels, "scaling_factor": 1.0}
    vae = build(lambda c: AutoencoderTiny(**c), config, "The autoencoder")
    fill(vae, own, "The autoencoder", dtype)
    return vae


def _kl(sd, family, dtype):
    from diffusers import AutoencoderKL

    levels = 1 + max(int(k.split(".")[3]) for k in sd if k.startswith(PREFIX + "encoder.down."))
    widths = [sd[f"{PREFIX}encoder.down.{i}.block.0.conv2.weight"].shape[0] for i in range(levels)]
    layers = 1 + max(int(k.split(".")[5]) for k in sd if k.startswith(PREFIX + "encoder.down.0.block."))
    config = {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": family.latent_channels,
        "scaling_factor": family.vae_scale,
        "shift_factor": family.vae_shift,
        "use_quant_conv": PREFIX + "quant_conv.weight" in sd,
        "use_post_quant_conv": PREFIX + "post_quant_conv.weight" in sd,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": min(32, widths[0]),
    }
    vae = build(lambda c: AutoencoderKL(**c), config, "The autoencoder")
    fill(
        vae,
        kl_to_diffusers({k: v for k, v in sd.items() if k.startswith(PREFIX)}, levels),
        "The autoencoder",
        dtype,
    )
    return vae


ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def kl_to_diffusers(sd: Mapping[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    """Original names to diffusers' for a KL autoencoder of `levels` levels; 1x1 attention kernels become
    matrices.
    """
    out = {}
    for key, value in sd.items():
        parts = key.removeprefix(PREFIX).split(".")
        if parts[0] in ("quant_conv", "post_quant_conv"):
            out[".".join(parts)] = value
            continue
        side, rest = parts[0], parts[1:]
        if rest[0] in ("down", "up"):
            level = int(rest[1]) if rest[0] == "down" else levels - 1 - int(rest[1])
            if rest[2] == "block":
                new = [f"{rest[0]}_blocks", str(level), "resnets", rest[3], *rest[4:]]
            else:
                new = [f"{rest[0]}_blocks", str(level), f"{rest[0]}samplers", "0", *rest[3:]]
        elif rest[0] == "mid":
            if rest[1] == "attn_1":
                new = ["mid_block", "attentions", "0", *ATTENTION[rest[2]].split("."), rest[3]]
                value = value.flatten(1) if value.ndim == 4 else value
            else:
                new = ["mid_block", "resnets", str(int(rest[1].removeprefix("block_")) - 1), *rest[2:]]
        else:
            new = [{"norm_out": "conv_norm_out"}.get(rest[0], rest[0]), *rest[1:]]
        new = ["conv_shortcut" if p == "nin_shortcut" else p for p in new]
        out[".".join([side, *new])] = value
    return out
