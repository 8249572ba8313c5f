"""Runs in ComfyUI's own Python:

`inside_memory.py COMFYUI PACK FAMILY` prints JSON: bytes of one sample's forward and backward pass through
ComfyUI's own network at its real size, as training does them. Nothing is allocated: tensors have no data.

`inside_memory.py COMFYUI PACK FAMILY PIXELS` does it with a thinner network, and measures the same pass on
the processor: the process's own peak, in float32.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from types import SimpleNamespace

COMFY, PACK, FAMILY = sys.argv[1:4]
PIXELS = int(sys.argv[4]) if len(sys.argv) > 4 else None
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.supported_models  # noqa: E402
import small_flows  # noqa: E402
import small_others  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402

FLUX = small_flows.FLUX | {"hidden_size": 3072, "num_heads": 24, "depth": 19, "depth_single_blocks": 38}
KLEIN = small_flows.FLUX2 | {"hidden_size": 3072, "num_heads": 24, "depth": 5, "depth_single_blocks": 20}
CHROMA = {"in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 3072, "hidden_dim": 5120}
SD3 = small_flows.SD3 | {"pos_embed_max_size": 192, "num_patches": 36864}
LARGE = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 2432}}
MEDIUM = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}}
SIZES = {  # ComfyUI's class, its configuration, states a prompt has, their width, the pooled state's width
    "FLUX.1 dev": ("Flux", FLUX | {"guidance_embed": True}, 256, 4096, 768),
    "Chroma": (
        "Chroma",
        FLUX | CHROMA | {"image_model": "chroma", "n_layers": 5, "vec_in_dim": None},
        64,
        4096,
        None,
    ),
    "FLUX.2 klein 4B": (
        "Flux2",
        KLEIN | {"context_in_dim": 7680, "guidance_embed": False},
        512,
        7680,
        None,
    ),
    "FLUX.2 dev": (
        "Flux2",
        KLEIN
        | {
            "hidden_size": 6144,
            "num_heads": 48,
            "depth": 8,
            "depth_single_blocks": 48,
            "context_in_dim": 15360,
        },
        512,
        15360,
        None,
    ),
    "Qwen-Image": (
        "QwenImage",
        small_flows.QWEN | {"num_layers": 60, "num_attention_heads": 24, "joint_attention_dim": 3584},
        32,
        3584,
        None,
    ),
    "Z-Image": (
        "ZImage",
        small_flows.Z_IMAGE
        | {"dim": 3840, "n_layers": 30, "n_heads": 30, "n_kv_heads": 30, "cap_feat_dim": 2560},
        32,
        2560,
        None,
    ),
    "SD 3.5 medium": (
        "SD3",
        SD3
        | {
            "depth": 24,
            "context_embedder_config": MEDIUM,
            "x_block_self_attn_layers": list(range(13)),
            "pos_embed_max_size": 384,
            "num_patches": 147456,
        },
        154,
        4096,
        2048,
    ),
    "SD 3.5 large": (
        "SD3",
        SD3 | {"depth": 38, "context_embedder_config": LARGE, "x_block_self_attn_layers": []},
        154,
        4096,
        2048,
    ),
    "Krea 2": (
        "Krea2",
        {"image_model": "krea2"},
        64,
        12 * 2560,
        None,
    ),
    "Anima": (
        "Anima",
        small_others.ANIMA
        | {
            "model_channels": 2048,
            "num_blocks": 28,
            "num_heads": 16,
            "adaln_lora_dim": 256,
            "crossattn_emb_channels": 1024,
        },
        512,
        1024,
        None,
    ),
    "HunyuanImage 2.1": (
        "HunyuanImage21",
        small_others.HUNYUAN_IMAGE
        | {
            "hidden_size": 3584,
            "num_heads": 28,
            "depth": 20,
            "depth_single_blocks": 40,
            "context_in_dim": 3584,
        },
        64,
        3584,
        None,
    ),
}
WATCHED = {  # what watching finds in them; tensors without data show nothing
    "Krea2": r"(txtfusion\..*|txtmlp\.[13])",
    "Anima": r"(llm_adapter\..*(?:_proj|mlp\.[02])|blocks\.\d+\.cross_attn\.[kv]_proj)",
    "HunyuanImage21": r"(txt_in\..*|double_blocks\.\d+\.txt_(?:attn|mlp)\..*)",
}
THIN = {  # a quarter or less of the width, a few blocks
    "Flux": {"hidden_size": 768, "num_heads": 6, "depth": 4, "depth_single_blocks": 8},
    "Chroma": {"hidden_size": 768, "num_heads": 6, "depth": 4, "depth_single_blocks": 8, "out_dim": 768},
    "Flux2": {"hidden_size": 768, "num_heads": 6, "depth": 3, "depth_single_blocks": 8},
    "QwenImage": {"num_layers": 10, "num_attention_heads": 6},
    "ZImage": {"dim": 1152, "n_layers": 10, "n_heads": 9, "n_kv_heads": 9},
    "SD3": {},
    "Krea2": {
        "features": 1536,
        "heads": 12,
        "kvheads": 3,
        "layers": 8,
        "txtdim": 640,
        "txtheads": 5,
        "txtkvheads": 5,
    },
    "Anima": {"model_channels": 1024, "num_blocks": 10, "num_heads": 8},
    "HunyuanImage21": {"hidden_size": 768, "num_heads": 6, "depth": 4, "depth_single_blocks": 8},
}


def network(kind: str, config: dict, device: str, dtype: torch.dtype):
    """ComfyUI's whole model of a class, weights as they come."""
    known = getattr(comfy.supported_models, kind, None)
    if known is None:
        return None
    known = known(dict(config))
    params = small_flows.PARAMS.get(config.get("image_model"))
    if params is not None:
        fields = {name for name in params.__dataclass_fields__}
        known.unet_config = {k: v for k, v in known.unet_config.items() if k in {*fields, "image_model"}}
    known.set_inference_dtype(dtype, None)
    return known.get_model({}, "", device=device).eval().requires_grad_(False)


