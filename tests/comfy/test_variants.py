"""Models that share a class of ComfyUI's with a trained family: trained as they are sampled, or refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_variants.py"
FAMILIES = {
    "kontext": "flux1",
    "klein": "flux2",
    "chroma": "chroma",
    "qwen-edit": "qwen_image",
    "qwen-edit-2511": "qwen_image",
    "z-image": "z_image",
    "z-image-omni": "z_image",
    "ovis": "fluxschnell",  # these and the next: by watching
    "longcat": "longcatimage",
    "lumina2": "lumina2",
}
REFERRING = ("kontext", "klein", "qwen-edit", "qwen-edit-2511", "z-image-omni")  # that may have a reference
INSTEAD = {
    "fill": "FLUX.1 dev, whose LoRA fits",
    "canny": "FLUX.1 dev, whose LoRA fits",
    "control-lora": "put Erase Concept before the control LoRA",
    "layered": "Qwen-Image, whose LoRA fits",
    "radiance": "connect Chroma itself",
    "z-image-pixels": "connect Z-Image itself",
}


@pytest.fixture(scope="module")
def all_found(comfy_path, tmp_path_factory) -> dict:
    """What the script found in that ComfyUI, of every model."""
    return server.result_of(comfy_path, INSIDE, tmp_path_factory.mktemp("variants"))


def of(name: str, all_found: dict, comfy_path) -> dict:
    """The test is skipped where that ComfyUI lacks the model."""
    if all_found[name] is None:
        pytest.skip(f"ComfyUI {server.version_of(comfy_path)} has no {name}")
    return all_found[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_velocity_is_that_of_comfyuis_sampler_without_a_reference(comfy_path, all_found, name):
    found = of(name, all_found, comfy_path)
    assert found["family"] == FAMILIES[name]
    assert found["apart"] < 1e-5 and found["size"] > 0.1
    if name in REFERRING:
        assert found["by reference"] > 0.01, "the reference did not arrive, so nothing was compared"


@pytest.mark.parametrize("name", INSTEAD)
def test_others_are_refused_in_a_sentence_before_a_prompt_is_encoded(comfy_path, all_found, name):
    found = of(name, all_found, comfy_path)
    sentence = found["sentence"]
    assert INSTEAD[name] in sentence and sentence.endswith(".")
    if "compared" in found:
        assert "draws from prompts alone" in found["compared"] and found["compared"].endswith(".")
    assert not found["asked"] and len(found["said"]) == 1
    if "whose LoRA fits" in sentence:
        assert found["fits"] > 1e-3
