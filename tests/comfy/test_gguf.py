"""Models packed as GGUF, through the custom node ComfyUI-GGUF: small, random, in each ComfyUI.

Needs the custom node, in the ComfyUI's custom_nodes or in the folder that COMFYUI_GGUF names, and the package
`gguf` in ComfyUI's Python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_gguf.py"
LIKE = 1e-4  # the largest difference between two programs' float32 arithmetic, beside predictions of about 1
CASES = (
    ("flux1", "Q8_0"),
    ("flux1", "Q4_0"),
    ("flux1", "Q4_K"),
    ("flux1", "Q5_K"),
    ("flux1", "Q6_K"),
    ("flux2", "Q8_0"),
    ("chroma", "Q8_0"),
    ("qwen_image", "Q8_0"),
    ("sd3", "Q8_0"),
    ("z_image", "Q8_0"),
)


def inside(comfy_path, folder: Path, family: str, kind: str) -> dict:
    """What the script found; skipped where the custom node, its package or the family is missing."""
    node = Path(os.environ.get("COMFYUI_GGUF") or comfy_path / "custom_nodes" / "ComfyUI-GGUF")
    python = str(server.python_of(comfy_path))
    if not (node / "ops.py").is_file():
        pytest.skip("no ComfyUI-GGUF in custom_nodes or at COMFYUI_GGUF: GGUF was not tested")
    if subprocess.run([python, "-c", "import gguf"], capture_output=True).returncode:
        pytest.skip("ComfyUI's Python lacks the package gguf: GGUF was not tested")
    return server.there(server.result_of(comfy_path, INSIDE, node, folder, family, kind), comfy_path, family)


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_packed_model_is_trained_like_the_unpacked_one(comfy_path, tmp_path, family, kind):
    found = inside(comfy_path, tmp_path, family, kind)
    assert found["class"] == "GGUFModelPatcher" and found["packed"] > 10
    for gradient, slope in (found["slope"], found["slope on a LoRA"]):
        assert slope == pytest.approx(gradient, rel=0.01)
    assert found["like the unpacked"] > 0.9999
    if not kind.endswith("_K"):  # whose matrices are drawn packed
        assert found["like the one before"] > (0.999 if kind == "Q8_0" else 0.95)
    assert found["apart"] < LIKE < found["effect"] / 10  # the LoRA is added unpacked: nothing is rounded away
    assert found["twice and double"] < LIKE and found["drawn"]
    assert found["left behind"] == 0 and found["what the guard sees"] < LIKE
    assert found["same fingerprint"] and found["other fingerprint"]


def test_packed_stable_diffusion_is_refused_in_a_sentence(comfy_path, tmp_path):
    sentence = inside(comfy_path, tmp_path, "sd1", "Q8_0")["sentence"]
    assert "packed as GGUF" in sentence and "safetensors" in sentence and sentence.count(". ") == 0
