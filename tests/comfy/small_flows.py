"""Small random models of newer rectified flows inside ComfyUI, and a CLIP that needs no encoder.

ComfyUI builds each model from a state dict as its loaders do; the widths are the least that it recognises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types

import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from comfy.ldm.chroma.model import ChromaParams
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams


class WordClip:
    """A CLIP of the two methods that are used: each word has a random state of its own, by its letters.

    lengths: states a prompt has; None: as many as words, with one at least.
    """

    def __init__(self, width: int, pooled: int | None, masked: bool = False, length: int | None = None):
        self.width, self.pooled, self.masked, self.length = width, pooled, masked, length
        self.asked: list[str] = []

    def tokenize(self, text: str) -> dict:
        return {"words": text}

    def encode_from_tokens_scheduled(self, tokens: dict) -> list:
        text = tokens["words"]
        self.asked.append(text)
        words = ["<start>", *text.split()]
        words += [""] * max(0, (self.length or 0) - len(words))
        states = torch.stack([_state(word, self.width) for word in words])[None]
        extra = {"pooled_output": None if self.pooled is None else _state(text, self.pooled)[None]}
        if self.masked:
            extra["attention_mask"] = torch.ones(1, len(words), dtype=torch.long)
        return [[states, extra]]


def _state(word: str, width: int) -> torch.Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


def linear(sd: dict, name: str, wide: int, narrow: int) -> None:
    sd[f"{name}.weight"] = torch.randn(wide, narrow) / narrow**0.5
    sd[f"{name}.bias"] = 0.02 * torch.randn(wide)


def flux(guidance: bool = True, width: int = 256, double: int = 2, single: int = 1) -> dict:
    """FLUX.1: heads of 128."""
    sd: dict = {}
    linear(sd, "img_in", width, 64)
    linear(sd, "txt_in", width, 4096)
    for name, narrow in (("time_in", 256), ("vector_in", 768), *([("guidance_in", 256)] if guidance else [])):
        linear(sd, f"{name}.in_layer", width, narrow)
        linear(sd, f"{name}.out_layer", width, width)
    blocks(sd, width, double, single, mlp=4)
    for i in range(double):
        for stream in ("img", "txt"):
            linear(sd, f"double_blocks.{i}.{stream}_mod.lin", 6 * width, width)
    for i in range(single):
        linear(sd, f"single_blocks.{i}.modulation.lin", 3 * width, width)
    linear(sd, "final_layer.linear", 64, width)
    linear(sd, "final_layer.adaLN_modulation.1", 2 * width, width)
    return sd


def blocks(
    sd: dict, width: int, double: int, single: int, mlp: int, gated: int = 1, bias: bool = True
) -> None:
    """The blocks of the FLUX families. gated: 2 where the MLP's first layer makes gates too."""
    for i in range(double):
        for stream in ("img", "txt"):
            path = f"double_blocks.{i}.{stream}_"
            linear(sd, f"{path}attn.qkv", 3 * width, width)
            linear(sd, f"{path}attn.proj", width, width)
            for norm in ("query_norm", "key_norm"):
                sd[f"{path}attn.norm.{norm}.scale"] = torch.ones(128)
            linear(sd, f"{path}mlp.0", mlp * width, width)
            linear(sd, f"{path}mlp.2", width, mlp * width)
    for i in range(single):
        path = f"single_blocks.{i}."
        linear(sd, f"{path}linear1", (3 + mlp) * width, width)
        linear(sd, f"{path}linear2", width, (1 + mlp) * width)
        for norm in ("query_norm", "key_norm"):
            sd[f"{path}norm.{norm}.scale"] = torch.ones(128)


def load(sd: dict, **options):
    """A MODEL, as ComfyUI's own loader of diffusion models makes it."""
    model = comfy.sd.load_diffusion_model_state_dict(dict(sd), model_options=options)
    assert model is not None, "ComfyUI does not recognise the state dict"
    return model


