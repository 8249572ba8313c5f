"""Runs in ComfyUI's own Python:

`inside_low_bits.py COMFYUI PACK FOLDER FAMILY FORMAT [quick]` prints JSON.

Trains on a small random model whose weights ComfyUI itself keeps in FORMAT, of 8 or 4 bits with scales
beside them, and compares it with the same weights in float32. quick: ComfyUI takes the device for one that
multiplies in that format.
"""

from __future__ import annotations

import json
import sys

COMFY, PACK, FOLDER, FAMILY, FORMAT = sys.argv[1:6]
QUICK = "quick" in sys.argv
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, COMFY)

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.model_management  # noqa: E402
import comfy.utils  # noqa: E402
import small_flows  # noqa: E402
import torch  # noqa: E402
from inside_compared import compared  # noqa: E402
from inside_pack import import_pack  # noqa: E402

KIND = small_flows.KINDS.get(FAMILY, ("Flux", small_flows.FLUX | {"guidance_embed": True}))
LARGEST = 448.0  # of torch.float8_e4m3fn
NEW = hasattr(comfy.utils, "detect_layer_quantization")  # versions that describe every layer
if QUICK:
    for name in ("supports_fp8_compute", "supports_nvfp4_compute", "supports_mxfp8_compute"):
        setattr(comfy.model_management, name, lambda *args, **kwargs: True)


def formats() -> dict:
    """What this ComfyUI knows: the name of a format and of its layout."""
    if not NEW:
        return {"float8_e4m3fn": None}
    from comfy.quant_ops import QUANT_ALGOS

    return {name: about["comfy_tensor_layout"] for name, about in QUANT_ALGOS.items()}


def quantise(sd: dict) -> tuple[dict, dict]:
    """(a state dict as files have it, the same numbers in float32)."""
    packed, plain = {}, {}
    for key, value in sd.items():
        blocks = any(part in key for part in ("blocks.", "layers.", "refiner."))
        if value.ndim != 2 or not key.endswith(".weight") or NEW and not blocks:
            packed[key] = plain[key] = value
        else:
            own, plain[key] = one(key, value)
            packed |= own
    return packed, plain


def one(key: str, value: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """(the tensors of a quantised matrix, the same numbers in float32)."""
    layer = key.removesuffix(".weight")
    if FORMAT == "float8_e4m3fn":
        scale = value.abs().max().float() / LARGEST
        rounded = (value / scale).to(torch.float8_e4m3fn)
        own = {key: rounded, layer + (".weight_scale" if NEW else ".scale_weight"): scale}
        plain = rounded.float() * scale
    else:
        from comfy.quant_ops import QuantizedTensor

        scale = {"scale": "recalculate"} if FORMAT == "nvfp4" else {}
        tensor = QuantizedTensor.from_float(value, formats()[FORMAT], **scale)
        own, plain = tensor.state_dict(key), tensor.dequantize().float()
    if NEW:
        about = json.dumps({"format": FORMAT}).encode()
        own[f"{layer}.comfy_quant"] = torch.tensor(list(about), dtype=torch.uint8)
    return own, plain


def main() -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():  # as the executor runs nodes
        first, _ = small_flows.family(FAMILY)
        if first is None or FORMAT not in formats():
            return {"missing": True}
        sd = {key: value.clone() for key, value in first.model.diffusion_model.state_dict().items()}
        packed, plain = quantise(sd)
        about = {"quant_config": {"mixed_ops": True}} if NEW else {"scaled_fp8": torch.float8_e4m3fn}
        model = small_flows.built(*KIND, sd=packed, quantised=about)
        found = compared(FAMILY, FOLDER, model, small_flows.built(*KIND, sd=plain), first)
        few = [getattr(p, "_qdata", p).dtype.itemsize for p in model.model.diffusion_model.parameters()]
    return found | {"packed": few.count(1)}


import_pack(PACK)
print("RESULT" + json.dumps(main()))
