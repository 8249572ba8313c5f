"""Small random models that share a class of ComfyUI's with a family of small_flows.py, or are near to one."""

from __future__ import annotations

import inspect
from dataclasses import fields

import small_flows as flows
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.lumina.model import NextDiT
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

DEV = flows.FLUX | {"guidance_embed": True}
SCHNELL = flows.FLUX | {"guidance_embed": False}
LUMINA2 = {  # heads of 96
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 384,
    "cap_feat_dim": 512,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 4,
    "n_kv_heads": 4,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
}
RADIANCE = flows.CHROMA | {
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 2,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": None,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
TRAINED = {  # name: ComfyUI's configuration class, and what its detection finds
    "kontext": ("Flux", DEV),
    "klein": ("Flux2", flows.FLUX2 | {"guidance_embed": False}),
    "chroma": ("Chroma", flows.CHROMA),
    "qwen-edit": ("QwenImage", flows.QWEN),
    "qwen-edit-2511": ("QwenImage", flows.QWEN | {"default_ref_method": "index_timestep_zero"}),
    "z-image": ("ZImage", flows.Z_IMAGE),
    "z-image-omni": ("ZImage", flows.Z_IMAGE | {"siglip_feat_dim": 64}),
    "ovis": ("FluxSchnell", SCHNELL | {"vec_in_dim": None, "yak_mlp": True, "txt_norm": True}),
    "longcat": ("LongCatImage", SCHNELL | {"vec_in_dim": None, "context_in_dim": 3584}),
    "lumina2": ("Lumina2", LUMINA2),
}
ALONE = ("ovis", "longcat", "lumina2")  # never with a reference picture
REFUSED = {
    "fill": ("FluxInpaint", DEV | {"in_channels": 96}),
    "canny": ("Flux", DEV | {"in_channels": 32}),
    "control-lora": ("Flux", DEV),
    "layered": ("QwenImage", flows.QWEN | {"use_additional_t_cond": True}),
    "radiance": ("ChromaRadiance", RADIANCE),
    "z-image-pixels": (
        "ZImagePixelSpace",
        flows.Z_IMAGE | {"image_model": "zimage_pixel", "in_channels": 3, "decoder_hidden_size": 64},
    ),
}


def model(name: str):
    """A MODEL, or None where this ComfyUI lacks the class or the network lacks what sets the model apart."""
    kind, config = (TRAINED | REFUSED)[name]
    known = {
        "ovis": {field.name for field in fields(FluxParams)},
        "qwen-edit-2511": inspect.signature(QwenImageTransformer2DModel).parameters,
        "layered": inspect.signature(QwenImageTransformer2DModel).parameters,
        "z-image-omni": inspect.signature(NextDiT).parameters,
    }
    if name in known and not set(config) <= {*known[name], "image_model"}:
        return None
    return flows.built(kind, config)


def clip(name: str):
    """A CLIP of words as wide as the model asks for."""
    config = (TRAINED | REFUSED)[name][1]
    width = config.get("context_in_dim") or config.get("cap_feat_dim") or config["joint_attention_dim"]
    masked = config["image_model"] in ("qwen_image", "lumina2")
    return flows.WordClip(width, config.get("vec_in_dim"), masked, length=16 if width == 4096 else None)
