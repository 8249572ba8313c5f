"""The check of the cycle: what is left of a concept in each of its names, and the strength that takes it."""

import dataclasses
import json

import pytest
import torch

from sage_core import ErasureSpec, erase, load_lora
from sage_core.cli.main import main
from sage_core.cycle.latents import LatentBank
from sage_core.cycle.run import build_context
from sage_core.cycle.setup import searched
from sage_core.domain.check import (
    LEAST,
    MOST,
    MOST_THINGS,
    NOTHING,
    REPLACED,
    Checked,
    Scenes,
    bound_of,
    checked_scenes,
    dose,
    drawn_in,
    left_at,
    left_in_scenes,
    left_on_own_way,
    passes,
    states,
)
from sage_core.domain.found import Domain, Word
from sage_core.errors import SageError
from sage_core.lora.adapter import Adapter
from sage_core.lora.file import read_lora
from sage_core.lora.merge import merge_loras
from sage_core.lora.metadata import CHECK_KEY
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.context import Context
from sage_core.prompts.templates import SHOWN_ON
from sage_core.prompts.writer import Writer

DOMAIN = Domain(means=(Word("puppy", 0.98), Word("hound", 0.97)), close=(Word("wolf", 0.6), Word("car", 0.1)))
SPEC = ErasureSpec("dog", domain=DOMAIN)


def context_of(model, spec) -> Context:
    """Of an adapter that changes nothing."""
    adapter = Adapter.create(surface_layers(model, "both"), 2, 2.0, torch.Generator().manual_seed(0))
    return build_context(model, spec.recipe(model.knowledge.styles), adapter)


# ---- the strength ----


def falling(slopes: dict[str, float]):
    """What is left where it falls linearly from 1, and how often it was asked for."""
    asked = []

    def left(strength: float, names: list[str]) -> dict[str, float]:
        asked.append((strength, tuple(names)))
        return {name: 1 - slopes[name] * strength for name in names}

    return left, asked


@pytest.mark.parametrize("slope", [0.9, 1.0, 1.2, 1.6, 2.2])
def test_the_strength_leaves_just_under_the_aim(slope):
    left, asked = falling({"dog": slope, "puppy": slope + 0.05})
    strength, found = dose(left, ["dog", "puppy"], NOTHING.aim)
    assert strength == pytest.approx((1 - NOTHING.aim) / slope, abs=0.06)
    assert max(found.values()) <= NOTHING.aim + 0.03 and len(asked) <= 3


def test_a_strength_that_takes_too_much_is_lowered():
    left, _ = falling({"dog": 2.5})
    strength, found = dose(left, ["dog"], NOTHING.aim)
    assert strength < 0.6 and found["dog"] <= NOTHING.aim + 0.03


def test_the_name_with_most_left_decides_and_only_the_worst_are_asked_again():
    slopes = {"dog": 1.4, "puppy": 0.95, "hound": 1.3, "pooch": 1.5, "canine": 1.6}
    left, asked = falling(slopes)
    strength, found = dose(left, list(slopes), NOTHING.aim)
    assert found["puppy"] == max(found.values()) and strength == pytest.approx(1.1 / 0.95, abs=0.06)
    assert len(asked[0][1]) == 5 and all(len(names) == 3 for _, names in asked[1:])


def test_where_no_strength_is_enough_the_strongest_is_taken_and_the_name_is_reported():
    left, _ = falling({"dog": 0.5})
    strength, found = dose(left, ["dog"], NOTHING.aim)
    assert strength == MOST > LEAST and found["dog"] > NOTHING.seen
    sentence = Checked(found, strength, ("dog",)).sentence("dog")
    assert "still finds 'dog' in: dog 30%" in sentence and "Try more effort" in sentence


# ---- what is left ----


def test_all_is_left_in_an_untouched_model(demo):
    context = context_of(demo, SPEC)
    left = left_at(demo, context, ["dog", "puppy", "car"], states(demo, context))
    assert left["dog"] == pytest.approx(1.0, abs=1e-3) and left["puppy"] > 0.8 and left["car"] < 0.4
    context.adapter.remove()


