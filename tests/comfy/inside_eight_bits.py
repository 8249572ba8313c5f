"""Runs in ComfyUI's own Python: `inside_eight_bits.py COMFYUI PACK FOLDER` prints JSON.

Puts the bundled Stable Diffusion's linear layers into 8-bit floats, has the pack erase a word, and compares
what ComfyUI then draws with the same numbers in 32 bits, and with the LoRA that ComfyUI's own loader adds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, FOLDER = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402

EIGHT = torch.float8_e4m3fn


def loaded(wide: bool):
    """(MODEL, CLIP) whose UNet's matrices have 8-bit values; wide: in 32 bits each."""
    from sage_pack.nodes.demo_checkpoint import load

    model, clip, _ = load()
    for module in model.model.diffusion_model.modules():
        if isinstance(module, torch.nn.Linear):
            value = module.weight.data.to(EIGHT)
            module.weight = torch.nn.Parameter(value.float() if wide else value, requires_grad=False)
            module.comfy_cast_weights = True
    return model, clip


def main() -> dict:
    from sage_pack.nodes import bridge, core_model, graph_weights
    from sage_pack.sage_core import ErasureSpec, erase

    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():  # as the executor runs nodes
        model, clip = loaded(wide=False)
        core = core_model.core_model(model, clip)
        spec = ErasureSpec("dog", method="esd", steps=6)
        with bridge.training():
            erasure = erase(core, spec)
            path = erasure.save(Path(FOLDER) / "dog.safetensors", core)
            erasure.adapter.remove()

        def drawn(own_model, own_clip) -> torch.Tensor:
            return bridge.sample(own_model, own_clip, "a dog", [1, 2], (64, 64), 6, 3.0)

        exact = drawn(*bridge.apply_lora(*loaded(wide=True), path))
        plain = drawn(model, clip)
        applied = bridge.apply_lora(model, clip, path)
        beside = drawn(*applied)
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        rounded = drawn(*comfy.sd.load_lora_for_models(*loaded(wide=False), tensors, 1.0, 1.0))
        read = graph_weights.checkpoint(*applied)
        wide = graph_weights.checkpoint(*bridge.apply_lora(*loaded(wide=True), path))
        again = core_model.core_model(*applied)
    return {
        "effect": (exact - plain).abs().mean().item(),
        "beside": (beside - exact).abs().mean().item(),
        "rounded": (rounded - exact).abs().mean().item(),
        "tensors": len(read),
        "same tensors": read.keys() == wide.keys(),
        "read": max((read[k].float() - wide[k].float()).abs().max().item() for k in wide),
        "another model": again.fingerprint != core.fingerprint,
    }


import_pack(PACK)
print("RESULT" + json.dumps(main()))
