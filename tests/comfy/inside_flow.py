"""Runs in ComfyUI's own Python:

`inside_flow.py COMFYUI PACK MODEL LORA STATES` prints JSON.

It opens a small SD3 in ComfyUI, reads it back as Erase Concept does, and puts the core's LoRA on it. STATES:
what the core's model makes of the same latents, prompts and times, without and with the LoRA.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, MODEL, LORA, STATES = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management as management  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402


def predicted(model, clip, states: dict) -> torch.Tensor:
    """The noise in the flow's mixture x at time s, from the clean latents that `apply_model` returns."""
    from sage_pack.nodes import bridge

    hidden, extra = bridge.encode(clip, states["prompt"])[0]
    management.load_models_gpu([model], force_patch_weights=True)
    x, s = states["x"], states["s"]
    with torch.no_grad():
        clean = model.model.apply_model(x, s, c_crossattn=hidden, y=extra["pooled_output"])
    return x + (1 - s) * (x - clean) / s


def main() -> None:
    from sage_pack.nodes import bridge, core_model, demo_flow
    from sage_pack.sage_core.models import load_model

    states = torch.load(STATES, weights_only=True)
    with torch.inference_mode():
        model, clip, vae = demo_flow.load(Path(MODEL))
        plain = predicted(model, clip, states)
        drawn = bridge.sample(model, clip, states["prompt"], [1, 2], (64, 64), 4, 3.0)
        picture = bridge.decode(vae, drawn)
        core = core_model.core_model(model, clip)
        erased = predicted(*bridge.apply_lora(model, clip, Path(LORA)), states)
    result = {
        "plain": (plain - states["plain"]).abs().max().item(),
        "erased": (erased - states["erased"]).abs().max().item(),
        "effect": (states["erased"] - states["plain"]).abs().max().item(),
        "family": core.family.name,
        "sampling": core.sampling,
        "same model": core.fingerprint == load_model(MODEL).fingerprint,
        "latents": list(drawn.shape),
        "picture": list(picture.shape),
    }
    print("RESULT" + json.dumps(result))


import_pack(PACK)
main()
