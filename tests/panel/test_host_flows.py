"""Files of the newer flow transformers in Forge's and Forge Neo's own LoRA code: FORGE_PATH and NEO_PATH name
their folders, FORGE_PYTHON and NEO_PYTHON their Pythons. Without one, its tests are skipped, loudly.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from panel_tools import folder_of, python_of
from safetensors.torch import save_file

from sage_core.diffusion.hosted_families import HOSTED, diffusers_names

SCRIPT = Path(__file__).parent / "host_flows.py"
MODELS = {  # what the host takes a checkpoint of these names and shapes for
    "flux1": "black-forest-labs/FLUX.1-dev",
    "flux2": "black-forest-labs/FLUX.2-klein-4B",
    "chroma": "Chroma",
    "qwen_image": "Qwen/Qwen-Image",
    "z_image": "Tongyi-MAI/Z-Image-Turbo",
}
LACKS = {"FORGE": {"flux2", "qwen_image", "z_image"}}
OTHER_NAMES = {"FORGE": {"chroma"}}  # diffusers' names are read of models called FLUX alone


def asked(host: str, *arguments: object) -> dict:
    folder = folder_of(host)
    command = [python_of(host), str(SCRIPT), str(folder), *map(str, arguments)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


def write_lora(family: str, shapes: dict[str, list[int]], path: Path) -> dict[str, list]:
    """A file for every layer that is trained; where each belongs: {name: [weight, rows or None]}."""
    tensors, places = {}, {}
    for key, shape in shapes.items():
        names = diffusers_names(HOSTED[family], key.removesuffix(".weight")) if len(shape) == 2 else ()
        rows = shape[0] // max(1, len(names))
        for i, name in enumerate(names):
            tensors[f"{name}.lora_A.weight"] = torch.ones(1, shape[1])
            tensors[f"{name}.lora_B.weight"] = torch.ones(rows, 1)
            places[name] = [key, [0, i * rows, rows] if len(names) > 1 else None]
    save_file(tensors, path)
    return places


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("host", ["FORGE", "NEO"])
def test_every_layer_of_a_flow_s_file_lands_where_it_was_trained(host, family, tmp_path):
    if family in LACKS.get(host, ()):
        pytest.skip(f"{host.title()} has no {family}")
    if family in OTHER_NAMES.get(host, ()):
        pytest.skip(f"{host.title()} does not read diffusers' names of {family}")
    names, lora = tmp_path / "names.json", tmp_path / "lora.safetensors"
    asked(host, family, names)
    places = write_lora(family, json.loads(names.read_text(encoding="utf-8")), lora)
    found = asked(host, family, names, lora)
    assert found["model"] == MODELS[family] and found["left over"] == 0
    assert sorted(found["places"], key=str) == sorted(([*place, True] for place in places.values()), key=str)
