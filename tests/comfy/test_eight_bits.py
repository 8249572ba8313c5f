"""Stable Diffusion in 8-bit floats: its erasure lies beside the weights, and is read with them."""

from __future__ import annotations

import sys
from pathlib import Path

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_eight_bits.py"


def test_the_erased_model_draws_as_with_32_bits_and_is_read_whole(comfy_path, tmp_path):
    found = server.result_of(comfy_path, INSIDE, tmp_path)
    assert found["beside"] < 1e-3 * found["effect"]
    assert found["rounded"] > 10 * found["beside"], (
        "ComfyUI's own loader loses nothing, so nothing was compared"
    )
    assert found["same tensors"] and found["read"] < 1e-3  # float16 of weights of about 1
    assert found["another model"]
