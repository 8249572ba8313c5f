"""One real ComfyUI server a version for the whole run. Without a ComfyUI these tests are skipped, loudly."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import pytest


def _module(name: str):
    """A file of this folder, which is no package, so that the pack's own names stay untouched."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parent / f"{name.removeprefix('comfy_test_')}.py"
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


server = _module("comfy_test_server")
graphs = _module("comfy_test_graphs")
drawn = _module("comfy_test_drawn")
sys.modules.setdefault("server", server)  # as record.py, which also runs by itself, imports it
record = _module("comfy_test_record")
page = _module("comfy_test_page")
del sys.modules["server"]


def pytest_terminal_summary(terminalreporter):
    if not server.find_comfies():
        sentence = (
            "NO COMFYUI FOUND: the integration tests were SKIPPED. Set COMFYUI_PATH to a ComfyUI folder to"
            " run them."
        )
        terminalreporter.write_line(sentence, red=True, bold=True)


@pytest.fixture(
    scope="session",
    params=server.find_comfies() or [None],
    ids=lambda p: f"ComfyUI {server.version_of(p)}" if p else "no ComfyUI",
)
def comfy_path(request):
    """Each ComfyUI in turn: a host is never one version."""
    if request.param is None:
        pytest.skip("no ComfyUI at COMFYUI_PATH or ~/ComfyUI: the integration tests did not run")
    return request.param


@pytest.fixture(scope="session")
def comfy(comfy_path, tmp_path_factory):
    with server.Server(comfy_path, tmp_path_factory.mktemp("comfy")) as running:
        yield running


@pytest.fixture(scope="session")
def erased_dog(comfy):
    """(workflow, seconds) of a whole default erasure, which its file `sage/bar-dog.safetensors` holds from
    then on.
    """
    graph, start = graphs.erase("dog", name="bar-%concept%"), time.monotonic()
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    return graph, time.monotonic() - start
