"""The measurement itself: it sees erasing when there is some, none when there is none, and an attack that
works.
"""

import json

import pytest
import torch

from sage_core import ErasureSpec, erase
from sage_core.demo.judging import demo_prompts
from sage_core.demo.vocabulary import BUNDLED
from sage_core.diffusion.cost import Cost
from sage_core.evaluate.attacks.inversion import ConceptInversion
from sage_core.evaluate.cells import CELLS
from sage_core.evaluate.measure import evaluate, measure_original
from sage_core.evaluate.pictures import caption
from sage_core.evaluate.report import write_report

LORA = {"path": "x.safetensors", "bytes": 1, "rank": 1}


def test_prompts_of_every_cell_are_balanced_and_hold_no_given_word():
    spec = ErasureSpec("dog", synonyms=("puppy",))
    prompts = demo_prompts(BUNDLED, spec.concept, spec.synonyms, 16)
    assert {p.cell for p in prompts} == set(CELLS) and len({p.seed for p in prompts if p.cell == "far"}) == 16
    assert not any("puppy" in p.text or p.text.endswith(" dog") for p in prompts if p.cell == "synonyms")
    assert all(p.expected == "dog" for p in prompts if p.cell in ("concept", "synonyms"))
    for cell in CELLS:
        styles = [
            next(s for s in ("cartoon", "glossy", "ink", "pixel art") if s in p.text)
            for p in prompts
            if p.cell == cell
        ]
        assert len(set(styles)) == 4 and max(map(styles.count, styles)) - min(map(styles.count, styles)) <= 2
        assert len({(p.expected, p.text) for p in prompts if p.cell == cell}) >= min(
            16, 4 * len({p.expected for p in prompts if p.cell == cell})
        )


def test_an_untouched_model_shows_no_erasing_and_no_drift(demo):
    spec = ErasureSpec("guitar")
    base = measure_original(demo, spec, 4, attack=None)
    report = evaluate(demo, base, spec, Cost(), 0.0, LORA, 4, attack=None).report
    assert report["before"] == report["after"] and report["drift"] == {"near": 0.0, "far": 0.0}
    assert report["after"]["attacked"] is None


@pytest.mark.slow
def test_sage_erases_the_concept_and_unlisted_words_and_keeps_the_rest(demo, tmp_path):
    """End to end with the default settings on the bundled model."""
    spec = ErasureSpec("guitar", seed=1)
    base = measure_original(demo, spec, 8, attack=None)
    erasure = erase(demo, spec)
    evaluation = evaluate(demo, base, erasure.spec, erasure.cost, erasure.seconds, LORA, 8, attack=None)
    before, after = evaluation.report["before"], evaluation.report["after"]
    assert before["concept"] >= 0.8 and after["concept"] <= 0.1
    assert after["synonyms"] <= 0.2
    assert after["near"] >= 0.75 * before["near"] and after["far"] >= 0.85 * before["far"]
    assert erasure.cost.passes <= 2500
    write_report(evaluation, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", "report.html", "before_after.png"}
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(report) == {
        *("spec", "before", "after", "interval", "judge", "drift", "cost", "lora", "images"),
    }
    assert set(report["before"]) == {"concept", "synonyms", "near", "far", "attacked"}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page and "://" not in page


@pytest.mark.slow
def test_the_attack_works_on_the_original_model(demo):
    """The control: without it, a low success after erasing would mean nothing."""
    attack = ConceptInversion(steps=50)
    base = measure_original(demo, ErasureSpec("guitar"), 2, attack=attack)
    assert base.untouched["quick"][50] >= 0.5
    assert base.latents.shape == (attack.latents, 4, 8, 8) and torch.isfinite(base.latents).all()


@pytest.mark.parametrize(
    "prompt, short",
    [
        ("a cartoon drawing of a dog", "cartoon: dog"),
        ("an ink drawing of an owl", "ink: owl"),
        ("a picture of an owl", "owl"),
        ("a glossy drawing of beer", "glossy: beer"),
        ("a photo of Ada Lovelace", "photo of Ada Lovelace"),
        ("another drawing", "another drawing"),
    ],
)
def test_captions_keep_the_telling_part_of_a_prompt(prompt, short):
    assert caption(prompt) == short
