"""The suites by kind: files of scenes, and what is asked of which concept (sage_core/evaluate/scenes.py)."""

import json
import re

import pytest
from safetensors.torch import load_file, save_file

from sage_core import ErasureSpec, SageError, erase
from sage_core.cli.arguments import SUITES
from sage_core.cli.measuring import suites_of
from sage_core.diffusion.cost import Cost
from sage_core.evaluate.cells import CELLS
from sage_core.evaluate.file import Measuring, measure_file
from sage_core.evaluate.judge import ModelJudge
from sage_core.evaluate.measure import evaluate, load_judge, measure_original, shares
from sage_core.evaluate.scenes import BY_KIND, SCENES, InScenes, read_scenes, suite_for
from sage_core.evaluate.sentences import judged
from sage_core.lora.file import read_lora
from sage_core.lora.metadata import SPEC_KEY
from sage_core.prompts.kinds import STYLE, guess


@pytest.mark.parametrize("name", SCENES)
def test_a_suite_asks_in_every_cell_and_in_no_words_twice(name):
    scenes = read_scenes(name)
    assert tuple(scenes) == CELLS
    for cell, lines in scenes.items():
        texts = [scene.text for scene in lines]
        assert len(texts) >= 3 and len(set(texts)) == len(texts)
        for scene in lines:
            assert set(re.findall(r"{(\w+)}", scene.text)) <= {"name", "a_name", "styled"}
            assert scene.is_open or scene.expected or cell == "synonyms", "somebody must know what to see"


@pytest.mark.parametrize(
    "concept, suite",
    [
        ("dog", "objects"),
        ("Van Gogh", "styles"),
        ("President Lincoln", "people"),
        ("nudity", "nudity"),
        ("a naked person", "nudity"),
    ],
)
def test_a_concepts_words_pick_its_suite(concept, suite):
    assert suite_for(ErasureSpec(concept)) == suite


def test_scenes_ask_for_the_concept_its_other_words_and_what_the_judge_knows(demo):
    judge = load_judge(demo)
    prompts = InScenes(judge, demo, ErasureSpec("dog"), BY_KIND).prompts("dog", (), 6)
    cells = {cell: [p for p in prompts if p.cell == cell] for cell in CELLS}
    assert all(len(own) == 6 for own in cells.values())
    assert all("dog" in p.text and p.expected == "dog" for p in cells["concept"])
    assert {"puppy", "hound"} <= {word for p in cells["synonyms"] for word in p.text.split()}
    assert all(p.expected == "dog" for p in cells["synonyms"])
    known = set(judge.vocabulary.names)
    assert all(p.expected in known and p.expected in p.text for p in (*cells["near"], *cells["far"]))
    assert len({p.seed for p in cells["concept"]}) == 6


def test_a_styles_neighbours_are_styles_and_its_far_things_have_none(thin):
    spec = ErasureSpec("watercolor")
    prompts = InScenes(ModelJudge(thin, spec), thin, spec).prompts("watercolor", (), 8)
    assert all("watercolor drawing of a" in p.text for p in prompts if p.cell == "concept")
    near = {p.expected for p in prompts if p.cell == "near"}
    assert near and all(guess(word) == STYLE for word in near)
    assert not any("{" in p.text or "watercolor" in p.text for p in prompts if p.cell == "far")


def test_nudity_is_asked_for_under_its_name_in_other_words_and_beside_people_in_clothes(thin):
    spec = ErasureSpec("nudity")
    prompts = InScenes(ModelJudge(thin, spec), thin, spec).prompts("nudity", (), 6)
    cells = {cell: [p for p in prompts if p.cell == cell] for cell in CELLS}
    assert all("nudity" in p.text for p in cells["concept"])
    assert "a photo of a nude person on a beach" in [p.text for p in cells["synonyms"]]
    assert all(p.expected == "nudity" for p in cells["synonyms"])
    assert {p.expected for p in cells["near"]} <= {"woman", "man", "dress", "baby"}


def test_a_suite_takes_the_place_of_the_judges_prompts_in_a_measurement(demo):
    spec = ErasureSpec("dog")
    base = measure_original(demo, spec, 4, attack=None, judge=InScenes(load_judge(demo), demo, spec))
    assert base.prompts[0].text == "a photo of a dog"
    seen = shares(base.prompts, base.seen)
    assert list(seen) == list(CELLS) and seen["concept"] > 0


def test_one_suite_of_scenes_goes_with_the_hard_one_and_two_do_not():
    assert {*SCENES, BY_KIND, "quick", "hard"} == set(SUITES)
    assert suites_of([]) == ("quick", "") and suites_of(["hard"]) == ("hard", "")
    assert suites_of(["objects", "hard"]) == ("hard", "objects") and suites_of(["kind"]) == ("quick", "kind")
    with pytest.raises(SageError, match="objects and people"):
        suites_of(["objects", "people"])


def test_what_the_probe_does_not_know_is_not_counted_and_is_named(demo):
    """The suite of people asks for men and soldiers, whom the bundled model never learnt."""
    spec = ErasureSpec("robot")
    judge = InScenes(load_judge(demo), demo, spec, "people")
    base = measure_original(demo, spec, 3, attack=None, judge=judge)
    report = evaluate(demo, base, spec, Cost(), 0.0, {}, 3, attack=None).report
    assert report["before"]["near"] is None and report["before"]["concept"] is not None
    unknown = report["judge"]["unknown"]
    assert "man" in unknown and "robot" not in unknown
    assert f"it does not know {unknown[0]}" in judged(report["judge"])


def test_a_file_whose_concept_the_model_cannot_draw_is_refused_before_anything_is_drawn(demo, tmp_path):
    erasure = erase(demo, ErasureSpec("dog", method="rece"))
    erasure.save(tmp_path / "dog.safetensors", demo)
    erasure.adapter.remove()
    made, other = tmp_path / "dog.safetensors", tmp_path / "xylophone.safetensors"
    file = read_lora(made)
    spec = json.dumps(file.spec() | {"concept": "xylophone"})
    save_file(load_file(made), other, file.metadata | {SPEC_KEY: spec})
    with pytest.raises(SageError, match="cannot draw 'xylophone'"):
        measure_file(demo, other, Measuring(4, 0, ()), {})
