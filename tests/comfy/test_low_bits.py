"""Models whose weights ComfyUI itself keeps in 8 or 4 bits: small, random, in each ComfyUI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_low_bits.py"
LIKE = 1e-4  # the largest difference between two programs' float32 arithmetic, beside predictions of about 1
FP8 = "float8_e4m3fn"
CASES = (
    *((family, FP8) for family in ("flux1", "flux2", "chroma", "qwen_image", "sd3", "z_image")),
    ("flux1", "mxfp8"),
    ("flux1", "nvfp4"),
    ("flux1", "int8_tensorwise"),
)


def inside(comfy_path, folder: Path, family: str, kind: str, *more: str) -> dict:
    """What the script found; skipped where this ComfyUI lacks the family or the format."""
    found = server.result_of(comfy_path, INSIDE, folder, family, kind, *more)
    return server.there(found, comfy_path, f"{family} in {kind}")


def sound(found: dict, kind: str, drawn_rounded: bool = False) -> None:
    """The gradient is that of the same numbers in float32, and nothing of the LoRA is rounded away.

    drawn_rounded: ComfyUI rounds the inputs of every layer while it draws. int8 does so while training too.
    """
    assert found["packed"] > 10
    trained_rounded = kind == "int8_tensorwise"
    if not trained_rounded:  # else two predictions give no slope
        for gradient, slope in (found["slope"], found["slope on a LoRA"]):
            assert slope == pytest.approx(gradient, rel=0.01)
    assert found["like the unpacked"] > (0.999 if trained_rounded else 0.9999)
    assert found["like the one before"] > (0.9 if kind == "nvfp4" else 0.99)
    assert found["apart"] < LIKE < found["effect"] / 10
    assert found["twice and double"] < LIKE and found["drawn"] and found["left behind"] == 0
    rounded = trained_rounded or drawn_rounded  # a difference of 1e-7 may then become one of a step
    assert found["what the guard sees"] < (found["effect"] / 10 if rounded else LIKE)
    assert found["same fingerprint"] and found["other fingerprint"]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_weights_of_few_bits_are_trained_like_the_same_numbers(comfy_path, tmp_path, family, kind):
    sound(inside(comfy_path, tmp_path, family, kind), kind)


@pytest.mark.parametrize("kind", [FP8, "nvfp4"])
def test_the_gradient_is_whole_where_the_device_multiplies_in_that_format(comfy_path, tmp_path, kind):
    """ComfyUI then quantises inputs too, and 0.8 loses part of the gradient: training goes another way."""
    sound(inside(comfy_path, tmp_path, "flux1", kind, "quick"), kind, drawn_rounded=True)
