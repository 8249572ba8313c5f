"""Runs in ComfyUI's own Python:

`inside_card.py COMFYUI PACK` prints JSON.

What ComfyUI does on a graphics card, done here on the processor with a small FLUX.1, whose gradient is
compared with the one without it:

- newer versions bring weights from main memory to one place, layer after layer;
- attention may be a kernel that has no gradient, such as SageAttention.
"""

from __future__ import annotations

import json
import sys

COMFY, PACK = sys.argv[1:3]
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.ldm.modules.attention  # noqa: E402
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


def without_gradient(*args, **kwargs):
    """Attention as a kernel that torch cannot differentiate."""
    with torch.no_grad():
        return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def main() -> dict:
    from sage_pack.nodes import core_model, gradients
    from sage_pack.sage_core import ErasureSpec
    from sage_pack.sage_core.errors import SageError
    from sage_pack.sage_core.lora.surfaces import surface_layers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    recipe = ErasureSpec("dog", steps=3, resolution=PIXELS, check=False).recipe(())

    def gradient(model):
        core = core_model.core_model(model, clip, hosts=True)
        core.pixels = PIXELS
        with core_model.training(core, recipe):
            return slopes(core, surface_layers(core, "both"))

    def apart(own: torch.Tensor) -> float:
        return ((own - plain).abs().max() / plain.abs().max()).item()

    def unmended(part: str, instead) -> str | float:
        """The sentence of the refusal with one part of the training's changes left out, or else the
        gradient's cosine.
        """
        own = getattr(gradients, part)
        setattr(gradients, part, instead)
        try:
            return torch.cosine_similarity(gradient(model)[1], plain, 0).item()
        except SageError as error:
            return str(error)
        finally:
            setattr(gradients, part, own)

    with torch.inference_mode():  # as the executor runs nodes
        model, clip = small_flows.family("flux1")
        (length, slope), plain = gradient(model)
        math = sys.modules["comfy.ldm.flux.math"]
        own, math.optimized_attention = math.optimized_attention, without_gradient
        found = {
            "slope": [length, slope],
            "attention": apart(gradient(model)[1]),
            "attention put back": math.optimized_attention is without_gradient,
            "attention, unmended": unmended("_quick_attentions", lambda: []),
        }
        math.optimized_attention = own
        if hasattr(comfy.model_management, "get_cast_buffer"):
            for layer in model.model.diffusion_model.modules():
                if isinstance(layer, comfy.ops.CastWeightBiasOp):
                    layer._v, layer.comfy_cast_weights = None, True
            own, comfy.ops.cast_bias_weight = comfy.ops.cast_bias_weight, lend
            found |= {
                "lent": apart(gradient(model)[1]),
                "lent put back": comfy.ops.cast_bias_weight is lend,
                "lent, unmended": unmended("_lent", lambda *args: False),
            }
            comfy.ops.cast_bias_weight = own
    return found


import_pack(PACK)
print("RESULT" + json.dumps(main()))
