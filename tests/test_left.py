"""What a person reads while a concept is erased: 100 % is the untouched model, 0 % is gone."""

import dataclasses
import json
import random

import pytest
import torch
from safetensors import safe_open

from sage_core import ErasureSpec, erase, load_lora, load_model
from sage_core.adapters import Adapter, surface_layers
from sage_core.context import build_context
from sage_core.cycle import latent_bank
from sage_core.left import WATCHED, Left, projected, share
from sage_core.lora import LEFT_KEY, LOSSES_KEY, read_lora, rewrite_metadata
from sage_core.merge import merge_loras
from sage_core.methods import METHODS

SPEC = ErasureSpec("castle", steps=3, rank=4)


def lefts(model, spec, **more):
    seen = []
    erasure = erase(model, spec, lambda e: seen.append(e.left) if e.phase == "erase" else None, **more)
    erasure.adapter.remove()
    return erasure, seen


def test_it_is_counted_on_the_way_from_the_concept_to_the_empty_prompt():
    """Beyond the empty prompt nothing is left, and an error across the way does not count."""
    torch.manual_seed(0)
    concept, empty = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    pull = concept - empty
    across = torch.randn_like(pull)
    across -= (across * pull).sum() / pull.square().sum() * pull
    for now, expected in ((1.0, 1.0), (0.4, 0.4), (0.0, 0.0), (-0.5, 0.0), (1.7, 1.0)):
        assert share(projected(empty + now * pull + 3 * across, concept, empty)) == pytest.approx(expected, abs=1e-5)


def test_strong_states_count_more_and_nothing_is_told_without_a_pull():
    assert share([(0.0, 9.0), (1.0, 1.0)]) == pytest.approx(0.1)
    assert share([]) is None and share([(0.0, 0.0)]) is None


def test_a_number_that_is_not_finite_tells_nothing():
    z = torch.ones(2, 4, 2, 2)
    predicted = z.clone()
    predicted[0] = float("nan")
    assert projected(predicted, z, 0 * z) == [None, (16.0, 16.0)]


def test_an_untouched_model_is_at_one_hundred_percent_in_every_look(demo):
    """A thing, in every style and alone, and a style."""
    for concept in ("dog", "pixel art"):
        spec = ErasureSpec(concept, method="esd").resolved()
        adapter = Adapter.create(surface_layers(demo, "text"), 2, 2.0, torch.Generator().manual_seed(0))
        context = build_context(demo, spec, adapter)
        context.source = latent_bank(context, METHODS["esd"].training, random.Random(0), lambda e: None)
        left, cost = Left(context), dataclasses.replace(demo.cost)
        left.look(0, False, None)
        assert [projection / pull for projection, pull in left.rows.values()] == pytest.approx([1.0] * WATCHED, abs=1e-3)
        assert demo.cost == cost, "looking is not part of what a method costs"
        adapter.remove()


def test_a_closed_form_start_shows_in_the_first_point(demo):
    """sage begins with an edit that takes most of the concept away before the first step."""
    erasure, seen = lefts(demo, ErasureSpec("dog", steps=2))
    assert erasure.left == [1.0, *seen] and seen[0] < 0.6


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].closed is None and m != "hirm"])
def test_every_method_with_noisy_latents_tells_a_share(thin, method):
    _, seen = lefts(thin, dataclasses.replace(SPEC, method=method, steps=1, resolution=64))
    assert all(0.0 <= left <= 1.0 for left in seen) and len(seen) == 1


@pytest.mark.parametrize("method", ["hirm", "rece"])
def test_a_method_in_text_space_or_in_closed_form_tells_none(thin, tmp_path, method):
    erasure, seen = lefts(thin, dataclasses.replace(SPEC, method=method, rank=None))
    assert erasure.left == [] and set(seen) <= {None}
    assert LEFT_KEY not in read_lora(erasure.save(tmp_path / "x.safetensors", thin)).metadata


def test_looking_changes_nothing_of_what_is_trained(thin, monkeypatch):
    spec = dataclasses.replace(SPEC, method="esd")
    looked, _ = lefts(thin, spec)
    monkeypatch.setattr(Left, "look", lambda *_: None)
    blind, _ = lefts(thin, spec)
    a, b = looked.adapter.tensors(), blind.adapter.tensors()
    assert all(torch.equal(a[k], b[k]) for k in a) and looked.cost == blind.cost


def test_a_resumed_run_has_the_whole_curve(thin, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event.phase == "erase" and event.step == 2:
            raise Stop

    whole, _ = lefts(thin, SPEC)
    with pytest.raises(Stop):
        erase(thin, SPEC, stop, state=tmp_path / "x.resume", save_every=0)
    resumed, _ = lefts(thin, SPEC, state=tmp_path / "x.resume", resume=True, save_every=0)
    assert resumed.left == pytest.approx(whole.left, abs=1e-5)


def test_the_file_records_the_curve_beside_the_losses(thin, tmp_path):
    erasure, _ = lefts(thin, SPEC)
    path = erasure.save(tmp_path / "x.safetensors", thin)
    with safe_open(path, "pt") as f:
        assert {LEFT_KEY, LOSSES_KEY} <= set(f.metadata())
    assert read_lora(path).left() == pytest.approx(erasure.left, abs=1e-4)
    merge_loras([path, path], tmp_path / "both.safetensors")
    assert read_lora(tmp_path / "both.safetensors").left() == [], "a joined file has no curve of its own"
    for bad in ("[2.0]", '"x"', "[null]", "[true]", "{", "[NaN]"):
        rewrite_metadata(path, {LEFT_KEY: bad})
        assert read_lora(path).left() == []


def test_the_weaker_the_lora_the_more_is_left(demo, tmp_path):
    """Half of an erasure is a model from which the concept is half gone."""
    erasure, _ = lefts(demo, ErasureSpec("dog", steps=6))
    path = erasure.save(tmp_path / "x.safetensors", demo)
    shares = []
    for strength in (0.0, 0.5, 1.0):
        model = load_model("demo")
        adapter = load_lora(model, path, strength)
        context = build_context(model, ErasureSpec("dog").resolved(), adapter)
        context.source = latent_bank(context, METHODS["esd"].training, random.Random(0), lambda e: None)
        left = Left(context)
        left.look(0, True, None)
        shares.append(left.now())
        adapter.remove()
    assert shares[0] == pytest.approx(1.0, abs=1e-3) and shares == sorted(shares, reverse=True) and shares[-1] < 0.5, json.dumps(shares)




def test_a_run_as_the_paper_s_code_has_it_tells_it_too(thin):
    """It has no bank: this step's state is looked at."""
    erasure, seen = lefts(thin, dataclasses.replace(SPEC, method="esd", faithful=True))
    assert erasure.left == [1.0, *seen] and len(seen) == SPEC.steps
