"""The workflow that the panel exports, on ComfyUI's real page: it opens without a complaint and is the same
erasure.
"""

from __future__ import annotations

import json
import sys

import pytest

from sage_core.panel.workflow import WIDGETS, workflow_of

server, pages = sys.modules["comfy_test_server"], sys.modules["comfy_test_page"]


@pytest.fixture(scope="module")
def made(comfy, tmp_path_factory):
    """A LoRA that was made outside ComfyUI, and its workflow."""
    import torch

    from sage_core import ErasureSpec, load_model
    from sage_core.jobs.make import Maker
    from sage_core.lora.file import read_lora

    model = load_model("demo")
    spec = ErasureSpec("robot", ("droid",), retain=("doll",), exclude=("machine",), steps=6, seed=3)
    path = tmp_path_factory.mktemp("made") / "erased-robot.safetensors"
    Maker(model, torch.device("cpu"), lambda event: None).make(spec.recipe(model.knowledge.styles), path)
    return path, workflow_of(read_lora(path))


def test_the_values_are_in_the_order_of_the_node_s_widgets(comfy):
    about = comfy.get("/object_info")["SAGE_EraseConcept"]
    order = [*about["input_order"]["required"], *about["input_order"].get("optional", [])]
    linked = {"model", "clip", "vae"}
    assert tuple(name for name in order if name not in linked) == WIDGETS


def test_it_opens_without_a_complaint_and_finds_the_very_file(comfy, made):
    path, workflow = made
    target = comfy.base / "models/loras/sage" / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(path.read_bytes())
    with pages.opened(comfy) as (page, problems):
        page.evaluate(
            "text => window.app.loadGraphData(JSON.parse(text), true, true, 'from the panel')",
            json.dumps(workflow),
        )
        page.wait_for_function("window.app.graph._nodes.length === 3")
        prompt = page.evaluate("window.app.graphToPrompt().then(p => p.output)")
        values = prompt["2"]["inputs"]
        assert values["concepts"] == "robot | droid" and values["retain"] == "doll"
        assert values["steps"] == 6 and values["seed"] == 3 and values["exclude"] == "machine"
        page.wait_for_timeout(3000)
        own = [p for p in problems if not p.startswith("Failed to load resource")]
        assert not [p for p in own if "sage" in p.lower() or "widget" in p.lower()], own
        shown = page.evaluate(
            "[...document.querySelectorAll('.p-toast-message, [role=alertdialog], [role=dialog]')]"
            ".filter(e => e.offsetParent !== null).map(e => e.textContent.trim().slice(0, 200))"
        )
        assert not shown
    outcome = comfy.run(prompt)
    assert outcome.status == "success", outcome.error
    files = sorted(p.name for p in target.parent.glob("erased-robot*.safetensors"))
    assert files == [path.name], "the file was recognised: nothing was trained again"
    assert target.read_bytes() == path.read_bytes()
