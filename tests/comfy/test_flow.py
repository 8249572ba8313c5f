"""A small SD3 in a real ComfyUI: read as Erase Concept reads it, with the core's LoRA on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_flow
import torch

from sage_core import ErasureSpec, erase, load_model
from sage_core.diffusion import schedule

server = sys.modules["comfy_test_server"]
graphs = sys.modules["comfy_test_graphs"]
drawn_by = sys.modules["comfy_test_drawn"]
pictures, seen = drawn_by.pictures, drawn_by.seen
INSIDE = Path(__file__).parent / "inside_flow.py"
LIKE = 1e-4  # the largest difference between two programs' float32 arithmetic, beside predictions of about 1


@pytest.mark.parametrize("surface", [None, "unet"])
def test_the_host_and_the_core_are_one_model_with_and_without_the_lora(comfy_path, surface, tmp_path):
    folder = tiny_flow.bundled_text(tmp_path / "m")
    model = load_model(folder)
    t, x = torch.tensor([600]), torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    s = schedule.flow_time(model.alphas[t])
    z = x / ((1 - s) ** 2 + s**2).sqrt()
    states = {"x": x, "s": s, "prompt": "a dog"}
    with torch.no_grad():
        states["plain"] = model.predict_noise(z, t, model.encode(["a dog"]))
    erasure = erase(model, ErasureSpec("dog", surface=surface, steps=4, search=False))
    with torch.no_grad():
        states["erased"] = model.predict_noise(z, t, model.encode(["a dog"]))
    lora = erasure.save(tmp_path / "dog.safetensors", model)
    torch.save(states, tmp_path / "states.pt")
    found = server.result_of(comfy_path, INSIDE, folder, lora, tmp_path / "states.pt")
    assert found["same model"] and found["family"] == "sd3" and found["sampling"] == "flow, shift 3"
    assert found["plain"] < LIKE and found["erased"] < LIKE < found["effect"] / 10
    assert found["latents"] == [2, 16, 8, 8] and found["picture"] == [2, 64, 64, 3]


def test_the_bundled_flow_transformer_is_erased_from_queue_to_pictures(comfy):
    """No key is lost, the concept goes, another thing stays, ComfyUI's own loader draws the same."""
    loader = {"class_type": "SAGE_LoadDemoModel", "inputs": {"architecture": "flow transformer (SD 3)"}}
    graph = graphs.erase("dog", name="flow-%concept%", loader=loader)
    asked = [("dog", "1"), ("dog", "2"), ("castle", "1"), ("castle", "2"), ("dog", "3")]
    graph["3"] = graphs.lora("sage/flow-dog.safetensors")
    erased = comfy.run({k: graph[k] for k in ("1", "2")}, 400)
    assert erased.status == "success", erased.error
    for i, (word, model) in enumerate(asked):
        prompt, first = f"a cartoon drawing of a {word}", 10 + 10 * i
        own = {"prefix": f"flow{i}", "sampler": ("euler", "simple")}
        graph = graphs.draw(graph, first, [model, 0], [model, 1], prompt, 10, steps=16, **own)
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    drawn = [pictures(comfy, outcome, str(15 + 10 * i)) for i in range(len(asked))]
    rate = {pair: seen(images, pair[0]) for pair, images in zip(asked, drawn)}
    print(rate)
    assert rate["dog", "1"] >= 0.8 and rate["dog", "2"] == 0
    assert rate["castle", "2"] >= 0.8 * rate["castle", "1"] > 0.5
    assert (drawn[1] - drawn[4]).abs().max() < 0.02
    log = comfy.text()
    assert "NOT LOADED" not in log and "lora key not loaded" not in log
