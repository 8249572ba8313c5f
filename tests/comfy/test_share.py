"""Sharing a workflow and surviving a restart: servers of their own."""

from __future__ import annotations

import sys
import time

import pytest
import torch
from safetensors.torch import load_file

server, graphs = sys.modules["comfy_test_server"], sys.modules["comfy_test_graphs"]


def progress(running, prompt: dict, timeout: float = 300) -> tuple[list[dict], object]:
    """The `sage.progress` events of a prompt, as the page gets them, and its outcome."""
    websocket = pytest.importorskip("websocket")
    socket = websocket.create_connection(f"ws://127.0.0.1:{running.port}/ws?clientId=events", timeout=timeout)
    status, answer = running.post("/prompt", {"prompt": prompt, "client_id": "events"})
    assert status == 200, answer
    events, start = [], time.monotonic()
    while time.monotonic() - start < timeout:
        raw = socket.recv()
        if isinstance(raw, bytes):
            events.append({"type": "binary"})
            continue
        message = server.json.loads(raw)
        events.append(message)
        data = message.get("data", {})
        if (
            message["type"] in ("execution_success", "execution_error", "execution_interrupted")
            and data.get("prompt_id") == answer["prompt_id"]
        ):
            break
    socket.close()
    return events, running.wait(answer["prompt_id"])


def steps_of(events: list[dict]) -> list[int]:
    return [
        e["data"]["step"] for e in events if e["type"] == "sage.progress" and e["data"]["phase"] == "erase"
    ]


def test_a_shared_workflow_gives_the_same_lora_elsewhere_and_a_sent_file_trains_nothing(
    comfy, comfy_path, tmp_path
):
    graph = graphs.erase("train", steps=6, name="shared")
    here, outcome = progress(comfy, graph)
    assert outcome.status == "success", outcome.error
    pictures = [e["data"]["preview"] for e in here if e["type"] == "sage.progress" and "preview" in e["data"]]
    assert steps_of(here) and len(pictures) >= 3, "steps and pictures reach the page"
    assert all(p.startswith("data:image/jpeg;base64,") for p in pictures)
    assert any(e["type"] == "sage.saved" and e["data"]["names"] == ["sage/shared.safetensors"] for e in here)
    file = comfy.base / "models/loras/sage/shared.safetensors"
    with server.Server(comfy_path, tmp_path / "second") as second:
        assert second.run(graph).status == "success"
        mine, theirs = load_file(file), load_file(second.base / "models/loras/sage/shared.safetensors")
        assert mine.keys() == theirs.keys()
        for key in mine:
            torch.testing.assert_close(theirs[key], mine[key], atol=1e-3, rtol=1e-3)
    (tmp_path / "third/models/loras/sage").mkdir(parents=True)
    (tmp_path / "third/models/loras/sage/shared.safetensors").write_bytes(file.read_bytes())
    with server.Server(comfy_path, tmp_path / "third") as third:
        events, outcome = progress(third, graph)
        assert outcome.status == "success" and not steps_of(events)


def test_a_run_goes_on_after_the_server_was_killed(comfy_path, tmp_path):
    graph = graphs.erase("cat", steps=30, name="resumed", vae=False)
    with server.Server(comfy_path, tmp_path) as first:
        first.queue(graph)
        deadline = time.monotonic() + 120
        state = tmp_path / "user" / "sage_concept_eraser"
        while (
            not list(state.glob("*.resume")) and time.monotonic() < deadline
        ):  # written as soon as the latent bank is there
            time.sleep(0.02)
        first.kill()
    assert list(state.glob("*.resume")) and not list((tmp_path / "models/loras").rglob("*.safetensors"))
    with server.Server(comfy_path, tmp_path) as second:
        events, outcome = progress(second, graph)
        assert outcome.status == "success", outcome.error
        phases = {e["data"]["phase"] for e in events if e["type"] == "sage.progress"}
        assert "erase" in phases and "bank" not in phases, "it did not begin again"
    assert (tmp_path / "models/loras/sage/resumed.safetensors").exists() and not list(state.glob("*.resume"))


def test_without_diffusers_the_nodes_register_and_say_what_to_install(comfy_path, tmp_path):
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('diffusers', 'peft'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "hide"))
        with server.Server(comfy_path, tmp_path / "base") as bare:
            assert "SAGE_EraseConcept" in bare.get("/object_info")
            outcome = bare.run(graphs.erase("dog", steps=2))
            assert (
                outcome.status == "error"
                and "diffusers is not installed" in outcome.error
                and "pip install" in outcome.error
            )


def test_the_pack_is_imported_in_under_a_second(comfy):
    line = next(
        line for line in comfy.text().splitlines() if "sage-concept-eraser" in line and "seconds" in line
    )
    assert float(line.split("seconds")[0].split()[-1]) < 1.0
