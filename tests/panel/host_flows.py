"""Run by Forge's or Forge Neo's own Python, in its folder: its own LoRA code on a file of ours for a newer
flow transformer. Prints a line of JSON.

    python host_flows.py HOST FAMILY NAMES.json [LORA]

HOST: the folder. Without LORA, the names and shapes of the host's own network are written to NAMES.json; with
it, they are read from there: which layers of the file land, and where. The networks have whole widths, few
blocks and no weights.
"""

import json
import re
import sys
from pathlib import Path

FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
}
CHROMA = {"in_dim": 64, "out_dim": 3072, "hidden_dim": 5120, "n_layers": 5}
NETWORKS = {
    "flux1": ("flux.IntegratedFluxTransformer2DModel", FLUX | {"vec_in_dim": 768, "guidance_embed": True}),
    "flux2": (
        "flux.IntegratedFluxTransformer2DModel",
        FLUX
        | {
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "context_in_dim": 7680,
            "mlp_ratio": 3.0,
            "axes_dim": [32, 32, 32, 32],
            "theta": 2000,
            "patch_size": 1,
            "qkv_bias": False,
            "guidance_embed": False,
            "txt_ids_dims": [3],
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        },
    ),
    "chroma": (
        "chroma.IntegratedChromaTransformer2DModel",
        FLUX | CHROMA | {"in_channels": 64, "out_channels": 64, "txt_ids_dims": [], "vec_in_dim": None},
    ),
    "qwen_image": ("qwen.QwenImageTransformer2DModel", {"num_layers": 2}),
    "z_image": (
        "lumina.NextDiT",
        {
            "patch_size": 2,
            "in_channels": 16,
            "dim": 3840,
            "cap_feat_dim": 2560,
            "n_layers": 2,
            "qk_norm": True,
            "n_heads": 30,
            "n_kv_heads": 30,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8.0 / 3.0,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
    ),
}


def main(folder: str, family: str, names: str, lora: str = "") -> None:
    about = (Path(folder) / "backend" / "args.py").read_text(encoding="utf-8")
    sys.argv = [sys.argv[0], "--always-cpu" if "--always-cpu" in about else "--cpu"]
    sys.path[:0] = [folder, f"{folder}/modules_forge/packages", f"{folder}/repositories/huggingface_guess"]
    import importlib
    import inspect

    import torch

    path, config = NETWORKS[family]
    module, name = path.split(".")
    kind = getattr(importlib.import_module(f"backend.nn.{module}"), name)
    known = inspect.signature(kind.__init__).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        config = {key: value for key, value in config.items() if key in known}
    with torch.device("meta"):
        network = kind(**config)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    if not lora:
        with open(names, "w", encoding="utf-8") as f:
            json.dump(shapes, f)
        print("\n" + json.dumps({"layers": len(shapes)}))
        return
    print("\n" + json.dumps(landed(network, shapes, lora)))


def landed(network, shapes: dict, lora: str) -> dict:
    import torch
    from backend.patcher.lora import load_lora, model_lora_keys_unet
    from huggingface_guess import guess
    from safetensors.torch import load_file

    prefix = "model.diffusion_model."
    sd = {
        prefix + re.sub(r"(norms\.\d+)\.weight", r"\1.scale", key): torch.empty(shape, device="meta")
        for key, shape in shapes.items()  # whose norms files name otherwise
    }
    whole = torch.nn.Module()
    whole.config, whole.diffusion_model = guess(sd), network
    network.config = whole.config.unet_config
    found = model_lora_keys_unet(whole, {})
    keys = found[1] if isinstance(found, tuple) else found
    file = load_file(lora)
    patched, rest = load_lora(file, keys)
    places, own = [], whole.state_dict()
    for place in patched:
        name, part = (place, None) if isinstance(place, str) else (place[0], place[1])
        places.append([name.removeprefix("diffusion_model."), part and list(part), name in own])
    return {"model": whole.config.huggingface_repo, "left over": len(rest), "places": places}


main(*sys.argv[1:])
