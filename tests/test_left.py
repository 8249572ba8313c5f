"""What a person reads while a concept is erased: 100 % is the untouched model, 0 % is gone."""

import dataclasses

import pytest
import torch
from safetensors import safe_open

from sage_core import ErasureSpec, erase, load_lora, load_model
from sage_core.cycle.run import build_context
from sage_core.cycle.watch import PICTURES, Watch, passes
from sage_core.lora.adapter import Adapter
from sage_core.lora.file import read_lora, rewrite_metadata
from sage_core.lora.merge import merge_loras
from sage_core.lora.metadata import LEFT_KEY, LOSSES_KEY
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.table import METHODS

SPEC = ErasureSpec("castle", steps=3, rank=4, search=False)


def looked(model, spec, **more):
    """The erasure, and the events of its looks."""
    seen = []
    erasure = erase(model, spec, lambda e: seen.append(e) if e.phase == "look" else None, looks=True, **more)
    erasure.adapter.remove()
    return erasure, seen


def watch_on(model, spec) -> Watch:
    """A watch on a model with an adapter that changes nothing."""
    adapter = Adapter.create(surface_layers(model, "text"), 2, 2.0, torch.Generator().manual_seed(0))
    return Watch(build_context(model, spec.recipe(model.knowledge.styles), adapter), lambda *look: None)


@pytest.mark.parametrize("concept", ["dog", "pixel art"])
def test_an_untouched_model_is_at_one_hundred_percent_and_its_pictures_show_the_concept(demo, concept):
    watch, cost = watch_on(demo, ErasureSpec(concept)), dataclasses.replace(demo.cost)
    watch.begin()
    watch.look(0, 1)
    assert [share for _, share in watch.curve] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert (watch.whole > 0).float().mean() >= 0.8, "the untouched model sees the concept in what it drew"
    assert demo.cost == cost and watch.cost.forwards > 0, (
        "looking is not part of what a method costs, and is counted"
    )
    watch.context.adapter.remove()


def test_pictures_of_something_else_show_nothing_of_the_concept(demo):
    watch = watch_on(demo, ErasureSpec("dog"))
    watch.begin()
    watch.prompts = ["a picture of a castle"] * PICTURES
    castles = watch._draw()
    watch = watch_on(demo, ErasureSpec("dog"))
    watch.begin()
    watch._draw = lambda: castles
    watch.look(1, 1)
    assert watch.curve[-1][1] <= 0.02
    watch.context.adapter.remove()


def test_the_weaker_the_lora_the_more_is_left(demo, tmp_path):
    erasure, _ = looked(demo, ErasureSpec("dog", steps=6, search=False))
    path = erasure.save(tmp_path / "x.safetensors", demo)
    shares = []
    for strength in (0.0, 0.25, 1.0):
        model = load_model("demo")
        adapter = load_lora(model, path, strength)
        watch = Watch(build_context(model, ErasureSpec("dog").recipe(), adapter), lambda *look: None)
        watch.begin()
        watch.look(0, 1)
        shares.append(watch.curve[-1][1])
        adapter.remove()
    assert (
        shares[0] == pytest.approx(1.0, abs=1e-3)
        and shares == sorted(shares, reverse=True)
        and shares[-1] <= 0.1
    ), shares


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_looked_at_before_and_after(thin, method):
    spec = dataclasses.replace(
        SPEC, method=method, steps=1, resolution=64, rank=None if METHODS[method].closed else 4
    )
    erasure, seen = looked(thin, spec)
    assert [e.left for e in seen] == [share for _, share in erasure.left] and len(seen) >= 2
    assert erasure.left[0] == (0, 1.0) and all(0.0 <= share <= 1.0 for _, share in erasure.left)
    assert all(e.latents.shape == (PICTURES, *thin.latent_shape) for e in seen)


def test_looking_changes_nothing_of_what_is_trained_and_is_not_done_unasked(thin):
    asked, _ = looked(thin, SPEC)
    unasked = erase(thin, SPEC)
    unasked.adapter.remove()
    a, b = asked.adapter.tensors(), unasked.adapter.tensors()
    assert all(torch.equal(a[k], b[k]) for k in a) and asked.cost == unasked.cost
    assert unasked.left == [] and unasked.looked.forwards == 0 < asked.looked.forwards


@pytest.mark.parametrize("method", ["sage", "rece"])
def test_the_passes_of_all_looks_are_predicted(thin, method):
    erasure, _ = looked(thin, dataclasses.replace(SPEC, method=method, rank=None))
    assert erasure.looked.forwards == passes(0 if method == "rece" else SPEC.steps)


def test_a_resumed_run_has_the_whole_curve(thin, tmp_path):
    class Stop(Exception):
        pass

    def stop(event):
        if event.phase == "erase" and event.step == 2:
            raise Stop

    whole, _ = looked(thin, SPEC)
    with pytest.raises(Stop):
        erase(thin, SPEC, stop, state=tmp_path / "x.resume", save_every=0, looks=True)
    resumed, _ = looked(thin, SPEC, state=tmp_path / "x.resume", resume=True, save_every=0)
    assert [step for step, _ in resumed.left] == [step for step, _ in whole.left]
    assert [share for _, share in resumed.left] == pytest.approx([share for _, share in whole.left], abs=1e-4)


def test_the_file_records_the_looks_beside_the_losses(thin, tmp_path):
    erasure, _ = looked(thin, SPEC)
    path = erasure.save(tmp_path / "x.safetensors", thin)
    with safe_open(path, "pt") as f:
        assert {LEFT_KEY, LOSSES_KEY} <= set(f.metadata())
    read = read_lora(path).left()
    assert [step for step, _ in read] == [step for step, _ in erasure.left]
    assert [share for _, share in read] == pytest.approx([share for _, share in erasure.left], abs=1e-4)
    merge_loras([path, path], tmp_path / "both.safetensors")
    assert read_lora(tmp_path / "both.safetensors").left() == [], "a joined file has no curve of its own"
    for bad in (
        "[2.0]",
        '"x"',
        "[null]",
        "[[0, 2.0]]",
        "[[0, true]]",
        "[[-1, 0.5]]",
        "[[0, 0.5, 1]]",
        "{",
        "[[0, NaN]]",
    ):
        rewrite_metadata(path, {LEFT_KEY: bad})
        assert read_lora(path).left() == []
