"""Flow families whose layers the pack does not list, small and random: found, trained and applied."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

server = sys.modules["comfy_test_server"]
INSIDE = Path(__file__).parent / "inside_hosted.py"
WATCHED, NODE = INSIDE.with_name("inside_watched.py"), INSIDE.with_name("inside_hosted_node.py")
TRAINED = INSIDE.with_name("inside_trained.py")
LAYERS = {  # in the file, of the small model
    "anima": 15,
    "aura": 15,
    "ernie": 1,
    "hidream": 20,
    "hunyuan_image": 19,
    "kandinsky": 12,
    "krea2": 35,
    "longcat": 9,
    "lumina2": 11,
    "mage_flow": 13,
    "omnigen2": 8,
    "wan": 6,
}
DROPPED = {"mage_flow": 4}  # layers of a last block that drops its text


def found_in(comfy_path, script: Path, *arguments: object) -> dict:
    """What the script found in that ComfyUI; the test is skipped where it lacks the family."""
    return server.there(server.result_of(comfy_path, script, *arguments), comfy_path, arguments[0])


@pytest.mark.parametrize("family", sorted(LAYERS))
def test_an_unlisted_family_is_erased_saved_and_applied_without_loss(comfy_path, tmp_path, family):
    found = found_in(comfy_path, INSIDE, family, tmp_path)
    gradient, slope = found["slope"]
    assert slope == pytest.approx(gradient, rel=0.02)
    assert found["layers"] == found["file"] == LAYERS[family]
    assert found["moved"] == LAYERS[family] - DROPPED.get(family, 0)
    assert found["computed again"] >= 2 and found["removed"] == 0 and found["once"]
    assert found["same fingerprint"] and found["other fingerprint"]
    assert found["apart"] < found["effect"] / 100 and found["along"] > 0.9999


def test_the_node_erases_one_and_finds_its_file_again(comfy_path, tmp_path):
    found = server.result_of(comfy_path, NODE, tmp_path, "lumina2")
    assert found["names"] == found["again"] == ["sage/erased-dog.safetensors"] and len(found["found"]) == 1
    assert found["patched"] == LAYERS["lumina2"] and found["clip"]
    assert any("11 layers" in text and "Lumina2" in text for text in found["said"])
    assert len(found["both"]) == 2 and found["left behind"] == found["hooks"] == 0


def test_a_concept_goes_from_a_trained_model_and_other_words_stay(comfy_path, tmp_path):
    """The bundled flow transformer, as if nobody had listed its layers."""
    found = found_in(comfy_path, TRAINED, tmp_path, "rose", 0)
    assert found["before"]["concept"] >= 7 and found["after"]["concept"] <= 1
    assert found["after"]["others"] >= 0.9 * found["before"]["others"]


@pytest.mark.parametrize("family", ["flux1", "flux2", "chroma", "qwen_image", "sd3", "z_image"])
def test_watching_a_listed_family_finds_its_layers_and_none_of_the_pictures(comfy_path, family):
    """Listed are the text's attention and what reads the prompt; found besides is what else is the text's."""
    found = found_in(comfy_path, WATCHED, family)
    assert set(found["listed"]) <= set(found["watched"])
    others = set(found["watched"]) - set(found["listed"])
    assert all(re.search("txt_mlp|context_block.mlp|y_embedder|vector_in", path) for path in others), others


def test_a_network_whose_gradient_is_not_the_slope_is_refused_in_a_sentence(comfy_path):
    """In one layer the gradient is three times too large; what it computes is the same."""
    sentence = found_in(comfy_path, WATCHED, "lumina2")["refused"]
    assert "not the slope of the loss" in sentence and sentence.endswith(".")
