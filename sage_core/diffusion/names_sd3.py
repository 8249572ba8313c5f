"""Tensor names and shapes of Stable Diffusion 3: the original layout to diffusers', and back.

The original layout has query, key and value of each stream as one matrix, which diffusers splits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from ..errors import SageError

TOP = {
    "pos_embed": "pos_embed.pos_embed",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
BLOCK = {
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
HEAD = 64  # channels a head
CONTEXT, CLIP_G = 4096, 1280  # widths of the text states that it reads, and of CLIP-G's pooled one


def config_of(sd: Mapping[str, torch.Tensor], prefix: str) -> dict:
    """diffusers' configuration of the transformer, read off the shapes of an original-layout state dict."""

    def shape(key: str) -> torch.Size:
        if prefix + key not in sd:
            raise SageError(
                f"The transformer lacks {key!r}: the file is incomplete or of an unknown architecture; choose"
                " another checkpoint."
            )
        return sd[prefix + key].shape

    width, channels, patch, _ = shape("x_embedder.proj.weight")
    return {
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shape("final_layer.linear.weight")[0] // patch**2,
        "num_layers": _count(sd, prefix),
        "attention_head_dim": HEAD,
        "num_attention_heads": width // HEAD,
        "joint_attention_dim": shape("context_embedder.weight")[1],
        "caption_projection_dim": width,
        "pooled_projection_dim": shape("y_embedder.mlp.0.weight")[1],
        "pos_embed_max_size": math.isqrt(shape("pos_embed")[1]),
        "qk_norm": "rms_norm" if f"{prefix}joint_blocks.0.x_block.attn.ln_q.weight" in sd else None,
        "dual_attention_layers": tuple(
            i for i in range(_count(sd, prefix)) if f"{prefix}joint_blocks.{i}.x_block.attn2.qkv.weight" in sd
        ),
    }


def _count(sd: Mapping[str, torch.Tensor], prefix: str) -> int:
    start = prefix + "joint_blocks."
    return 1 + max(int(k.removeprefix(start).split(".")[0]) for k in sd if k.startswith(start))


def to_diffusers(sd: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The transformer's tensors under original names (after `prefix`), renamed and split."""
    last, out = f"joint_blocks.{_count(sd, prefix) - 1}.", {}
    for key, value in sd.items():
        if not key.startswith(prefix):
            continue
        module, _, kind = key.removeprefix(prefix).rpartition(".")
        if key == prefix + "pos_embed":
            out[TOP["pos_embed"]] = value
        elif module in TOP:
            swapped = module.startswith("final_layer.adaLN")
            out[f"{TOP[module]}.{kind}"] = _scale_first(value) if swapped else value
        elif module.startswith("joint_blocks."):
            _, index, own = module.split(".", 2)
            base = f"transformer_blocks.{index}"
            if own in JOINED:
                for name, part in zip(JOINED[own], value.chunk(3)):
                    out[f"{base}.{name}.{kind}"] = part
            elif own in BLOCK:
                swapped = module.startswith(last) and own == "context_block.adaLN_modulation.1"
                out[f"{base}.{BLOCK[own]}.{kind}"] = _scale_first(value) if swapped else value
    return out


def to_original(sd: Mapping[str, torch.Tensor], layers: int, prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of `to_diffusers`. layers: number of blocks."""
    top = {new: old for old, new in TOP.items()}
    block = {new: old for old, new in BLOCK.items()}
    joined = {names[0]: (old, names) for old, names in JOINED.items()}
    out = {}
    for key, value in sd.items():
        module, _, kind = key.rpartition(".")
        if key == TOP["pos_embed"]:
            out[prefix + "pos_embed"] = value
        elif module in top:
            swapped = module == "norm_out.linear"
            out[f"{prefix}{top[module]}.{kind}"] = _scale_first(value) if swapped else value
        elif module.startswith("transformer_blocks."):
            _, index, own = module.split(".", 2)
            base = f"{prefix}joint_blocks.{index}"
            if own in joined:
                old, names = joined[own]
                parts = [sd[f"transformer_blocks.{index}.{name}.{kind}"] for name in names]
                out[f"{base}.{old}.{kind}"] = torch.cat(parts)
            elif own in block:
                swapped = own == "norm1_context.linear" and int(index) == layers - 1
                out[f"{base}.{block[own]}.{kind}"] = _scale_first(value) if swapped else value
    return out


def widened(sd: Mapping[str, torch.Tensor], config: Mapping) -> dict[str, torch.Tensor]:
    """The transformer's tensors in diffusers' names, as wide as the configuration says: a model that was
    trained with CLIP-L alone may be stored without the columns that then only read zeros.
    """
    widths = {
        "context_embedder.weight": config.get("joint_attention_dim"),
        "time_text_embed.text_embedder.linear_1.weight": config.get("pooled_projection_dim"),
    }
    out = dict(sd)
    for key, width in widths.items():
        if key in out and isinstance(width, int) and 0 < width - out[key].shape[1] <= CONTEXT:
            out[key] = torch.nn.functional.pad(out[key], (0, width - out[key].shape[1]))
    return out


def _scale_first(value: torch.Tensor) -> torch.Tensor:
    """The two halves of a final modulation exchanged: one layout has the shift first, the other the scale."""
    return torch.cat(value.chunk(2)[::-1])
