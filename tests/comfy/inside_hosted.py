"""Runs in ComfyUI's own Python:

`inside_hosted.py COMFYUI PACK FAMILY FOLDER [METHOD STEPS]` prints JSON.

Erases a word from a small random model of a flow family that ComfyUI runs, saves the LoRA in FOLDER, has
ComfyUI apply it, and compares the predictions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, FAMILY, FOLDER = sys.argv[1:5]
METHOD, STEPS = (sys.argv[5], int(sys.argv[6])) if len(sys.argv) > 6 else ("sage", 3)
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402
from inside_slopes import slopes  # noqa: E402

PIXELS = 64


def main() -> dict:
    from sage_pack.nodes import bridge, core_model, hosted
    from sage_pack.nodes.gradients import recomputed
    from sage_pack.sage_core import ErasureSpec, erase
    from sage_pack.sage_core.cycle.residual import Residual
    from sage_pack.sage_core.lora.file import read_lora
    from sage_pack.sage_core.lora.surfaces import surface_layers

    pairs, own_note = [], Residual.note

    def note(self, loss: float, pull: float) -> None:
        pairs.append((loss, pull))
        own_note(self, loss, pull)

    Residual.note = note
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family(FAMILY)
        if model is None:
            return {"missing": True}
        core = core_model.core_model(model, clip, hosts=True)
        again = core_model.core_model(model, clip, hosts=True).fingerprint
        core.pixels = PIXELS
        others = {"method": METHOD, "synonyms": ("hound",) if METHOD == "sage" else ()}
        spec = ErasureSpec("dog", steps=STEPS, resolution=PIXELS, check=False, learning_rate=3e-3, **others)
        recipe = spec.recipe(())
        with core_model.training(core, recipe):
            slope, _ = slopes(core, surface_layers(core, "both"))
            erasure = erase(core, recipe, looks=True)
        asked = list(clip.asked)
        path = erasure.save(Path(FOLDER) / "dog.safetensors", core)
        z, t, cond = core.noise([5]), torch.tensor([600]), core.encode(["a dog on a sofa"])
        erased = core.predict_noise(z, t, cond)
        with erasure.adapter.off():
            plain = core.predict_noise(z, t, cond)
        erasure.adapter.remove()
        removed = core.predict_noise(z, t, cond)
        applied, _ = bridge.apply_lora(model, None, path)
        host = hosted.hosted_model(applied, clip, core.family, core.alphas)
        host.pixels = PIXELS
        loaded = host.predict_noise(z, t, cond)
        drawn = bridge.sample(applied, clip, "a dog", [1], (PIXELS, PIXELS), 2, 1.0)
    file = read_lora(path)
    return {
        "family": core.family.name,
        "sampling": core.sampling,
        "shape": list(core.latent_shape),
        "slope": slope,
        "terms": sorted(erasure.losses[0]),
        "pairs": pairs,
        "left": erasure.left,
        "layers": len(erasure.adapter.layers),
        "moved": sum(bool(up.abs().sum() > 0) for up in erasure.adapter.up.values()),
        "file": len(file.layers),
        "host": file.metadata.get("sage.host", ""),
        "effect": (erased - plain).abs().max().item(),
        "apart": (erased - loaded).abs().max().item(),
        "computed again": len(recomputed(core.unet)),
        "removed": (removed - plain).abs().max().item(),
        "same fingerprint": core.fingerprint == again,
        "other fingerprint": host.fingerprint != core.fingerprint,
        "once": len(asked) == len(set(asked)),
        "along": torch.cosine_similarity((loaded - plain).flatten(), (erased - plain).flatten(), 0).item(),
        "latents": list(drawn.shape),
        "dtype": str(next(model.model.diffusion_model.parameters()).dtype),
    }


import_pack(PACK)
print("RESULT" + json.dumps(main()))
