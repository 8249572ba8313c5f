"""The pack on the real page, in headless Chromium."""

from __future__ import annotations

import json
import sys
import time

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
    with server.Server(comfy_path, tmp_path_factory.mktemp("plain"), "--disable-all-custom-nodes") as plain, pages.opened(plain) as (page, problems):
        pages.show(page, {"1": graphs.checkpoint("x")})
        time.sleep(10)
        return {p.splitlines()[0] for p in problems}


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "Vue nodes"])
def test_the_node_shows_its_progress_and_the_console_stays_clean(comfy, ordinary, vue):
    name = f"page-{'vue' if vue else 'classic'}"
    with pages.opened(comfy, **{"Comfy.VueNodes.Enabled": vue}) as (page, problems):
        pages.show(page, graphs.erase("cactus", steps=4, name=name))
        page.evaluate("window.app.queuePrompt(0)")
        # The Vue nodes of the front end that 0.3.64 comes with do not show elements of their own yet; bar, previews and toast they do.
        if not vue or pages.faces(page):
            pages.wait_face(page, "erasing")
            pages.wait_face(page, f"saved: sage/{name}.safetensors")
            assert page.evaluate("document.querySelectorAll('.sage-face .sage-curve').length") == 1
            assert page.evaluate("document.querySelector('.sage-face .sage-left').textContent").endswith(" %")
        page.wait_for_selector("text=Saved sage/", timeout=60_000)
        # The LoRA lists know the new file without a restart.
        page.evaluate("g => window.app.loadApiJson(g, 'x')", {"1": {"class_type": "SAGE_ApplyErasures", "inputs": {"lora_1": "none", "strength_1": 1.0}}})
        options = page.evaluate("window.app.graph._nodes[0].widgets[0].options.values")
        assert f"sage/{name}.safetensors" in options
        assert not [p for p in problems if p.splitlines()[0] not in ordinary]


def test_a_failure_is_one_sentence_in_a_toast(comfy):
    with pages.opened(comfy) as (page, _):
        pages.show(page, graphs.erase("carburettor", steps=2))
        page.evaluate("window.app.queuePrompt(0)")
        pages.wait_face(page, "cannot draw 'carburettor'")
        page.wait_for_selector(".p-toast-message-error", timeout=10_000)


def test_every_example_loads_on_the_page_with_its_thumbnail(comfy):
    folder, info = server.PACK / "example_workflows", comfy.get("/object_info")
    listed = comfy.get("/workflow_templates")["sage-concept-eraser"]
    with pages.opened(comfy) as (page, _):
        for file in sorted(folder.glob("*.json")):
            assert file.with_suffix(".jpg").stat().st_size > 2000 and file.stem in listed
            page.evaluate("g => window.app.loadGraphData(g)", json.loads(file.read_text(encoding="utf-8")))
            prompt = page.evaluate("window.app.graphToPrompt().then(p => p.output)")
            assert prompt
            for node in prompt.values():
                assert set(info[node["class_type"]]["input"]["required"]) <= set(node["inputs"])