def test_all_is_left_of_a_style_on_the_model_s_own_way(demo):
    context = context_of(demo, ErasureSpec("pixel art", search=False))
    before = demo.cost.passes
    left = left_on_own_way(demo, context, ["pixel art"], context.adapter.off)
    assert left["pixel art"] == pytest.approx(1.0, abs=1e-3)
    assert demo.cost.passes - before <= passes("style", 1)
    context.adapter.remove()


def test_the_defaults_leave_nothing_in_any_name_and_the_file_says_so(demo, tmp_path, capsys):
    erasure = erase(demo, SPEC)
    path = erasure.save(tmp_path / "dog.safetensors", demo)
    erasure.adapter.remove()
    assert set(erasure.checked.left) == {"dog", "puppy", "hound"} and not erasure.checked.seen
    assert max(erasure.checked.left.values()) <= NOTHING.aim + 0.05
    assert Checked.from_json(read_lora(path).check()).left.keys() == erasure.checked.left.keys()
    assert erasure.cost.passes <= erasure.recipe.passes
    assert len(erasure.checked.scenes) > 8
    assert max(erasure.checked.scenes.values()) <= NOTHING.in_scene
    assert "finds nothing of it in 3 names and " in erasure.checked.sentence("dog")
    assert main(["inspect", str(path)]) == 0
    assert "the check of 'dog' finds nothing of it in 3 names" in capsys.readouterr().out
    context = context_of(demo, SPEC)
    stops, adapter = states(demo, context), load_lora(demo, path)
    for name, share in left_at(demo, context, erasure.recipe.names, stops).items():
        assert share == pytest.approx(erasure.checked.left[name], abs=0.02), "the strength is in the file"
    adapter.remove()
    context.adapter.remove()


# ---- in other styles ----


def test_all_is_left_in_the_styles_in_which_the_untouched_model_draws_the_concept(demo):
    context = context_of(demo, SPEC)
    stops = states(demo, context)
    before = demo.cost.passes
    scenes = drawn_in(demo, context, ["watercolor", "pixel art", "embroidery"], stops)
    assert scenes.names == ["watercolor", "pixel art"] and min(scenes.adds) > 0.2
    assert demo.cost.passes - before <= 6
    left = left_in_scenes(demo, context, scenes, stops)
    assert left == {name: pytest.approx(1.0, abs=1e-3) for name in scenes.names}
    other = dataclasses.replace(context, names=["castle"])
    assert max(left_in_scenes(demo, other, scenes, stops).values()) < NOTHING.in_scene
    assert drawn_in(demo, context, ["embroidery"], stops).names == []
    context.adapter.remove()


def test_a_thing_is_checked_in_every_style_of_the_list():
    scenes = checked_scenes(Writer(names=["dog"], retained=[]))
    assert {"watercolor", "mosaic", "in the style of Rembrandt"} <= set(scenes) and "dog" not in scenes
    assert "mosaic" not in checked_scenes(Writer(names=["mosaic tile"], retained=[]))


def test_a_style_is_checked_on_things_of_all_sorts(demo):
    spec = ErasureSpec("pixel art", search=False)
    context = context_of(demo, spec)
    assert checked_scenes(context) == [], "of a UNet"
    things = checked_scenes(context, flow=True)
    assert 20 <= len(things) <= MOST_THINGS and set(things) <= {*SHOWN_ON, *context.things}
    places = [context.things.index(thing) for thing in things if thing not in SHOWN_ON]
    assert max(b - a for a, b in zip(places, places[1:])) < 12 and places[-1] > len(context.things) - 12
    stops = states(demo, context)
    before = demo.cost.passes
    scenes = drawn_in(demo, context, things, stops)
    assert len(stops) == 1 and demo.cost.passes - before == 2 * len(things)
    assert len(scenes.own) == len(scenes.names) > 15
    left = left_in_scenes(demo, context, scenes, stops)
    assert left == {thing: pytest.approx(1.0, abs=1e-3) for thing in scenes.names}
    other = dataclasses.replace(context, names=["watercolor"])
    average = sum(left_in_scenes(demo, other, scenes, stops).values()) / len(left)
    assert average < NOTHING.in_scene
    context.adapter.remove()


