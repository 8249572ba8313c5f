"""Newer flow transformers, small and random, trained through ComfyUI's own model of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_hosted.py"
LIKE = 1e-4  # the largest difference between two programs' float32 arithmetic, beside predictions of about 1
SAMPLING = {
    "flux1": "flow, shift 3.158",
    "schnell": "flow, shift 1",
    "flux2": "flow, shift 7.538",
    "klein": "flow, shift 7.538",
    "chroma": "flow, shift 3.158",
    "qwen_image": "flow, shift 3.158",
    "sd3": "flow, shift 3",
    "z_image": "flow, shift 3",
}
LAYERS = {
    "flux1": 10,
    "schnell": 10,
    "flux2": 9,
    "klein": 9,
    "chroma": 9,
    "qwen_image": 9,
    "sd3": 17,
    "z_image": 15,
}  # in the file


def inside(comfy_path, family: str, folder: Path, *more: str) -> dict:
    """What the script found in that ComfyUI; the test is skipped where it lacks the family."""
    return server.there(server.result_of(comfy_path, INSIDE, family, folder, *more), comfy_path, family)


def trained_soundly(found: dict) -> None:
    """The gradient is the slope of the loss, layers moved, nothing stayed on the graph's model."""
    gradient, slope = found["slope"]
    assert slope == pytest.approx(gradient, rel=0.01)
    assert found["moved"] >= found["layers"] - 2  # Qwen-Image's last block drops its text
    assert found["computed again"] >= 2  # blocks, in the backward pass
    assert found["removed"] == 0 and found["once"]
    assert found["same fingerprint"] and found["other fingerprint"]


@pytest.mark.parametrize("family", sorted(SAMPLING))
def test_a_family_is_erased_saved_and_applied_without_loss(comfy_path, tmp_path, family):
    found = inside(comfy_path, family, tmp_path)
    trained_soundly(found)
    assert found["sampling"] == SAMPLING[family] and found["file"] == LAYERS[family]
    assert found["host"] == ("guidance embedding 1" if family in ("flux1", "flux2") else "")
    assert found["apart"] < LIKE < found["effect"] / 10
    read_by_diffusers(family, tmp_path / "dog.safetensors")


def test_the_loss_falls_in_flux(comfy_path, tmp_path):
    """ESD's, on the bare word: in units of the untouched model's at the same states it begins at 1."""
    pairs = inside(comfy_path, "flux1", tmp_path, "esd", "24")["pairs"]
    assert len(pairs) == 24
    (loss, pull), last = pairs[0], pairs[-6:]
    assert loss == pytest.approx(pull, rel=1e-3)
    left = sum(loss for loss, _ in last) / sum(pull for _, pull in last)
    assert left < 0.5, pairs


def test_weights_in_fp8_are_trained_through(comfy_path, tmp_path):
    """And the LoRA arrives as it was trained: beside the weights, where nothing rounds it."""
    found = inside(comfy_path, "flux1-fp8", tmp_path)
    trained_soundly(found)
    assert found["dtype"] == "torch.float8_e4m3fn"
    assert found["apart"] < LIKE < found["effect"] / 10


def test_the_gradient_is_right_with_what_comfyui_does_on_a_graphics_card(comfy_path):
    """And without what training changes, it is not: else nothing was compared."""
    found = server.result_of(comfy_path, INSIDE.with_name("inside_card.py"))
    gradient, slope = found["slope"]
    assert slope == pytest.approx(gradient, rel=0.01)
    assert found["attention"] < 1e-4 and found["attention put back"]
    assert "no gradient arrives at" in found["attention, unmended"]
    if "lent" in found:  # older versions bring weights each to a place of its own
        unmended = found["lent, unmended"]
        assert found["lent"] < 1e-5 and found["lent put back"]
        assert isinstance(unmended, str) or unmended < 0.5


def test_the_node_erases_flux_finds_its_file_again_and_refuses_in_a_sentence(comfy_path, tmp_path):
    script = INSIDE.with_name("inside_hosted_node.py")
    found = server.result_of(comfy_path, script, tmp_path)
    assert found["names"] == found["again"] == ["sage/erased-dog.safetensors"] and len(found["found"]) == 1
    assert found["patched"] == 6 and found["clip"] and found["prompts"][0] == "a photo of a dog"
    assert any("trained inside ComfyUI" in text for text in found["said"])
    assert len(found["both"]) == 2 and len(found["files"]) == 3
    assert found["left behind"] == found["hooks"] == 0
    refused = found["refused"]
    assert all(text.count(". ") == 0 and text.endswith(".") for text in refused.values()), refused
    assert "choose one of sage" in refused["method"] and "cross_attention" in refused["text"]


def read_by_diffusers(family: str, path: Path) -> None:
    """diffusers hangs every matrix of the file on its own transformer of the same size."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    network = twin(diffusers, family)
    if network is None:
        return
    state = load_file(path)
    state = {k.replace("diffusion_model.", "transformer.", 1): v for k, v in state.items()}
    network.load_lora_adapter(state, prefix="transformer")
    there = {k: p for k, p in network.named_parameters() if "lora_" in k}
    assert len(there) == len(state)
    for key, value in there.items():
        name = "transformer." + key.replace(".default_0", "")
        assert torch.equal(value.cpu().to(state[name].dtype), state[name]), name


def twin(diffusers, family: str):
    """diffusers' transformer of the small model's size; None where the installed version lacks it."""
    flux = {"num_layers": 2, "num_single_layers": 1, "attention_head_dim": 128, "num_attention_heads": 2}
    shapes = {
        "flux1": ("FluxTransformer2DModel", flux | {"joint_attention_dim": 4096, "guidance_embeds": True}),
        "schnell": ("FluxTransformer2DModel", flux | {"joint_attention_dim": 4096}),
        "flux2": ("Flux2Transformer2DModel", flux | {"joint_attention_dim": 512}),
        "klein": (
            "Flux2Transformer2DModel",
            flux | {"joint_attention_dim": 512, "guidance_embeds": False},
        ),
        "chroma": ("ChromaTransformer2DModel", flux | {"joint_attention_dim": 512}),
        "qwen_image": (
            "QwenImageTransformer2DModel",
            {
                "num_layers": 2,
                "attention_head_dim": 128,
                "num_attention_heads": 2,
                "joint_attention_dim": 512,
            },
        ),
        "sd3": (
            "SD3Transformer2DModel",
            {
                "num_layers": 4,
                "num_attention_heads": 4,
                "attention_head_dim": 64,
                "joint_attention_dim": 4096,
                "caption_projection_dim": 256,
                "pooled_projection_dim": 2048,
                "qk_norm": "rms_norm",
                "dual_attention_layers": (0,),
            },
        ),
        "z_image": (
            "ZImageTransformer2DModel",
            {"dim": 384, "n_layers": 2, "n_heads": 3, "n_kv_heads": 3, "cap_feat_dim": 512},
        ),
    }
    name, config = shapes[family]
    kind = getattr(diffusers, name, None)
    return None if kind is None else kind(**config)
