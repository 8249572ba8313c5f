"""Small random models of newer rectified flows inside ComfyUI, and a CLIP that needs no encoder.

ComfyUI builds each model from a state dict as its loaders do; the widths are the least that it recognises.
"""

from __future__ import annotations

import hashlib

import comfy.model_detection
import comfy.sd
import torch

WIDTHS = {"flux1": 4096, "schnell": 4096, "chroma": 4096, "flux2": 7680, "qwen_image": 3584, "z_image": 2560}


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


def linear(sd: dict, name: str, wide: int, narrow: int, bias: bool = True) -> None:
    sd[f"{name}.weight"] = torch.randn(wide, narrow) / narrow**0.5
    if bias:
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
            linear(sd, f"{path}attn.qkv", 3 * width, width, bias)
            linear(sd, f"{path}attn.proj", width, width, bias)
            for norm in ("query_norm", "key_norm"):
                sd[f"{path}attn.norm.{norm}.scale"] = torch.ones(128)
            linear(sd, f"{path}mlp.0", gated * mlp * width, width, bias)
            linear(sd, f"{path}mlp.2", width, mlp * width, bias)
    for i in range(single):
        path = f"single_blocks.{i}."
        linear(sd, f"{path}linear1", (3 + gated * mlp) * width, width, bias)
        linear(sd, f"{path}linear2", width, (1 + mlp) * width, bias)
        for norm in ("query_norm", "key_norm"):
            sd[f"{path}norm.{norm}.scale"] = torch.ones(128)


def load(sd: dict, **options):
    """A MODEL, as ComfyUI's own loader of diffusion models makes it."""
    model = comfy.sd.load_diffusion_model_state_dict(dict(sd), model_options=options)
    assert model is not None, "ComfyUI does not recognise the state dict"
    return model
