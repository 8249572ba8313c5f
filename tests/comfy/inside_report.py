"""Runs in ComfyUI's own Python:

`inside_report.py COMFYUI PACK LORA` prints JSON.

It measures the LoRA as Erasure Report does, on a model that nobody knows: the bundled one, whose token
embeddings are moved a little.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

COMFY, PACK, LORA = sys.argv[1:]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402


def moved(clip):
    """The same CLIP, whose embeddings no model has."""
    for name, weight in clip.cond_stage_model.named_parameters():
        if name.endswith("token_embedding.weight"):
            weight.data.mul_(1.01)
    return clip


def main() -> None:
    from sage_pack.nodes import bridge, demo_checkpoint, measuring

    with torch.inference_mode():
        model, clip, vae = demo_checkpoint.load()
        before = model, moved(clip)
        after = bridge.apply_lora(*before, Path(LORA))
        asked = measuring.Asked("dog", images=4, seed=0, size=64, steps=12, guidance=5.0)
        report = measuring.measure(before, after, vae, asked, bridge.Messages(None)).report
    print("RESULT" + json.dumps({part: report[part] for part in ("before", "after", "judge")}))


import_pack(PACK)
main()
