"""The memory of a training pass through ComfyUI's own networks, predicted on tensors without data and
measured on thinner ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_memory.py"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
@pytest.mark.parametrize("family", ["FLUX.1 dev", "Qwen-Image", "Z-Image"])
def test_the_prediction_is_near_what_a_pass_takes(comfy_path, family, monkeypatch):
    """With memory of its own for every tensor: the C library's heap keeps holes otherwise."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = server.there(server.result_of(comfy_path, INSIDE, family, 512), comfy_path, family)
    assert found["step"] == pytest.approx(found["measured"], rel=0.15)


def test_the_room_that_is_asked_for_is_enough_at_real_sizes(comfy_path):
    found = server.result_of(comfy_path, INSIDE, "FLUX.1 dev")
    assert found["step"] + found["block"] <= found["room"]
