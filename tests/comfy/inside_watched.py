"""Runs in ComfyUI's own Python: `inside_watched.py COMFYUI PACK FAMILY` prints JSON.

Which layers of a listed family's small random model are the text's, by the list and by watching; and, of a
family that is not listed, the sentence in which a network is refused whose gradient is three times too large.
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


def watched(model, clip) -> dict:
    from sage_pack.nodes import core_model
    from sage_pack.nodes.text_layers import with_text_layers
    from sage_pack.sage_core.diffusion.hosted_families import diffusers_names

    core = core_model.core_model(model, clip, hosts=True)
    listed = core.family
    core.family = dataclasses.replace(listed, names=())
    found = with_text_layers(core)
    paths = [path for path, module in core.unet.named_modules() if hasattr(module, "in_features")]
    return {
        "listed": [path for path in paths if diffusers_names(listed, path)],
        "watched": [path for path in paths if diffusers_names(found, path)],
    }


def tripled(module, args, out):
    """The same output, with a gradient three times too large."""
    return 3 * out - 2 * out.detach()


def refused(model, clip) -> str:
    from sage_pack.nodes import core_model
    from sage_pack.sage_core import ErasureSpec
    from sage_pack.sage_core.errors import SageError

    core = core_model.core_model(model, clip, hosts=True)
    handle = core.unet.context_refiner[0].register_forward_hook(tripled)
    try:
        with core_model.training(core, ErasureSpec("dog").recipe(())):
            return ""
    except SageError as error:
        return str(error)
    finally:
        handle.remove()


def main() -> dict:
    torch.manual_seed(0)
    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family(FAMILY)
        if model is None:
            return {"missing": True}
        return {"refused": refused(model, clip)} if FAMILY == "lumina2" else watched(model, clip)


import_pack(PACK)
print("RESULT" + json.dumps(main()))
