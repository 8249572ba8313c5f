"""Runs in ComfyUI's own Python: `inside_watched.py COMFYUI PACK FAMILY` prints JSON.

Which layers of a listed family's small random model are the text's, by the list and by watching.
"""

from __future__ import annotations

import dataclasses
import json
import sys

COMFY, PACK, FAMILY = sys.argv[1:4]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402


def main() -> dict:
    from sage_pack.nodes import core_model
    from sage_pack.nodes.text_layers import with_text_layers
    from sage_pack.sage_core.diffusion.hosted_families import diffusers_names

    torch.manual_seed(0)
    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family(FAMILY)
        if model is None:
            return {"missing": True}
        core = core_model.core_model(model, clip, hosts=True)
        listed = core.family
        core.family = dataclasses.replace(listed, names=())
        watched = with_text_layers(core)
    paths = [path for path, module in core.unet.named_modules() if hasattr(module, "in_features")]
    return {
        "listed": [path for path in paths if diffusers_names(listed, path)],
        "watched": [path for path in paths if diffusers_names(watched, path)],
    }


import_pack(PACK)
print("RESULT" + json.dumps(main()))
