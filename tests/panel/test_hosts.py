"""The extension in the real Stable Diffusion WebUIs: FORGE_PATH (lllyasviel's), NEO_PATH and CLASSIC_PATH
(Haoming02's two) and A1111_PATH (AUTOMATIC1111's) name their folders. Without one, its tests are skipped,
loudly.

Each host runs in its own Python: its venv, or FORGE_PYTHON, NEO_PYTHON and CLASSIC_PYTHON. Nothing of theirs
is in this repository.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from panel_tools import LONG, ROOT, find_chromium, folder_of, free_port, lacking, python_of, wait

HOSTS = {"FORGE": "forge", "NEO": "neo", "CLASSIC": "classic"}
FAMILIES = ("sd1", "sdxl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Files of whole models' shapes: {family: (LoRA, names of the checkpoint, layers)}."""
    sys.path.insert(0, str(Path(__file__).parent))
    import whole_models

    folder, made = tmp_path_factory.mktemp("whole"), {}
    for family in FAMILIES:
        lora, names = folder / f"{family}.safetensors", folder / f"{family}.json"
        whole_models.write_checkpoint(family, names)
        made[family] = lora, names, whole_models.write_lora(family, lora)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", HOSTS)
def test_every_key_of_a_lora_lands_in_the_host_s_own_key_map(name, family, request):
    folder, python = folder_of(name), python_of(name)
    lora, names, layers = request.getfixturevalue("whole")[family]
    script = Path(__file__).parent / "host_keys.py"
    command = [python, str(script), HOSTS[name], str(folder), str(lora), str(names)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found == {"layers": layers, "patched": layers, "left_over": 0, "without_a_weight": 0}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_lands_in_automatic1111_s_own_key_map(family, request, monkeypatch):
    """Its load_network, run as it is; what it imports beside itself is not there and is not asked."""
    file = folder_of("A1111") / "extensions-builtin" / "Lora" / "networks.py"
    lora, names, layers = request.getfixturevalue("whole")[family]
    kinds = ("lora", "glora", "hada", "ia3", "lokr", "full", "norm", "oft")
    inner = (
        "textual_inversion",
        "textual_inversion.textual_inversion",
        "models",
        "models.sd3",
        "models.sd3.mmdit",
    )
    absent = ["gradio", "lora_patches", "network", "lora_logger", "modules", *(f"network_{k}" for k in kinds)]
    for missing in (*absent, *(f"modules.{part}" for part in inner)):
        monkeypatch.setitem(sys.modules, missing, mock.MagicMock())
    spec = importlib.util.spec_from_file_location("a1111_networks", file)
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    mapping = {name: object() for name in modules_of(json.loads(names.read_text(encoding="utf-8")))}
    theirs.shared.sd_model = SimpleNamespace(network_layer_mapping=mapping)
    from safetensors.torch import load_file

    theirs.sd_models.read_state_dict = load_file
    lost = []
    monkeypatch.setattr(theirs.logging, "debug", lost.append)
    theirs.load_network("ours", SimpleNamespace(filename=str(lora)))
    assert lost == [] and theirs.network.NetworkWeights.call_count == layers


def modules_of(shapes: dict[str, list[int]]) -> set[str]:
    """Names of a checkpoint's modules as AUTOMATIC1111 maps them."""
    found = set()
    for name in shapes:
        for start in ("model.", "cond_stage_model.", "conditioner.embedders."):
            if name.startswith(start):
                found.add(name.removeprefix(start).rpartition(".")[0].replace(".", "_"))
                break
    return found


class Running:
    """A whole host on the processor, with this repository as an extension."""

    def __init__(self, name: str, data: Path):
        self.folder, self.data, self.port = folder_of(name), data, free_port()
        (data / "extensions").mkdir(parents=True)
        (data / "extensions" / "sage-concept-eraser").symlink_to(ROOT, target_is_directory=True)
        flags = ["--skip-prepare-environment", "--always-cpu", "--skip-torch-cuda-test"]
        flags += ["--skip-python-version-check", "--port", str(self.port), "--data-dir", str(data)]
        # The host's packages may be too old: then the Python of these tests erases.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "SAGE_ERASE_PYTHON": sys.executable}
        self.log = data / "host.log"
        with open(self.log, "wb") as log:
            command = [python_of(name), "launch.py", *flags]
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self):
        wait(lambda: self.process.poll() is not None or "Startup time" in self.text(), 240, 0.5)
        assert self.process.poll() is None, self.text()[-3000:]
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTS)
def test_the_host_s_loader_takes_the_extension_and_its_tab_erases(name, tmp_path):
    folder_of(name)
    if not LONG:
        pytest.skip("starts a whole host; set SAGE_LONG=1")
    sync_api = pytest.importorskip("playwright.sync_api")
    if find_chromium() is None:
        lacking("CHROMIUM", "the tab was NOT tested; set CHROMIUM_PATH to a browser.")
    with Running(name, tmp_path / "data") as host, sync_api.sync_playwright() as playwright:
        assert "sage_erase.py" not in host.text(), "the loader complains of nothing of ours"
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.goto(host.address)
        page.locator("#tabs button", has_text="Erase concepts").first.click(timeout=60_000)
        page.fill("#sage_concepts textarea", "dog")
        page.click("#sage_erase")
        page.wait_for_selector("#sage_shown a[download]", timeout=400_000)
        link = page.get_attribute("#sage_shown a.sage-first", "href")
        with urllib.request.urlopen(f"{host.address}/{link}") as answer:
            assert len(answer.read()) > 10_000
        browser.close()
        assert (host.data / "models" / "Lora" / "sage" / "erased-dog.safetensors").is_file()


@pytest.mark.parametrize("name", HOSTS)
def test_the_host_s_installer_finds_nothing_to_complain_of(name, tmp_path):
    """It runs install.py at every start, and reports any status but 0."""
    python = python_of(name)
    place = tmp_path / "extensions" / "sage-concept-eraser"
    place.mkdir(parents=True)
    for file in ("install.py", "requirements.txt"):
        (place / file).write_bytes((ROOT / file).read_bytes())
    run = subprocess.run([python, str(place / "install.py")], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and len(run.stdout.splitlines()) <= 1
