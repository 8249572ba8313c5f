"""What a checkpoint is, detected from its tensors' names and shapes.

SD 1.x, 2.x and SDXL differ in data, not in code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import SageError

UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Family:
    """One line of models. `clip_layer`: which hidden state of the text encoder the network reads.

    flow: a rectified flow, whose network predicts the velocity noise - z_0. latent_channels: of the
    autoencoder. cross: ends of the names of the linear layers through which the network reads text.
    readers: those of them that read the prompt itself, whatever the picture and the time, so that a closed
    form can edit them; values: those of the readers that it edits where the edit is to be weak, to train on.
    thing_start, style_start: how strong such an edit is, of a UNet's; 0: training starts from nothing.
    compression: pixels a latent, a side. names: of a network that a host runs, patterns of the layers that
    are trained, with what diffusers calls each; several names are equal parts of its output, one below the
    other. watched: whether they are found by watching the network instead.
    """

    name: str  # sd1, sd2, sdxl
    title: str
    text_prefixes: tuple[str, ...]  # where each text encoder lies in a single-file checkpoint
    open_clip: tuple[bool, ...]  # which of them is stored with OpenCLIP's names
    clip_layer: str  # "last": final norm applied; "penultimate": before the last layer, no norm
    modelspec: str  # `modelspec.architecture` of a LoRA for it
    sample_size: int  # pixels it was trained at
    vae_scale: float
    flow: bool = False
    latent_channels: int = 4
    vae_shift: float = 0.0
    cross: tuple[str, ...] = ("attn2_to_q", "attn2_to_k", "attn2_to_v", "attn2_to_out_0")
    readers: tuple[str, ...] = ("attn2_to_k", "attn2_to_v")
    values: tuple[str, ...] = ("attn2_to_v",)
    thing_start: float = 1.0
    style_start: float = 1.0
    compression: int = 8
    names: tuple[tuple[str, tuple[str, ...]], ...] = ()
    watched: bool = False


FAMILIES = {
    "sd1": Family(
        "sd1",
        "Stable Diffusion 1.x",
        ("cond_stage_model.transformer.",),
        (False,),
        "last",
        "stable-diffusion-v1/lora",
        512,
        0.18215,
    ),
    "sd2": Family(
        "sd2",
        "Stable Diffusion 2.x",
        ("cond_stage_model.model.",),
        (True,),
        "last",
        "stable-diffusion-v2-512/lora",
        512,
        0.18215,
    ),
    "sdxl": Family(
        "sdxl",
        "Stable Diffusion XL",
        ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
        (False, True),
        "penultimate",
        "stable-diffusion-xl-v1-base/lora",
        1024,
        0.13025,
    ),
    "sd3": Family(
        "sd3",
        "Stable Diffusion 3",
        ("text_encoders.clip_l.transformer.", "text_encoders.clip_g.transformer."),
        (False, False),
        "joined",
        "stable-diffusion-v3/lora",
        1024,
        1.5305,
        flow=True,
        latent_channels=16,
        vae_shift=0.0609,
        # Image and text tokens are one sequence in the blocks, but each has projections of its own.
        cross=(
            "attn_add_q_proj",
            "attn_add_k_proj",
            "attn_add_v_proj",
            "attn_to_add_out",
            "context_embedder",
            "text_embedder_linear_1",
        ),
        readers=("context_embedder",),
        values=("context_embedder",),
        # Most that the network knows of the prompt comes through there: no edit of it is weak.
        thing_start=0.0,
        style_start=0.7,
    ),
}


def recognise(keys) -> Family:
    """The family of a single-file state dict. Raises SageError, naming what was seen, for anything else."""
    keys = list(keys)

    def has(prefix: str) -> bool:
        return any(k.startswith(prefix) for k in keys)

    if has("conditioner.embedders.0.model.") and not has("conditioner.embedders.1."):
        raise SageError(
            "This is the SDXL refiner, which has no text encoder of its own to erase from; use the SDXL base"
            " checkpoint."
        )
    if has(UNET + "joint_blocks."):
        if has(FAMILIES["sd3"].text_prefixes[0]):
            return FAMILIES["sd3"]
        raise SageError(
            "The Stable Diffusion 3 checkpoint has no CLIP-L text encoder; choose a file that holds it, or"
            " connect it."
        )
    if not has(UNET + "input_blocks."):
        known = {
            "double_blocks.": "Flux",
            "joint_blocks.": "a bare Stable Diffusion 3 transformer",
            "lora_unet_": "a LoRA",
            "down_blocks.": "a bare UNet in diffusers layout",
        }
        guess = next(
            (what for part, what in known.items() if any(part in k for k in keys)),
            "not a Stable Diffusion checkpoint",
        )
        raise SageError(
            f"The file holds no Stable Diffusion 1.x, 2.x, XL or 3 model (it looks like {guess}; first tensor"
            f" {keys[0] if keys else 'none'!r}); choose a full checkpoint of one of these."
        )
    for family in FAMILIES.values():
        if all(has(p) for p in family.text_prefixes):
            return family
    raise SageError(
        "The checkpoint has a UNet but no text encoder; choose a file that holds both (a full checkpoint, not"
        " a UNet alone)."
    )


def unet_config(sd: Mapping[str, torch.Tensor], family: Family) -> dict:
    """diffusers' UNet configuration, read off the shapes of an original-layout state dict."""

    def shape(key: str) -> torch.Size:
        if UNET + key not in sd:
            raise SageError(
                f"The UNet lacks {key!r}: the file is incomplete or of an unknown architecture; choose"
                " another checkpoint."
            )
        return sd[UNET + key].shape

    blocks = 1 + max(int(k[len(UNET) :].split(".")[1]) for k in sd if k.startswith(UNET + "input_blocks."))
    downs = [i for i in range(1, blocks) if UNET + f"input_blocks.{i}.0.op.weight" in sd]
    levels = len(downs) + 1
    layers = (blocks - levels) // levels
    channels, depths = [], []
    for level in range(levels):
        last = 1 + level * (layers + 1) + layers - 1
        channels.append(shape(f"input_blocks.{last}.0.out_layers.3.weight")[0])
        depths.append(_transformer_depth(sd, f"{UNET}input_blocks.{last}.1."))
    first = next(k for k in sd if k.startswith(UNET) and k.endswith("attn2.to_k.weight"))
    linear = (
        sd[UNET + "middle_block.1.proj_in.weight"].ndim == 2
        if UNET + "middle_block.1.proj_in.weight" in sd
        else False
    )
    if shape("input_blocks.0.0.weight")[1] != 4:
        raise SageError(
            f"The UNet takes {shape('input_blocks.0.0.weight')[1]} input channels (an inpainting or depth"
            " model); only plain text-to-image models (4) are supported."
        )
    config = {
        "sample_size": family.sample_size // 8,
        "in_channels": 4,
        "out_channels": 4,
        "layers_per_block": layers,
        "block_out_channels": channels,
        "cross_attention_dim": sd[first].shape[1],
        "use_linear_projection": linear,
        # Heads cannot be read off shapes: SD 1.x has 8 everywhere, the others 64 channels a head.
        "attention_head_dim": [max(1, c // 64) for c in channels] if linear else 8,
        "transformer_layers_per_block": [max(1, d) for d in depths],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)],
    }
    if UNET + "label_emb.0.0.weight" in sd:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shape("label_emb.0.0.weight")[1],
        }
    return config


