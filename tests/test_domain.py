"""The domain: which words mean a concept in a model, found in the model itself."""

import json

import pytest

from sage_core import ErasureSpec, erase
from sage_core.cli.main import main
from sage_core.domain.candidates import shortlist, tokenizer_words
from sage_core.domain.found import CLEAR, Domain, Word
from sage_core.domain.search import PASSES, boundary, search
from sage_core.errors import SageError
from sage_core.lora.file import read_lora
from sage_core.progress import Event


def texts(words: tuple[Word, ...]) -> set[str]:
    return {word.text for word in words}


@pytest.mark.parametrize(
    ("pulls", "taken", "clear"),
    [
        ([0.99, 0.98, 0.97, 0.5, 0.4], 3, True),
        ([0.5, 0.4, 0.3], 0, True),  # no other word means it
        ([0.99, 0.75, 0.29], 1, False),  # "music" is not a guitar, although the larger step lies below it
        ([0.97, 0.86, 0.37, 0.3], 2, True),
        ([0.85, 0.7, 0.55, 0.4, 0.25], 0, False),  # no gap anywhere
    ],
)
def test_the_boundary_is_found_where_the_words_part(pulls, taken, clear):
    threshold, clearness = boundary(pulls, noise=0.1)
    assert sum(pull > threshold for pull in pulls) == taken
    assert (clearness >= CLEAR) == clear


def test_nothing_is_known_without_a_word():
    assert boundary([], noise=0.1) == (1.0, 0.0)


def test_whole_words_come_from_the_tokenizer(demo):
    words = tokenizer_words(demo.text.tokenizer)
    assert all(demo.text.words(word) == [number] for word, number in words.items() if word == "puppy")
    assert {"puppy", "feline", "fender"} <= set(words)
    assert all(word.isalpha() and len(word) >= 3 for word in words)


def test_every_synonym_is_on_the_shortlist(demo):
    assert {"kitten", "feline", "kitty"} <= set(shortlist(demo, ["cat"], 12))
    assert "sedan" in shortlist(demo, ["car"], 12)


@pytest.mark.parametrize(
    ("concept", "synonyms"),
    [("cat", {"kitten", "feline", "kitty"}), ("lion", {"simba"}), ("hamburger", {"burger", "cheeseburger"})],
)
def test_the_search_takes_synonyms_and_nothing_else(demo, concept, synonyms):
    before = demo.cost.passes
    domain = search(demo, [concept], "thing")
    assert synonyms <= texts(domain.means)
    assert not texts(domain.means) & {"dog", "wolf", "tiger", "pizza", "cheese", "bengal"}
    assert domain.passes == demo.cost.passes - before <= PASSES <= 150
    assert all(w.pull <= domain.threshold for w in (*domain.between, *domain.close))


def test_words_can_be_struck_from_both_lists(demo):
    domain = search(demo, ["cat"], "thing", exclude=("kitten", "tiger"), retain=("kitty",))
    listed = texts((*domain.means, *domain.between, *domain.close))
    assert domain.clear and "feline" in listed and not {"kitten", "tiger", "kitty"} & listed


def test_a_style_is_searched_on_things(demo):
    domain = search(demo, ["pixel art"], "style")
    assert not texts(domain.means) & {"ink", "cartoon", "glossy"}


def test_the_domain_survives_a_round_trip():
    domain = Domain((Word("hound", 0.99),), (Word("head", 0.6),), (Word("wolf", 0.3),), 0.7, 0.9, 98)
    assert Domain.from_json(json.loads(json.dumps(domain.to_json()))) == domain
    spec = ErasureSpec("dog", domain=domain, exclude=("puppy",), search=True)
    assert ErasureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("damaged", [[], {}, {"means": [["dog"]]}, {"means": 3, "between": [], "close": []}])
def test_a_damaged_record_is_one_sentence(damaged):
    with pytest.raises(SageError, match="searched anew"):
        ErasureSpec("dog", domain=damaged)


def test_what_was_found_is_erased_recorded_and_not_searched_again(demo, tmp_path):
    events: list[Event] = []
    first = erase(demo, ErasureSpec("dog", method="sage", steps=2), events.append)
    first.save(tmp_path / "dog.safetensors", demo)
    first.adapter.remove()
    spoken = next(e for e in events if e.domain is not None)
    assert spoken.concept == "dog" and "puppy" in texts(spoken.domain.means)

    spec = ErasureSpec.from_json(read_lora(tmp_path / "dog.safetensors").spec())
    assert spec.domain == first.recipe.domain
    again = erase(demo, spec)
    again.adapter.remove()
    assert again.recipe.names == first.recipe.names and {"dog", "puppy"} <= set(first.recipe.names)
    assert again.cost.passes == first.cost.passes - spec.domain.passes
    tensors = zip(first.adapter.tensors().values(), again.adapter.tensors().values())
    assert all(bool((a == b).all()) for a, b in tensors)
    assert again.recipe.fingerprint() == ErasureSpec("dog", method="sage", steps=2).recipe().fingerprint()


def test_the_search_can_be_left_out_and_papers_have_none(demo):
    assert ErasureSpec("dog", method="sage").recipe().search
    assert not ErasureSpec("dog", method="sage", search=False).recipe().search
    assert not ErasureSpec("dog", method="esd").recipe().search
    assert ErasureSpec("dog", method="esd", search=True).recipe().search


def test_a_resumed_run_does_not_search_again(demo, tmp_path):
    class Stop(Exception):
        pass

    def stop(event: Event) -> None:
        if event.phase == "erase" and event.step == 2:
            raise Stop

    state = tmp_path / "dog.resume"
    with pytest.raises(Stop):
        erase(demo, ErasureSpec("dog", method="sage", steps=4), stop, state, save_every=0)
    events: list[Event] = []
    resumed = erase(demo, ErasureSpec("dog", method="sage", steps=4), events.append, state, resume=True)
    resumed.adapter.remove()
    assert "domain" not in {e.phase for e in events} and "puppy" in resumed.recipe.names
    whole = erase(demo, ErasureSpec("dog", method="sage", steps=4))
    whole.adapter.remove()
    assert resumed.cost.passes == whole.cost.passes


def test_the_command_lists_both_and_trains_nothing(capsys):
    assert main(["domain", "demo", "--concept", "dog", "--exclude", "hound", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"puppy", "canine", "pooch"} <= {text for text, _ in result["means"]} and result["clear"]
    assert "hound" not in json.dumps(result) and result["passes"] <= 150


def test_the_command_says_the_lists_in_sentences(capsys):
    assert main(["domain", "demo", "--concept", "dog"]) == 0
    printed = capsys.readouterr().out
    assert "also means 'dog'" in printed and "puppy" in printed and "close to it, and kept" in printed
