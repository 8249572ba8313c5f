"""Weights stored as 8-bit floats with a scale beside them, turned back into ordinary numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from ..errors import SageError
from ..files import parse_json

SCALES = (".weight_scale", ".scale_weight")  # today's name, and the one of 2025
NO_WEIGHTS = (*SCALES, ".comfy_quant", ".input_scale", ".scale_input", "scaled_fp8")
FLOATS = {name: getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)}


def dequantised(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with every scaled 8-bit weight as float16: weight times its scale, one for the whole matrix or
    one a row.

    A state dict without any comes back as it is. Raises SageError for other kinds of quantisation.
    """
    if not any(key.endswith(NO_WEIGHTS) for key in state):
        return dict(state)
    plain = {}
    for key, value in state.items():
        if key.endswith(NO_WEIGHTS):
            continue
        layer = key.removesuffix(".weight")
        scale = next(
            (state[layer + s] for s in SCALES if key.endswith(".weight") and layer + s in state), None
        )
        _check_kind(layer, value, state.get(f"{layer}.comfy_quant"))
        plain[key] = value if scale is None else _scaled(layer, value, scale)
    return plain


def _check_kind(layer: str, weight: torch.Tensor, description: torch.Tensor | None) -> None:
    """Raises SageError unless the weight is a float, or is described as an 8-bit one."""
    kind = None if description is None else _described(description)
    if kind is not None and kind not in FLOATS or not weight.is_floating_point() and weight.ndim > 1:
        raise SageError(
            f"The model is quantised as {kind or weight.dtype} (layer {layer[:80]!r}); 8-bit floats (float8)"
            " can be read. Use the fp16, bf16 or fp8 version of this model."
        )


def _described(description: torch.Tensor) -> str:
    """The format in ComfyUI's description of a layer, which is JSON as bytes."""
    try:
        return str(parse_json(bytes(description.to(torch.uint8).tolist()))["format"])
    except (KeyError, TypeError, ValueError, json.JSONDecodeError):
        return "an unknown format"


def _scaled(layer: str, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    scale = scale.float()
    if scale.numel() not in (1, len(weight)):
        raise SageError(
            f"The scale of the 8-bit layer {layer[:80]!r} has shape {list(scale.shape)}, its weight"
            f" {list(weight.shape)}; use the fp16 or bf16 version of this model."
        )
    return (weight.float() * scale.reshape(-1, *[1] * (weight.ndim - 1))).half()
