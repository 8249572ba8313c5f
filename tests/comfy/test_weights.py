"""What is erased is what the graph holds: compared, tensor by tensor, with the file that *Save Checkpoint*
writes of the same graph.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import full_shape
import pytest
import torch
from safetensors.torch import load_file, save_file

from sage_core import load_model
from sage_core.diffusion.architecture import UNET
from sage_core.lora.surfaces import linear_layers

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside.py"


def random_lora(source, path: Path) -> int:
    """A LoRA on every linear layer of a model; how many there are."""
    layers, generator, tensors = (
        linear_layers(load_model(source, dtype=torch.float16)),
        torch.Generator().manual_seed(0),
        {},
    )
    for name, layer in layers.items():
        tensors[f"{name}.lora_down.weight"] = 0.05 * torch.randn(2, layer.in_features, generator=generator)
        tensors[f"{name}.lora_up.weight"] = 0.05 * torch.randn(layer.out_features, 2, generator=generator)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, path)
    return len(layers)


def compare(comfy_path: Path, cases: str, source, lora, out: Path) -> dict:
    out.mkdir(exist_ok=True)
    command = [
        str(server.python_of(comfy_path)),
        str(INSIDE),
        str(comfy_path),
        str(server.PACK),
        cases,
        str(source),
        str(lora),
        str(out),
    ]
    done = subprocess.run(command, cwd=comfy_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def has_lazy_values(comfy_path: Path) -> bool:
    return "LazyCastingParam" in (comfy_path / "comfy" / "model_patcher.py").read_text(encoding="utf-8")


def check(found: dict, layers: int, tensors: int) -> None:
    assert found["tensors"] >= tensors and not found["different"] and not found["extra"]
    assert found["moved"] == layers, "every layer of the upstream LoRA is part of what is erased"
    assert not found["inference"] and not found["left"]


def test_what_is_erased_is_save_checkpoint_s_file_upstream_loras_included(comfy_path, tmp_path):
    layers = random_lora("demo", tmp_path / "lora.safetensors")
    lazy = has_lazy_values(comfy_path)
    found = compare(
        comfy_path,
        "loaded,file,lazy" if lazy else "loaded,file",
        "demo",
        tmp_path / "lora.safetensors",
        tmp_path / "out",
    )
    for case, own in found.items():
        check(own, layers, 300)
        assert (own["lazy"] > 0) == (case == "lazy")


def in_eight_bits(source: Path, path: Path) -> Path:
    """The checkpoint with its UNet's linear layers as scaled 8-bit floats, in ComfyUI's layout of today."""
    state = load_file(source)
    for key in [
        k for k in state if k.startswith(UNET) and ".transformer_blocks." in k and state[k].ndim == 2
    ]:
        scale = state[key].float().abs().max() / 448
        state[key.replace(".weight", ".weight_scale")] = scale
        state[key.replace(".weight", ".comfy_quant")] = torch.tensor(
            list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
        )
        state[key] = (state[key].float() / scale).to(torch.float8_e4m3fn)
    save_file(state, path)
    return path


@pytest.mark.skipif(not server.LONG, reason="a gigabyte and minutes: set SAGE_LONG=1")
def test_a_quantised_base_is_read_too(comfy_path, tmp_path):
    if server.version_of(comfy_path).startswith("0.3."):
        pytest.skip("this ComfyUI has no quantised layers of this kind")
    whole = full_shape.thin_sd1(tmp_path / "whole.safetensors")
    found = compare(
        comfy_path, "loaded", in_eight_bits(whole, tmp_path / "eight.safetensors"), "none", tmp_path / "out"
    )["loaded"]
    assert not found["different"] and not found["extra"] and not found["inference"]
    assert found["tensors"] or server.version_of(comfy_path) == "0.8.0", (
        "only there Save Checkpoint itself fails"
    )
    unet = load_model(tmp_path / "out" / "ours.safetensors").unet.state_dict()
    for key, value in load_model(whole).unet.state_dict().items():
        assert (unet[key] - value).abs().max() <= value.abs().max() / 16, key  # three bits of mantissa


@pytest.mark.parametrize("family", ["thin_sd1", "thin_sdxl"])
@pytest.mark.skipif(not server.LONG, reason="gigabytes and minutes: set SAGE_LONG=1")
def test_the_same_holds_for_checkpoints_of_real_structure(comfy_path, tmp_path, family):
    """SDXL's second encoder stores query, key and value as one matrix, so three layers of the LoRA move one
    tensor.
    """
    source = getattr(full_shape, family)(tmp_path / "random.safetensors")
    random_lora(source, tmp_path / "lora.safetensors")
    cases = "loaded,lazy" if has_lazy_values(comfy_path) else "loaded"
    found = compare(comfy_path, cases, source, tmp_path / "lora.safetensors", tmp_path / "out")
    for own in found.values():
        check(own, 256 if family == "thin_sd1" else 943, 800)