def test_a_thing_that_a_model_does_not_draw_in_the_style_is_left_out(demo):
    """The prompt of a house in the style is made to say what the one without it does."""
    context = context_of(demo, ErasureSpec("pixel art", search=False))

    class NoHouses(Context):
        def plain(self, name, scene):
            return self.neutral(scene, name) if scene == "house" else super().plain(name, scene)

    deaf = NoHouses(**{field.name: getattr(context, field.name) for field in dataclasses.fields(context)})
    found = drawn_in(demo, deaf, ["house", "cat", "car"], states(demo, context))
    assert found.names == ["cat", "car"] and len(found.own) == len(found.without) == len(found.adds) == 2
    context.adapter.remove()


class Stop(Exception):
    pass


@pytest.fixture
def extended_banks(monkeypatch):
    """The banks that took in further scenes."""
    seen, extend = [], LatentBank.extend

    def extended(bank, more):
        extend(bank, more)
        seen.append(bank)

    monkeypatch.setattr(LatentBank, "extend", extended)
    return seen


def test_a_style_that_still_draws_the_concept_is_trained_too_and_a_resumed_run_knows(
    thin, tmp_path, monkeypatch, extended_banks
):
    """Until it has been trained, the check is made to find the concept in mosaics."""

    def in_mosaics(model, writer, scenes, stops):
        return {scene: 0.9 if scene == "mosaic" else 0.0 for scene in scenes.names}

    def in_all(model, writer, scenes, stops):
        none, one = torch.zeros(len(scenes)), torch.ones(len(scenes))
        return Scenes(scenes, stops.own[:1], none, one)

    def run(on_event=None, **kwargs):
        erasure = erase(thin, recipe, on_event, **kwargs)
        erasure.adapter.remove()
        return erasure

    def stop_in_the_second_round(event):
        if event.phase == "erase" and event.step == 4:
            raise Stop

    monkeypatch.setattr("sage_core.cycle.checking.left_in_scenes", in_mosaics)
    monkeypatch.setattr("sage_core.cycle.checking.drawn_in", in_all)
    seen = extended_banks
    recipe = dataclasses.replace(SPEC, rank=2).recipe()
    short = dataclasses.replace(recipe.training, steps=6, first=2, again=2)
    recipe = dataclasses.replace(recipe, training=short)
    whole = run()
    assert len(seen) == 1 and seen[0].scenes[-1] == "mosaic", "once, though every check finds it"
    assert "mosaic" in seen[0].retain_prompts[-1] and len(whole.losses) == 6
    assert whole.checked.seen[-1] == "a mosaic of a dog" and len(whole.checked.scenes) > 20
    assert "a mosaic of a dog 90%" in whole.checked.sentence("dog")
    state = tmp_path / "run.resume"
    with pytest.raises(Stop):
        run(stop_in_the_second_round, state=state, save_every=0)
    resumed = run(state=state, resume=True, save_every=0)
    assert len(seen) == 2, "the resumed run had them in its state"
    for name, tensor in whole.adapter.tensors().items():
        torch.testing.assert_close(resumed.adapter.tensors()[name], tensor, atol=1e-5, rtol=1e-4)


def test_a_thing_that_still_shows_a_style_is_trained_too_with_and_without_the_style(
    thin, monkeypatch, extended_banks
):
    """The check is made to find the style on fish; it must not count as one of the other styles."""
    monkeypatch.setattr("sage_core.cycle.checking.left_on_own_way", lambda *a: {"pixel art": -0.2})

    def on_fish(model, writer, scenes, stops):
        return {scene: 0.9 if scene == "fish" else 0.0 for scene in scenes.names}

    monkeypatch.setattr("sage_core.cycle.checking.left_in_scenes", on_fish)
    monkeypatch.setattr("sage_core.cycle.checking.checked_scenes", lambda writer, flow: ["house", "fish"])
    seen = extended_banks
    recipe = ErasureSpec("pixel art", search=False, rank=2).recipe()
    short = dataclasses.replace(recipe.training, steps=4, first=2, again=2)
    contexts = []
    build = build_context
    monkeypatch.setattr(
        "sage_core.cycle.run.build_context", lambda *a: contexts.append(build(*a)) or contexts[-1]
    )
    erasure = erase(thin, dataclasses.replace(recipe, training=short))
    erasure.adapter.remove()
    assert len(seen) == 1 and seen[0].scenes[-1] == "fish" and "fish" in seen[0].retain_prompts[-1]
    assert "pixel art" not in seen[0].retain_prompts[-1] and "fish" not in contexts[0].other_styles
    assert erasure.checked.seen == ("a pixel art drawing of a fish",)
    assert erasure.cost.passes <= erasure.recipe.passes