FLUX2 = {
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "vec_in_dim": None,
    "context_in_dim": 512,
    "hidden_size": 256,
    "mlp_ratio": 3.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "patch_size": 1,
    "qkv_bias": False,
    "guidance_embed": True,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
}
CHROMA = {
    "image_model": "chroma",
    "in_channels": 64,
    "out_channels": 64,
    "context_in_dim": 512,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "in_dim": 64,
    "out_dim": 256,
    "hidden_dim": 128,
    "n_layers": 2,
    "txt_ids_dims": [],
    "vec_in_dim": None,
}
QWEN = {
    "image_model": "qwen_image",
    "num_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 512,
}
SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 4,  # heads of 64, and as many blocks
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 256},
    },
    "num_patches": 64,
    "pos_embed_max_size": 8,
    "qk_norm": "rms",
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [0],  # as SD 3.5 medium has them
}
Z_IMAGE = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 384,  # 8/3 of it is what both ComfyUI and diffusers take for the MLP
    "cap_feat_dim": 512,
    "n_layers": 2,
    "qk_norm": True,
    "n_heads": 3,
    "n_kv_heads": 3,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}


PARAMS = {
    "chroma": ChromaParams,
    "chroma_radiance": ChromaRadianceParams,
    "flux": FluxParams,
    "flux2": FluxParams,
    "hunyuan_video": HunyuanVideoParams,
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


def flux1(guidance: bool, dtype: torch.dtype):
    """FLUX.1 as ComfyUI's loader makes it; older versions detect no other number of heads than 24."""
    try:
        return load(flux(guidance), dtype=dtype)
    except (ValueError, RuntimeError):  # no such number of heads, or no such width
        name = "Flux" if guidance else "FluxSchnell"
        return built(name, FLUX | {"guidance_embed": guidance}, dtype)


def built(
    name: str,
    config: dict,
    dtype: torch.dtype = torch.float32,
    sd: dict | None = None,
    operations=None,
    quantised: dict | None = None,
):
    """A MODEL of one of ComfyUI's classes at a width that its detection does not know, with these weights or
    random ones. operations: of a custom loader. quantised: what ComfyUI's detection says of such weights,
    which are computed with in float32.

    None where this ComfyUI has no such class.
    """
    kind = getattr(comfy.supported_models, name, None)
    if kind is None:
        return None
    known = kind(dict(config))
    params = PARAMS.get(config.get("image_model"))
    if params is not None:  # not every version knows all of them
        fields = {field.name for field in dataclasses.fields(params)}
        known.unet_config = {k: v for k, v in known.unet_config.items() if k in {*fields, "image_model"}}
    for key, value in (quantised or {}).items():
        setattr(known, key, value)
    plain = dtype == torch.float32 and not quantised
    known.set_inference_dtype(dtype, None if plain else torch.float32)
    known.custom_operations = operations
    model = known.get_model({}, "")
    if sd is None:
        draw(model.diffusion_model)
    else:
        model.load_model_weights(dict(sd), "")
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def draw(network: torch.nn.Module) -> None:
    """Random weights."""
    for key, p in network.named_parameters():
        noise = torch.randn(p.shape)
        norm = p.ndim == 1 and not key.endswith("bias")
        value = 1 + 0.02 * noise if norm else noise / p.shape[-1] ** 0.5 if p.ndim > 1 else 0.02 * noise
        p.data = value.to(p.dtype)
    if isinstance(getattr(network, "pos_embed", None), torch.Tensor):  # a buffer, which is made empty
        network.pos_embed.copy_(0.1 * torch.randn(network.pos_embed.shape))


KINDS = {
    "flux2": ("Flux2", FLUX2),
    "klein": ("Flux2", FLUX2 | {"guidance_embed": False}),
    "chroma": ("Chroma", CHROMA),
    "qwen_image": ("QwenImage", QWEN),
    "sd3": ("SD3", SD3),
    "z_image": ("ZImage", Z_IMAGE),
}


def family(name: str):
    """(MODEL, CLIP) of a family; (None, None) where this ComfyUI does not have it."""
    from small_others import OTHERS, other

    if name in OTHERS:
        return other(name)
    if name in ("flux1", "schnell", "flux1-fp8"):
        dtype = torch.float8_e4m3fn if name.endswith("fp8") else torch.float32
        return flux1(name != "schnell", dtype), clip(name)
    model = built(*KINDS[name])
    return (None, None) if model is None else (model, clip(name))


def clip(name: str) -> WordClip:
    """As wide as the family asks for."""
    if name not in KINDS:
        return WordClip(4096, 768, length=16)
    if name == "sd3":
        words = WordClip(4096, 2048, length=20)
        words.cond_stage_model = types.SimpleNamespace(t5xxl=True)
        return words
    return WordClip(512, None, masked=name in ("qwen_image", "z_image"))