def _transformer_depth(sd: Mapping[str, torch.Tensor], prefix: str) -> int:
    found = {
        int(m.group(1))
        for k in sd
        if k.startswith(prefix) and (m := re.match(re.escape(prefix) + r"transformer_blocks\.(\d+)\.", k))
    }
    return len(found)


def clip_config(sd: Mapping[str, torch.Tensor], quick_gelu: bool) -> dict:
    """transformers' CLIPTextConfig, read off the shapes of a state dict in transformers' names (with
    `text_model.`).
    """
    embedding = sd["text_model.embeddings.token_embedding.weight"]
    width = embedding.shape[1]
    layers = 1 + max(int(k.split(".")[3]) for k in sd if k.startswith("text_model.encoder.layers."))
    projection = sd.get("text_projection.weight")
    return {
        "vocab_size": embedding.shape[0],
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": sd["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        "max_position_embeddings": sd["text_model.embeddings.position_embedding.weight"].shape[0],
        "hidden_act": "quick_gelu" if quick_gelu else "gelu",
        "projection_dim": width if projection is None else projection.shape[0],
        "bos_token_id": embedding.shape[0] - 2,
        "eos_token_id": embedding.shape[0] - 1,
        "pad_token_id": embedding.shape[0] - 1,
    }


def refuse_continuous(sd: Mapping[str, torch.Tensor]) -> None:
    """Raises SageError for SDXL models that are sampled on EDM's continuous noise levels; hosts know them by
    these tensors.
    """
    if found := next((k for k in ("edm_mean", "edm_vpred.sigma_max") if k in sd), None):
        raise SageError(
            f"The model is made for EDM's continuous noise levels (tensor {found!r}), not for Stable"
            " Diffusion's 1000 timesteps; this model cannot be used."
        )


def predicts_velocity(sd: Mapping[str, torch.Tensor], family: Family) -> bool:
    """Whether the UNet predicts v.

    Marked by a `v_pred` tensor, or, for SD 2.x, detected from one norm's spread as hosts do.

    768-v models have a deviation above 0.09 in the first norm's bias of the last attention block, 512-base
    models below.
    """
    if "v_pred" in sd:
        return True
    bias = sd.get(UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias")
    return family.name == "sd2" and bias is not None and bias.float().std(unbiased=False).item() > 0.09