# ---- files ----


def test_a_joined_file_claims_no_check(thin, tmp_path):
    paths = []
    for concept in ("castle", "cat"):
        erasure = erase(thin, ErasureSpec(concept, method="uce", check=True))
        paths.append(erasure.save(tmp_path / f"{concept}.safetensors", thin))
        erasure.adapter.remove()
        assert CHECK_KEY in read_lora(paths[-1]).metadata
    assert CHECK_KEY not in merge_loras(paths, tmp_path / "both.safetensors").metadata


def test_without_a_check_all_steps_are_taken_and_nothing_is_claimed(demo, tmp_path):
    erasure = erase(demo, dataclasses.replace(SPEC, check=False, steps=3, rank=4))
    path = erasure.save(tmp_path / "x.safetensors", demo)
    erasure.adapter.remove()
    assert erasure.checked is None and len(erasure.losses) == 3
    assert CHECK_KEY not in read_lora(path).metadata and read_lora(path).check() is None


def test_a_closed_form_can_be_checked_too(demo):
    erasure = erase(demo, ErasureSpec("dog", method="rece", check=True))
    erasure.adapter.remove()
    assert erasure.checked.left.keys() == {"dog"} and erasure.checked.strength != 1.0
    assert 0 < erasure.cost.passes == erasure.checked.passes <= erasure.recipe.passes


def test_a_record_of_a_check_survives_json_and_a_damaged_one_is_an_error():
    checked = Checked({"dog": -0.1, "puppy": 0.2}, 1.1, ("puppy",), 40, {"a mosaic of a dog": 0.1})
    assert Checked.from_json(json.loads(json.dumps(checked.to_json()))) == checked
    earlier = checked.to_json()
    del earlier["scenes"]  # files of 0.1.0 have none
    assert Checked.from_json(earlier) == dataclasses.replace(checked, scenes={})
    for damaged in (None, [], {"left": 1}, checked.to_json() | {"left": {"dog": "x"}}):
        with pytest.raises(SageError, match="recorded check cannot be read"):
            Checked.from_json(damaged)


# ---- what it becomes ----


def test_the_prompt_of_the_replacement_takes_the_place_of_the_empty_one(demo):
    context = context_of(demo, dataclasses.replace(SPEC, becomes="cat"))
    assert context.aim(None) == "cat" and context.neutral(None) == "" and "cat" in context.retained
    assert context.aim("watercolor", "dog") == "a watercolor drawing of a cat"
    context.adapter.remove()
    context = context_of(demo, SPEC)
    assert context.aim(None) == ""
    context.adapter.remove()


def test_the_automatic_replacement_is_the_nearest_word_of_the_list_that_stays():
    recipe = dataclasses.replace(SPEC, becomes="automatic").recipe()
    assert recipe.replacement in ("wolf", "car") and recipe.kept == ()
    assert dataclasses.replace(SPEC, becomes="automatic", domain=None).recipe().replacement == ""


def test_a_replacement_is_aimed_at_and_not_pushed_past():
    recipe = dataclasses.replace(SPEC, becomes="cat").recipe()
    assert recipe.eta == recipe.method.target.own_eta() == 0.3 < SPEC.recipe().eta
    assert dataclasses.replace(SPEC, becomes="cat", eta=1.0).recipe().eta == 1.0
    assert bound_of(Writer(names=["dog"], retained=[], becomes="cat")) == REPLACED


def test_what_is_erased_cannot_be_what_it_becomes():
    with pytest.raises(SageError, match="to be erased and to be what it becomes"):
        ErasureSpec("dog", ("puppy",), becomes="puppy")
    with pytest.raises(SageError, match="replacement"):
        ErasureSpec("dog", becomes="<lora:x:1>")


def test_a_replacement_is_not_taken_for_a_name_of_the_concept(demo):
    spec = ErasureSpec("dog", becomes="puppy")
    context = context_of(demo, spec)
    recipe = searched(demo, spec.recipe(demo.knowledge.styles), context.adapter, lambda event: None)
    assert recipe.domain.means and "puppy" not in recipe.names
    context.adapter.remove()