def arguments(model, states: int, width: int, pooled: int | None, side: int, device: str) -> tuple:
    """(latents, arguments of `apply_model`) for one prompt."""
    shape = [1, model.latent_format.latent_channels, side, side]
    if getattr(model.latent_format, "latent_dimensions", 2) == 3:
        shape.insert(2, 1)
    x = torch.empty(shape, device=device).normal_() if device == "cpu" else torch.empty(shape, device=device)
    known = {
        "cross_attn": torch.zeros(1, states, width, device=device),
        "noise": x,
        "device": torch.device(device),
        "pooled_output": None if pooled is None else torch.zeros(1, pooled, device=device),
        "guidance": 1.0,
    }
    if type(model).__name__ in ("QwenImage", "Lumina2"):
        known["attention_mask"] = torch.ones(1, states, dtype=torch.long)
    conds = model.extra_conds(**known)
    ready = {}
    for key, cond in conds.items():
        value = cond.process_cond(batch_size=1, device=torch.device(device), area=None).cond
        ready[key] = value.to(device) if isinstance(value, torch.Tensor) else value
    return x, ready


class Resident:
    """The most that the process holds while it is inside, in bytes beyond what it held before."""

    def __enter__(self):
        gc.collect()
        self.first = self.peak = now()
        self.on = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while self.on:
            self.peak = max(self.peak, now())
            time.sleep(0.002)

    def __exit__(self, *exc) -> None:
        self.on = False
        self.thread.join()
        self.bytes = self.peak - self.first


def now() -> int:
    with open("/proc/self/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * 4096


def passed(model, family, adapter_of, x, conds) -> None:
    from sage_pack.nodes.gradients import for_training

    with torch.inference_mode(False), torch.enable_grad(), for_training(model.diffusion_model):
        adapter_of(model)
        s = torch.full((1,), 0.5, device=x.device)
        model.apply_model(x, s, **conds).float().square().mean().backward()


def adapter_of(family):
    from sage_pack.sage_core.lora.adapter import Adapter
    from sage_pack.sage_core.lora.surfaces import hosted_layers

    def made(model):
        layers = hosted_layers(SimpleNamespace(unet=model.diffusion_model, family=family))
        device = next(model.parameters()).device
        return Adapter.create(layers, 8, 8.0, torch.Generator(), device)

    return made


def family_of(kind: str):
    from sage_pack.nodes.variants import KINDS
    from sage_pack.sage_core.diffusion.hosted_families import HOSTED, hosted_family

    if kind in WATCHED:
        names = ((WATCHED[kind], ("diffusion_model.{0}",)),)
        return hosted_family(kind, kind, kind, names, compression=32 if kind.startswith("Hunyuan") else 8)
    return HOSTED[KINDS["Lumina2" if kind == "ZImage" else kind]]


def main() -> dict:
    from sage_pack.nodes.hosted import largest_block, training_room
    from sage_pack.sage_core.memory.rehearsal import Meter, lean_attention

    kind, config, states, width, pooled = SIZES[FAMILY]
    family = family_of(kind)
    if PIXELS is not None:
        config = config | THIN[kind]
        width = 12 * config["txtdim"] if kind == "Krea2" else width
    dtype = torch.bfloat16 if PIXELS is None else torch.float32
    side = (PIXELS or family.sample_size) // family.compression
    ghost = network(kind, config, "meta", dtype)
    if ghost is None:
        return {"missing": True}
    x, conds = arguments(ghost, states, width, pooled, side, "meta")
    with Meter() as meter, lean_attention():
        passed(ghost, family, adapter_of(family), x, conds)
    block = largest_block(ghost.diffusion_model)
    found = {
        "weights": sum(p.nbytes for p in ghost.diffusion_model.parameters()),
        "block": block * dtype.itemsize,
        "step": meter.peak,
        "room": int(training_room(ghost, list(x.shape), dtype, block)),
    }
    if PIXELS is not None:
        torch.manual_seed(0)
        model = network(kind, config, "cpu", dtype)
        small_flows.draw(model.diffusion_model)
        x, conds = arguments(model, states, width, pooled, side, "cpu")
        passed(model, family, adapter_of(family), x, conds)  # a first pass sets up more than it needs
        with Resident() as resident:
            passed(model, family, adapter_of(family), x, conds)
        found["measured"] = resident.bytes
    return found


import_pack(PACK)
print("RESULT" + json.dumps(main()))
