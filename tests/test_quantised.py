"""Checkpoints stored as 8-bit floats with scales, as ComfyUI writes them."""

import json

import pytest
import torch

from sage_core.diffusion.quantised import dequantised
from sage_core.errors import SageError

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 4.0], [8.0, 0.25]])  # exact in both 8-bit formats


def described(kind: str) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)


def test_a_state_dict_without_scales_comes_back_as_it_is():
    state = {"a.weight": WEIGHT, "v_pred": torch.tensor([])}
    assert all(dequantised(state)[k] is v for k, v in state.items())


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize(
    "scale", [torch.tensor(0.5), torch.tensor([2.0, 1.0, 0.5])], ids=["one scale", "a scale a row"]
)
def test_todays_layers_are_their_weight_times_their_scale(kind, scale):
    stored = WEIGHT.to(getattr(torch, kind))
    state = {
        "a.weight": stored,
        "a.weight_scale": scale,
        "a.comfy_quant": described(kind),
        "a.bias": torch.ones(3),
    }
    plain = dequantised(state)
    assert sorted(plain) == ["a.bias", "a.weight"] and plain["a.weight"].dtype == torch.float16
    assert torch.equal(plain["a.weight"].float(), WEIGHT * scale.reshape(-1, 1))


def test_the_layout_of_2025_is_read_too():
    state = {
        "unet.scaled_fp8": torch.tensor([]).to(torch.float8_e4m3fn),
        "unet.a.weight": WEIGHT.to(torch.float8_e4m3fn),
        "unet.a.scale_weight": torch.tensor(3.0),
        "unet.a.scale_input": torch.tensor(9.0),
    }
    assert torch.equal(dequantised(state)["unet.a.weight"].float(), 3 * WEIGHT)


@pytest.mark.parametrize(
    "state",
    [
        {
            "a.weight": torch.zeros(3, 1, dtype=torch.uint8),
            "a.weight_scale": torch.ones(1),
            "a.comfy_quant": described("nvfp4"),
        },
        {"a.weight": torch.zeros(3, 2, dtype=torch.int8), "a.weight_scale": torch.ones(1)},
        {"a.weight": WEIGHT.to(torch.float8_e4m3fn), "a.weight_scale": torch.ones(7)},
        {"a.weight": WEIGHT, "a.comfy_quant": torch.tensor([255, 0, 17], dtype=torch.uint8)},
    ],
    ids=["nvfp4", "int8", "a scale that does not fit", "a description that is not JSON"],
)
def test_other_kinds_are_refused_in_a_sentence(state):
    with pytest.raises(SageError, match="version of this model"):
        dequantised(state)
