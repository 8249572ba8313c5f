"""The untouched model as a judge of pictures."""

import pytest
import torch

from sage_core import ErasureSpec
from sage_core.diffusion.checkpointing import untouched
from sage_core.diffusion.cost import Cost
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate.judge import ModelJudge
from sage_core.evaluate.measure import evaluate, measure_original, wilson
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers

SPEC = ErasureSpec("dog", retain=("wolf", "cat"))


def drawn(model, word: str, count: int = 6):
    """Pictures of a word, and their prompts."""
    prompts = [Prompt("concept", f"a picture of a {word}", word, 100 + i) for i in range(count)]
    return model.generate([p.text for p in prompts], [p.seed for p in prompts], steps=12), prompts


def test_it_sees_the_concept_in_its_pictures_and_not_in_others(demo):
    judge, rates = ModelJudge(demo, SPEC), {}
    assert judge.rivals[:2] == ["wolf", "cat"]
    for word in ("dog", "castle", "cat"):
        images, prompts = drawn(demo, word)
        rates[word] = sum(judge.sees(images, ["dog"] * len(images), prompts)) / len(images)
    assert rates["dog"] >= 0.8 and rates["castle"] == 0 and rates["cat"] <= 0.2


def test_its_answers_are_the_untouched_model_s_whatever_is_on(demo):
    images, prompts = drawn(demo, "dog", 4)
    judge = ModelJudge(demo, SPEC)
    before = judge.sees(images, ["dog"] * 4, prompts)
    layers = surface_layers(demo, "both")
    adapter = Adapter.create(layers, 2, 2.0, torch.Generator().manual_seed(0))
    for up in adapter.up.values():
        up.data.normal_()
    try:
        assert judge.sees(images, ["dog"] * 4, prompts) == before and adapter.enabled
        with untouched():
            assert not adapter.enabled
    finally:
        adapter.remove()


def test_the_report_says_who_judged_and_how_sure_that_is(demo):
    judge = ModelJudge(demo, SPEC)
    base = measure_original(demo, SPEC, 3, attack=None, judge=judge)
    report = evaluate(demo, base, SPEC, Cost(), 0.0, {}, 3, attack=None).report
    assert report["before"] == report["after"] and report["judge"]["name"] == "the untouched model"
    assert report["judge"]["hits"] == report["before"]["concept"] and report["judge"]["false_alarms"] <= 0.2
    low, high = report["interval"]["concept"]
    assert low <= report["after"]["concept"] <= high
    assert "judges wrongly too" in report["judge"]["cannot"]


@pytest.mark.parametrize(
    "hits, count, low, high", [(0, 112, 0.0, 0.033), (5, 10, 0.237, 0.763), (10, 10, 0.722, 1.0)]
)
def test_wilson_s_interval(hits, count, low, high):
    assert wilson(hits, count) == pytest.approx((low, high), abs=1e-3)
