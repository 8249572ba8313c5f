"""The pack on the real page, in headless Chromium."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

server, graphs, pages = (sys.modules[f"comfy_test_{name}"] for name in ("server", "graphs", "page"))


@pytest.fixture(scope="module", autouse=True)
def chromium():
    pytest.importorskip("playwright")
    if pages.find_chromium() is None:
        pytest.skip("no Chromium (CHROMIUM_PATH or on the path): the page was not tested")


@pytest.fixture(scope="module")
def ordinary(comfy_path, tmp_path_factory):
    """What the page's console complains of without this pack."""
    with (
        server.Server(comfy_path, tmp_path_factory.mktemp("plain"), "--disable-all-custom-nodes") as plain,
        pages.opened(plain) as (page, problems),
    ):
        pages.show(page, {"1": graphs.checkpoint("x")})
        time.sleep(10)
        return {p.splitlines()[0] for p in problems}


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_the_node_shows_its_progress_and_the_console_stays_clean(comfy, ordinary, vue):
    name = f"page-{'vue' if vue else 'classic'}"
    with pages.opened(comfy, **{"Comfy.VueNodes.Enabled": vue}) as (page, problems):
        pages.show(page, graphs.erase("cactus", steps=4, name=name))
        page.evaluate("window.app.queuePrompt(0)")
        # The Vue nodes of the front end that 0.3.64 comes with do not show elements of their own yet; bar,
        # previews and toast they do.
        if not vue or pages.faces(page):
            pages.wait_face(page, "erasing")
            pages.wait_face(page, f"saved: sage/{name}.safetensors")
            assert page.evaluate("document.querySelectorAll('.sage-face .sage-curve').length") == 1
            assert page.evaluate("document.querySelector('.sage-face .sage-left').textContent").endswith(" %")
        page.wait_for_selector("text=Saved sage/", timeout=300_000)
        # The LoRA lists know the new file without a restart.
        page.evaluate(
            "g => window.app.loadApiJson(g, 'x')",
            {"1": {"class_type": "SAGE_ApplyErasures", "inputs": {"lora_1": "none", "strength_1": 1.0}}},
        )
        options = page.evaluate("window.app.graph._nodes[0].widgets[0].options.values")
        assert f"sage/{name}.safetensors" in options
        page.wait_for_selector("text=Saved sage/", state="detached", timeout=60_000)
        assert not pages.complaints(page, problems, ordinary)


def test_a_failure_is_one_sentence_in_a_toast(comfy):
    with pages.opened(comfy) as (page, _):
        pages.show(page, graphs.erase("carburettor", steps=2))
        page.evaluate("window.app.queuePrompt(0)")
        pages.wait_face(page, "cannot draw 'carburettor'")
        page.wait_for_selector(".p-toast-message-error", timeout=10_000)


def examples() -> list[Path]:
    return sorted((server.PACK / "example_workflows").glob("*.json"))


def test_every_example_is_listed_with_its_thumbnail_and_holds_no_value_that_the_page_leaves_out(comfy):
    listed = comfy.get("/workflow_templates")["sage-concept-eraser"]
    for file in examples():
        assert file.with_suffix(".jpg").stat().st_size > 2000 and file.stem in listed
        saved = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in ("floatingLinks", "definitions", "reroutes") if saved.get(key, 0) is None]
        assert not missing and not [
            o for n in saved["nodes"] for o in n.get("outputs", []) if o.get("slot_index", 0) is None
        ]


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_every_example_opens_from_the_template_dialog_without_a_complaint(comfy, ordinary, vue):
    info = comfy.get("/object_info")
    with pages.opened(comfy, **{"Comfy.VueNodes.Enabled": vue}) as (page, problems):
        for file in examples():
            pages.open_template(page, file.stem)
            assert not pages.complaints(page, problems, ordinary), file.stem
            prompt = page.evaluate("window.app.graphToPrompt().then(p => p.output)")
            saved = json.loads(file.read_text(encoding="utf-8"))
            assert len(prompt) == len([n for n in saved["nodes"] if n["type"] != "MarkdownNote"])
            for node in prompt.values():
                assert set(info[node["class_type"]]["input"]["required"]) <= set(node["inputs"])


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_the_first_example_runs_from_the_dialog_to_the_erased_picture(comfy, ordinary, vue):
    """The first run trains; the second finds the file and shows the same pictures.

    One picture is on the node, never two.
    """
    before = set(comfy.get("/history"))
    with pages.opened(comfy, **{"Comfy.VueNodes.Enabled": vue}) as (page, problems):
        pages.open_template(page, "erase-and-compare")
        pages.press_run(page)
        deadline = time.monotonic() + 400
        while set(comfy.get("/history")) <= before:
            assert time.monotonic() < deadline, "the example did not end"
            time.sleep(1)
        outcome = comfy.wait((set(comfy.get("/history")) - before).pop())
        assert outcome.status == "success", outcome.error
        assert {"2", "3"} <= set(outcome.outputs)
        page.wait_for_selector("text=Saved sage/", state="detached", timeout=60_000)
        time.sleep(3)
        pages.screenshot(page, comfy.base / f"example-{'vue' if vue else 'classic'}.png")
        assert not pages.complaints(page, problems, ordinary)
        count = (
            "[...document.querySelectorAll(`[data-node-id='2'] img`)].filter(i => i.offsetParent !=="
            " null).length"
        )
        if vue:  # 0.3.64's show neither pictures nor elements of a pack
            assert page.evaluate(count) == (1 if pages.faces(page) else 0)
        else:
            assert page.evaluate("window.app.graph.getNodeById(2).imgs.length") == 1
    assert (comfy.base / "models/loras/sage/erased-dog.safetensors").exists()
