"""Runs in ComfyUI's own Python: `inside_trained.py COMFYUI PACK FOLDER CONCEPT SEED` prints JSON.

The bundled flow transformer, trained through ComfyUI as if nobody had listed its layers: what the bundled
judge sees in ComfyUI's pictures of the concept and of other words, before and after.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, FOLDER, CONCEPT, SEED = sys.argv[1:6]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402

OTHERS = ("cat", "castle", "rose", "car", "owl", "pizza", "guitar", "boat")
PROMPTS = ("a picture of a {}", "a {}", "a {} in the snow", "a cartoon drawing of a {}")


def seen(judge, model, clip, vae, word: str, of: str) -> int:
    """In how many of eight pictures of a word `of` is seen."""
    from sage_pack.nodes import bridge

    found = 0
    for number, prompt in enumerate(PROMPTS):
        seeds = [10 * number, 10 * number + 1]
        latents = bridge.sample(model, clip, prompt.format(word), seeds, (64, 64), 12, 4.0)
        pictures = bridge.decode(vae, latents).movedim(-1, 1) * 2 - 1
        found += sum(own.concept == of for own in judge.look(pictures))
    return found


def main() -> dict:
    from sage_pack.nodes import bridge, core_model, demo_flow, hosted, variants
    from sage_pack.sage_core import ErasureSpec, erase
    from sage_pack.sage_core.demo import PROBE
    from sage_pack.sage_core.demo.probe import Judge
    from sage_pack.sage_core.demo.vocabulary import BUNDLED

    judge = Judge.load(PROBE, BUNDLED)
    with torch.inference_mode():  # as the executor runs nodes
        model, clip, vae = demo_flow.load()
        core = hosted.hosted_model(model, clip, variants.unlisted(model), bridge.prediction(model)[1])
        recipe = ErasureSpec(CONCEPT, seed=int(SEED), resolution=64).recipe(())
        with core_model.training(core, recipe):
            erasure = erase(core, recipe)
        path = erasure.save(Path(FOLDER) / "erased.safetensors", core)
        erasure.adapter.remove()
        applied, _ = bridge.apply_lora(model, None, path)
        words = [word for word in OTHERS if word != CONCEPT]
        counts = {}
        for when, own in (("before", model), ("after", applied)):
            counts[when] = {
                "concept": seen(judge, own, clip, vae, CONCEPT, CONCEPT),
                "others": sum(seen(judge, own, clip, vae, word, word) for word in words),
            }
    return counts | {
        "layers": len(erasure.adapter.layers),
        "passes": erasure.cost.passes,
        "of": 8,
        "of others": 8 * len(words),
    }


import_pack(PACK)
print("RESULT" + json.dumps(main()))
