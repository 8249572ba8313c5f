"""The spec: what goes in comes out, and nothing wrong goes in."""

import json

import pytest

from sage_core import ErasureSpec, SageError


def test_json_round_trip_and_fingerprint():
    spec = ErasureSpec("dog", ("puppy",), ("cat", "wolf"), seed=7, surface="both", eta=0.5)
    again = ErasureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec and again.recipe().fingerprint() == spec.recipe().fingerprint()


def test_defaults_written_out_are_the_same_erasure():
    spec = ErasureSpec("dog")
    whole = ErasureSpec.from_json(spec.recipe().to_json())
    assert whole != spec and whole.recipe() == spec.recipe()
    assert whole.recipe().fingerprint() == spec.recipe().fingerprint()
    assert all(
        getattr(spec.recipe(), name) is not None
        for name in ("surface", "steps", "rank", "alpha", "learning_rate", "eta")
    )


def test_a_kind_is_kept_guessed_where_it_is_not_given_and_part_of_the_erasure():
    assert ErasureSpec.from_json(ErasureSpec("Hokusai", kind="person").to_json()).kind == "person"
    assert ErasureSpec("Hokusai").recipe().kind == "style"
    assert ErasureSpec("Hokusai", kind="person").recipe().kind == "person"
    thing, style, automatic = (
        ErasureSpec("dog", kind=k).recipe().fingerprint() for k in ("thing", "style", None)
    )
    assert thing == automatic != style
    assert ErasureSpec("dog").taken_as() == "taken as a thing; set kind to change it"
    assert ErasureSpec("dog", kind="thing").taken_as() == ""


def test_a_file_of_an_earlier_version_has_no_kind_and_is_still_the_same_erasure():
    old = ErasureSpec("dog").recipe().to_json()
    del old["kind"]
    again = ErasureSpec.from_json(old)
    assert again.kind is None and again.recipe() == ErasureSpec("dog").recipe()


def test_white_space_does_not_matter():
    assert ErasureSpec("  a  red\tdog ").concept == "a red dog"


@pytest.mark.parametrize(
    "fields",
    [
        {"concept": ""},
        {"concept": "   "},
        {"concept": "x" * 10_000},
        {"concept": 3},
        {"concept": "a\x00b"},
        {"concept": "dog", "synonyms": "puppy"},
        {"concept": "dog", "synonyms": [""]},
        {"concept": "dog", "retain": ["dog"]},
        {"concept": "dog", "method": "magic"},
        {"concept": "dog", "seed": -1},
        {"concept": "dog", "seed": 1.5},
        {"concept": "dog", "seed": True},
        {"concept": "dog", "steps": 0},
        {"concept": "dog", "steps": 10**9},
        {"concept": "dog", "rank": 0},
        {"concept": "dog", "alpha": 0},
        {"concept": "dog", "alpha": float("nan")},
        {"concept": "dog", "learning_rate": float("inf")},
        {"concept": "dog", "eta": -1},
        {"concept": "dog", "surface": "vae"},
        {"concept": "dog", "kind": "animal"},
        {"concept": "dog", "kind": ["thing"]},
        {"concept": "dog", "colour": "red"},
        {},
        [],
        None,
        "dog",
    ],
)
def test_a_bad_spec_is_refused_with_one_sentence(fields):
    with pytest.raises(SageError) as caught:
        ErasureSpec.from_json(fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_lora_for_many_names_gets_more_steps_and_rank_unless_they_are_given():
    few, many = (
        ErasureSpec("dog", ("puppy", "hound")).recipe(),
        ErasureSpec("dog", ("cat", "owl", "car", "tent", "moon")).recipe(),
    )
    assert (many.steps, many.rank, many.alpha) == (2 * few.steps, 2 * few.rank, 2 * few.alpha)
    assert (
        ErasureSpec("dog", many.synonyms, steps=5, rank=3).recipe().to_json()
        | {
            "steps": 5,
            "rank": 3,
            "alpha": 3.0,
        }
        == ErasureSpec("dog", many.synonyms, steps=5, rank=3).recipe().to_json()
    )
    assert (
        ErasureSpec("dog", many.synonyms, method="rece").recipe().steps
        == ErasureSpec("dog", method="rece").recipe().steps
    )  # rounds, not steps
    assert (
        ErasureSpec("dog", many.synonyms, method="esd", faithful=True).recipe().steps
        == ErasureSpec("dog", method="esd", faithful=True).recipe().steps
    )
