"""Random checkpoints of real shapes through core's own loader, Erase Concept and KSampler.

Gigabytes and minutes: only with SAGE_LONG=1.
"""

from __future__ import annotations

import sys

import full_shape
import pytest

server, graphs = sys.modules["comfy_test_server"], sys.modules["comfy_test_graphs"]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.skipif(not server.LONG, reason="gigabytes and minutes: set SAGE_LONG=1")
def test_a_checkpoint_of_real_shapes_is_erased_and_every_key_lands(comfy_path, tmp_path, family):
    folder = tmp_path / "models/checkpoints"
    folder.mkdir(parents=True)
    (full_shape.full_sd1 if family == "sd1" else full_shape.thin_sdxl)(folder / "random.safetensors")
    graph = graphs.erase(
        "dog",
        steps=2,
        vae=False,
        loader=graphs.checkpoint("random.safetensors"),
        surface="both",
        resolution=256,
    )
    graph = graphs.draw(graph, 10, ["2", 0], ["2", 1], "a dog", 1, steps=2, size=256)
    del graph["14"]
    graph["15"] = {"class_type": "SaveLatent", "inputs": {"samples": ["13", 0], "filename_prefix": "x"}}
    with server.Server(comfy_path, tmp_path) as running:
        outcome = running.run(graph, 1500)
        assert outcome.status == "success", outcome.error
        log = running.text()
        assert "NOT LOADED" not in log and "lora key not loaded" not in log
        assert (tmp_path / "models/loras/sage/erased-dog.safetensors").exists()
        print(f"{family}: {running.memory_mb():.0f} MB")
