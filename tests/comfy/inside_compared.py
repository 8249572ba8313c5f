"""For the scripts beside it that train on weights of few bits in ComfyUI's own Python: how the gradient and
the LoRA on them compare with those of the same weights in float32.
"""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import comfy.utils
import small_flows
import torch
from inside_slopes import slopes

PIXELS = 64


def compared(family: str, folder: str, model, unpacked, before) -> dict:
    """model: the MODEL of few bits. unpacked: the same weights in float32. before: those that were packed."""
    from sage_pack.nodes import bridge, core_model, guarded, hosted
    from sage_pack.sage_core import ErasureSpec, erase
    from sage_pack.sage_core.lora.surfaces import surface_layers

    recipe = ErasureSpec("dog", steps=3, resolution=PIXELS, check=False, learning_rate=3e-3).recipe(())
    clip = small_flows.clip(family)

    def opened(own):
        core = core_model.core_model(own, clip, hosts=True)
        core.pixels = PIXELS
        return core

    def gradient(own):
        core = opened(own)
        with core_model.training(core, recipe):
            return slopes(core, surface_layers(core, "both"))

    def alike(one: torch.Tensor, other: torch.Tensor) -> float:
        return torch.cosine_similarity(one.flatten(), other.flatten(), 0).item()

    (slope, way), (_, same), (_, first) = map(gradient, (model, unpacked, before))
    core = opened(model)
    with core_model.training(core, recipe):
        erasure = erase(core, recipe)
    path = erasure.save(Path(folder) / "dog.safetensors", core)
    z, t, cond = core.noise([5]), torch.tensor([600]), core.encode(["a dog on a sofa"])
    erased = core.predict_noise(z, t, cond)
    with erasure.adapter.off():
        untouched = core.predict_noise(z, t, cond)
    erasure.adapter.remove()
    applied, _ = bridge.apply_lora(model, None, path)
    host = opened(applied)
    arrived = host.predict_noise(z, t, cond)
    watch = guarded.Watch([], guarded.changes(applied, model), (0.5, 1.0))
    with watch._without_the_erasure(applied.model):
        guard_sees = host.predict_noise(z, t, cond)
    on_top, _ = gradient(applied)
    twice, _ = bridge.apply_lora(applied, None, path)
    double, _ = bridge.apply_lora(model, None, path, 2.0)
    one_way, other_way = (opened(own).predict_noise(z, t, cond) for own in (twice, double))
    drawn = bridge.sample(twice, clip, "a dog", [1], (PIXELS, PIXELS), 2, 1.0)
    theirs, _ = comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0)
    rounded = opened(theirs).predict_noise(z, t, cond)
    bare = opened(model).predict_noise(z, t, cond)
    return {
        "slope": slope,
        "slope on a LoRA": on_top,
        "like the unpacked": alike(way, same),
        "like the one before": alike(way, first),
        "effect": (erased - untouched).abs().max().item(),
        "apart": (erased - arrived).abs().max().item(),
        "what the guard sees": (guard_sees - untouched).abs().max().item(),
        "twice and double": (one_way - other_way).abs().max().item(),
        "drawn": bool(drawn.isfinite().all()),
        "by Load LoRA": alike(rounded - untouched, erased - untouched),
        "left behind": (bare - untouched).abs().max().item(),
        "same fingerprint": hosted.fingerprint(model) == core.fingerprint,
        "other fingerprint": host.fingerprint != core.fingerprint,
    }
