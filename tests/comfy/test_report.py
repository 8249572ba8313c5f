"""Erasure Report in a real ComfyUI."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from sage_core import ErasureSpec, erase, load_model

server = sys.modules["comfy_test_server"]
graphs = sys.modules["comfy_test_graphs"]


def test_the_erasure_report_measures_the_graph_and_saves_a_page_that_needs_no_network(comfy, erased_dog):
    """ComfyUI's own sampler draws, the bundled model's probe judges."""
    graph = graphs.report(dict(erased_dog[0]), "3", "dog", images=4)
    graph["3"]["inputs"] |= {"attack": True, "attack_steps": 60, "steps": 12, "also": "Hund"}
    outcome = comfy.run(graph, 500)
    assert outcome.status == "success", outcome.error
    rows = {line[:24].strip(): line[24:].split() for line in outcome.outputs["4"]["text"][0].splitlines()}
    before, after = map(float, rows["the concept"][:2])
    assert before >= 0.75 and after <= 0.25
    assert float(rows["other things"][1]) >= 0.75 and float(rows["under attack"][0]) >= 0.5
    assert len(outcome.outputs["3"]["images"]) == 1, "the sheet is shown in the graph"
    path = Path(outcome.outputs["5"]["text"][0])
    assert path.parent == comfy.base / "output" / "sage"
    page = path.read_text(encoding="utf-8")
    assert page.count("<img ") == 2 * 5 * 4 + 4 and "://" not in page
    again = dict(graph)
    again["3"]["inputs"] |= {"attack": False, "images": 1, "seed": 1}
    other = comfy.run(again, 300)
    assert other.status == "success" and outcome.outputs["5"]["text"] != other.outputs["5"]["text"]
    assert path.exists()


def test_a_model_that_nobody_knows_is_judged_by_itself(comfy_path, tmp_path):
    """In the latents that ComfyUI's sampler made, by the untouched model."""
    model = load_model("demo")
    path = erase(model, ErasureSpec("dog", search=False)).save(tmp_path / "dog.safetensors", model)
    inside = Path(__file__).parent / "inside_report.py"
    found = server.result_of(comfy_path, inside, path)
    assert found["judge"]["name"] == "the untouched model"
    assert found["before"]["concept"] >= 0.75 and found["after"]["concept"] <= 0.25
    assert found["after"]["far"] >= 0.5


def test_a_report_can_be_cancelled(comfy, erased_dog):
    graph = graphs.report(dict(erased_dog[0]), "3", "dog", images=64, steps=100)
    prompt = comfy.queue(graph)
    time.sleep(6)
    comfy.post("/interrupt", {})
    assert comfy.wait(prompt, 60).interrupted
