"""Rectified flows that a host runs: which of a network's layers are trained, and what diffusers calls them.

Trained are layers that only text goes through. Where text and picture share all weights of a block, as in
Z-Image's main blocks and FLUX's single ones, they are left alone: an ordinary LoRA there changes pictures
that say nothing of the concept.
"""

from __future__ import annotations

import re

from .architecture import Family

BLOCK = "transformer.transformer_blocks.{0}.attn."
JOINED = tuple(BLOCK + part for part in ("add_q_proj", "add_k_proj", "add_v_proj"))
DOUBLE_BLOCKS = (
    (r"double_blocks\.(\d+)\.txt_attn\.qkv", JOINED),
    (r"double_blocks\.(\d+)\.txt_attn\.proj", (BLOCK + "to_add_out",)),
    (r"txt_in", ("transformer.context_embedder",)),
)
POOLED = ((r"vector_in\.in_layer", ("transformer.time_text_embed.text_embedder.linear_1",)),)
SD3 = (
    (r"joint_blocks\.(\d+)\.context_block\.attn\.qkv", JOINED),
    (r"joint_blocks\.(\d+)\.context_block\.attn\.proj", (BLOCK + "to_add_out",)),
    (r"context_embedder", ("transformer.context_embedder",)),
    (r"y_embedder\.mlp\.0", ("transformer.time_text_embed.text_embedder.linear_1",)),
)
QWEN = (
    (r"(transformer_blocks\.\d+\.attn\.(?:add_[qkv]_proj|to_add_out))", ("transformer.{0}",)),
    (r"txt_in", ("transformer.txt_in",)),
)
REFINER = "diffusion_model.context_refiner.{0}."
ATTENTION = REFINER + "attention."
Z_IMAGE = (
    (
        r"context_refiner\.(\d+)\.attention\.qkv",
        tuple(ATTENTION + part for part in ("to_q", "to_k", "to_v")),
    ),
    (r"context_refiner\.(\d+)\.attention\.out", (ATTENTION + "to_out.0",)),
    (r"context_refiner\.(\d+)\.feed_forward\.(w[123])", (REFINER + "feed_forward.{1}",)),
    (r"cap_embedder\.1", ("diffusion_model.cap_embedder.1",)),
)


def hosted_family(
    name: str, title: str, modelspec: str, names, channels: int = 16, compression: int = 8
) -> Family:
    """A family that a host runs. names: see Family; none where they are found by watching the network."""
    return Family(
        name,
        title,
        (),
        (),
        "host",
        f"{modelspec}/lora",
        1024,
        1.0,
        flow=True,
        latent_channels=channels,
        cross=(),
        readers=(),
        values=(),
        thing_start=0.0,
        style_start=0.0,
        compression=compression,
        names=names,
        watched=not names,
    )


HOSTED = {
    family.name: family
    for family in (
        hosted_family("flux1", "FLUX.1", "flux-1-dev", DOUBLE_BLOCKS + POOLED),
        hosted_family("chroma", "Chroma", "chroma", DOUBLE_BLOCKS),
        hosted_family("flux2", "FLUX.2", "flux-2", DOUBLE_BLOCKS, channels=128, compression=16),
        hosted_family("sd3_t5", "Stable Diffusion 3 with T5", "stable-diffusion-v3", SD3),
        hosted_family("qwen_image", "Qwen-Image", "qwen-image", QWEN),
        hosted_family("z_image", "Z-Image", "z-image", Z_IMAGE),
    )
}


def diffusers_names(family: Family, path: str) -> tuple[str, ...]:
    """What diffusers calls a layer of a host's network, one name for each equal part of its output; none
    where the layer is not trained.
    """
    for pattern, names in family.names:
        if match := re.fullmatch(pattern, path):
            return tuple(name.format(*match.groups()) for name in names)
    return ()
