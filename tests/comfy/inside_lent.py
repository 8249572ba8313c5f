"""Runs in ComfyUI's own Python:

`inside_lent.py COMFYUI PACK` prints JSON.

Newer versions bring weights from main memory to one place on the device, layer after layer. Here the weights
of a small FLUX.1 come to one place in the same way, and its gradient is compared with that of weights which
stay.
"""

from __future__ import annotations

import json
import sys

COMFY, PACK = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.ops  # noqa: E402
import numpy as np  # noqa: E402
import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_pack import import_pack  # noqa: E402
from inside_slopes import slopes  # noqa: E402

PIXELS = 64
PLACE = np.zeros(1 << 21, np.float32)


def lend(layer, input=None, offloadable=False, **kwargs):
    """Weight and bias in the place; torch does not see that it is one."""
    lent, begin = [], 0
    for value in (layer.weight, layer.bias):
        if value is None:
            lent.append(None)
            continue
        own = torch.from_numpy(PLACE[begin : begin + value.numel()]).view(value.shape)
        own.copy_(value)
        begin += value.numel()
        lent.append(own)
    return (*lent, None) if offloadable else tuple(lent)


def main() -> dict:
    from sage_pack.nodes import core_model, gradients
    from sage_pack.sage_core import ErasureSpec
    from sage_pack.sage_core.lora.surfaces import surface_layers

    if not hasattr(comfy.model_management, "get_cast_buffer"):
        return {"missing": True}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    recipe = ErasureSpec("dog", steps=3, resolution=PIXELS, check=False).recipe(())

    def gradient(model):
        core = core_model.core_model(model, clip, hosts=True)
        core.pixels = PIXELS
        with core_model.training(core, recipe):
            return slopes(core, surface_layers(core, "both"))

    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family("flux1")
        (length, slope), staying = gradient(model)
        for layer in model.model.diffusion_model.modules():
            if isinstance(layer, comfy.ops.CastWeightBiasOp):
                layer._v, layer.comfy_cast_weights = None, True
        own, comfy.ops.cast_bias_weight = comfy.ops.cast_bias_weight, lend
        (lent_length, lent_slope), lent = gradient(model)
        replaced = comfy.ops.cast_bias_weight is lend
        gradients._lent = lambda *args: False
        try:
            _, overwritten = gradient(model)
            without = torch.cosine_similarity(overwritten, staying, 0).item()
        except Exception as error:  # refused before training
            without = str(error)
    comfy.ops.cast_bias_weight = own
    return {
        "slopes": [[length, slope], [lent_length, lent_slope]],
        "apart": ((lent - staying).abs().max() / staying.abs().max()).item(),
        "put back": replaced,
        "without copies": without,
    }


import_pack(PACK)
print("RESULT" + json.dumps(main()))
