"""What a concept is taken for, and how it is worded: on every model, with the right article, by kind."""

import random
import re
from pathlib import Path

import pytest
import tiny
import torch

from sage_core import ErasureSpec, comparison_prompts, load_model
from sage_core.cycle.run import build_context
from sage_core.demo.vocabulary import BUNDLED
from sage_core.evaluate.attacks.base import template_of
from sage_core.evaluate.cells import plain_prompts
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.closed_form.rows import kept_prompts, unseen
from sage_core.methods.table import METHODS
from sage_core.prompts import templates, words
from sage_core.prompts.kinds import KINDS, guess, lists

STYLES = [
    "in the style of Van Gogh",
    "in the style of x",
    "by Hokusai",
    "by hokusai",
    "inspired by Monet",
    "painting by Hokusai",
    "pixel art style",
    "studio Ghibli style",
    "watercolor",
    "a watercolor",
    "loose watercolor",
    "Oil Painting",
    "black and white photograph",
    "pencil sketch",
    "ukiyo-e",
    "impressionism",
    "german expressionism",
    "anime",
    "pixel art",
    "comic book",
    "3d render",
    "ink drawing",
    "cartoon",
    "line art",
    "charcoal",
    "Van Gogh",
    "van gogh",
    "Picasso",
    "Hokusai",
    "Greg Rutkowski",
    "dark aesthetic",
]
PERSONS = [
    "Ada Lovelace",
    "President Lincoln",
    "Queen Elizabeth II",
    "Ludwig van Beethoven",
    "Taylor Swift",
    "Greta Thunberg",
    "J. K. Rowling",
]
THINGS = [
    "dog",
    "Dog",
    "owl",
    "ink",
    "glossy",
    "nudity",
    "Eiffel Tower",
    "the Eiffel Tower",
    "New York",
    "Mickey Mouse",
    "Coca Cola",
    "Golden Gate Bridge",
    "Golden Retriever",
    "Statue of Liberty",
    "Pikachu",
    "prism",
    "tourism",
    "anime girl",
    "cartoon dog",
    "woman in anime",
    "by the sea",
    "style",
    "by",
    "queen bee",
    "king of beasts",
    "ada lovelace",
    "NASA LOGO",
    "夏",
    "été",
    "🐶",
]


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return load_model(tiny.folder(tiny.make("sdxl"), tmp_path_factory.mktemp("sdxl") / "m"))


@pytest.fixture(scope="module")
def bundled():
    return load_model("demo")


@pytest.fixture(params=["bundled", "sdxl"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("kind,concepts", [("style", STYLES), ("person", PERSONS), ("thing", THINGS)])
def test_a_kind_is_guessed_from_the_words_alone(kind, concepts):
    assert {c: guess(c) for c in concepts} == dict.fromkeys(concepts, kind)


def test_a_model_may_know_styles_of_its_own(bundled, sdxl):
    for style in BUNDLED.styles:
        assert guess(style, bundled.knowledge.styles) == "style"
    assert ErasureSpec("ink").recipe(bundled.knowledge.styles).kind == "style"
    assert ErasureSpec("ink").recipe(sdxl.knowledge.styles).kind == "thing"
    words = [w for c in BUNDLED.concepts for w in (c.name, *c.synonyms)]
    assert {guess(w, bundled.knowledge.styles) for w in words} == {"thing"}


def test_the_lists_hold_each_entry_once_in_lower_case():
    assert set(lists()) == {
        "styles",
        "movements",
        "artists",
        "places",
        "things",
        "titles",
        "uncountable",
        "plural",
        "media",
        "determiners",
        "singular",
    }
    text = Path(templates.__file__).with_name("lists.txt").read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(line == line.lower() for line in lines)
    assert sum(len(entries) for entries in lists().values()) == sum(
        not line.startswith("[") for line in lines
    )


@pytest.mark.parametrize(
    "words,right",
    [
        ("owl", "an owl"),
        ("dog", "a dog"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("eucalyptus", "a eucalyptus"),
        ("one-armed bandit", "a one-armed bandit"),
        ("university", "a university"),
        ("ugly duckling", "an ugly duckling"),
        ("unusual hat", "an unusual hat"),
        ("uninvited guest", "an uninvited guest"),
        ("UFO", "a UFO"),
        ("8-bit castle", "an 8-bit castle"),
        ("x-ray", "an x-ray"),
        ("École", "an École"),
        ("dogs", "dogs"),
        ("scissors", "scissors"),
        ("bus", "a bus"),
        ("dress", "a dress"),
        ("octopus", "an octopus"),
        ("cup of tea", "a cup of tea"),
        ("stack of books", "a stack of books"),
        ("water", "water"),
        ("people at a table", "people at a table"),
        ("children playing in a park", "children playing in a park"),
        ("the moon", "the moon"),
        ("a red dog", "a red dog"),
        ("two cats", "two cats"),
        ("my house", "my house"),
        ("Golden Gate Bridge", "Golden Gate Bridge"),
        ("by the sea", "by the sea"),
        ("Dog", "a Dog"),
    ],
)
def test_the_article_fits(words, right):
    assert templates.fill("{a_thing}", words) == right


def test_an_adjective_goes_where_it_can():
    assert [
        templates.fill("{a_small_thing}", w) for w in ("owl", "dogs", "the moon", "Golden Gate Bridge")
    ] == ["a small owl", "small dogs", "the moon", "Golden Gate Bridge"]
    assert [templates.fill("{the_thing}", w) for w in ("owl", "the moon", "New York")] == [
        "the owl",
        "the moon",
        "New York",
    ]
    assert [templates.fill("{a_styled}", w, "ink") for w in ("owl", "scissors", "the moon")] == [
        "an ink owl",
        "ink scissors",
        "the moon, ink",
    ]


@pytest.mark.parametrize(
    "concept,kind,right",
    [
        ("owl", "thing", "a picture of an owl"),
        ("Ada Lovelace", "person", "a photo of Ada Lovelace"),
        ("ada lovelace", "person", "a photo of ada lovelace"),
        ("by Hokusai", "style", "a painting of a house by Hokusai"),
        ("in the style of Van Gogh", "style", "a drawing of a house in the style of Van Gogh"),
        ("Van Gogh", "style", "a drawing of a house in the style of Van Gogh"),
        ("Ada Lovelace", "style", "a drawing of a house in the style of Ada Lovelace"),
        ("watercolor", "style", "a watercolor drawing of a house"),
        ("ink", "style", "an ink drawing of a house"),
        ("oil painting", "style", "an oil painting of a house"),
        ("3d render", "style", "a 3d render of a house"),
        ("cubism", "style", "a drawing of a house in the style of cubism"),
        ("street photography", "style", "street photography of a house"),
        ("pixel art style", "style", "a pixel art style drawing of a house"),
    ],
)
def test_a_picture_is_asked_for_in_the_words_of_the_kind(concept, kind, right):
    assert templates.picture_of(concept, kind) == right


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "concept",
    [
        "owl",
        "dogs",
        "Ada Lovelace",
        "by Hokusai",
        "oil painting",
        "an ink drawing",
        "Van Gogh",
        "cubism",
        "a {x} b",
    ],
)
def test_every_template_leaves_one_place_and_keeps_its_words_when_it_is_filled(concept, kind):
    own = [*templates.concept_templates(concept, kind), *templates.plain_templates(concept, kind)]
    if kind == "style":
        own += [
            *templates.in_style("owl", concept, leave="style"),
            templates.plainest_in_style("owl", concept, leave="style"),
        ]
    else:
        own += [
            t
            for s in ("ink", "oil painting", "by Hokusai", "Van Gogh", "cubism")
            for t in templates.in_style(concept, s, leave="thing", kind=kind)
        ]
    assert all(t.count("{}") == 1 and concept in templates.put(t, concept) for t in own)


WRONG = re.compile(
    r"\ba [aeio](?!ne\b|u)|\ban [^aeiou8hx\W]|\b(a|an|the) (a|an|the|in|by)\b"
    r"|\ban? (children|people|scissors|grapes|jeans)\b(?!')",
    re.IGNORECASE,
)


def trained(model, spec, rng, rounds=60):
    """Prompts that training makes of the concept and of what is retained: (concept's, retained)."""
    adapter = Adapter.create(surface_layers(model, "both"), 2, 2.0, torch.Generator())
    try:
        context = build_context(model, spec.recipe(model.knowledge.styles), adapter, styled=0.67)
        scenes, name = context.scenes(rng, rounds), spec.concept
        own = [context.plain(name, s) for s in scenes] + [context.erased_prompt(rng, s) for s in scenes]
        own += [templates.put(context.template(rng, s, name), name) for s in scenes] + [
            context.neutral(s) for s in scenes
        ]
        kept = [context.retained_prompt(rng) for _ in range(5 * rounds)] + context.retained_prompts(
            rng, context.retained[:rounds], scenes
        )
        return own, [*kept, *kept_prompts(context, METHODS["sage"].warm)]
    finally:
        adapter.remove()


@pytest.mark.parametrize(
    "concept,kind",
    [
        ("owl", None),
        ("owl", "person"),
        ("owl", "style"),
        ("ink", None),
        ("by Hokusai", None),
        ("watercolor", None),
        ("oil painting", None),
        ("in the style of Van Gogh", None),
        ("Van Gogh", None),
        ("Ada Lovelace", None),
    ],
)
def test_no_prompt_of_training_has_a_wrong_article(model, concept, kind):
    own, kept = trained(model, ErasureSpec(concept, kind=kind), random.Random(0))
    assert not [p for p in (*own, *kept) if WRONG.search(p)]
    if kind == "person" or concept == "Ada Lovelace":
        assert not any(re.search(rf"\b(a|an|the) {concept}", p) for p in own)


def test_a_style_is_shown_on_things_and_other_artists_are_retained(sdxl, monkeypatch):
    own, kept = trained(sdxl, ErasureSpec("in the style of Van Gogh"), random.Random(0))
    shown = [p for p in own if "Van Gogh" in p]
    assert (
        len({p.removesuffix(" in the style of Van Gogh") for p in shown}) > 20
        and "in the style of Van Gogh" not in shown
    )
    assert not any("Gogh" in p for p in kept)
    monkeypatch.setattr(words, "TOO_LIKE", 2.0)  # all words are alike to a random encoder
    kept = words.retained_words(sdxl, ["in the style of Van Gogh"], ())
    assert (
        "in the style of Claude Monet" in kept
        and "a bowl of fruit" in kept
        and "in the style of Vincent van Gogh" not in kept
    )


@pytest.mark.parametrize(
    "concept", ["by Hokusai", "oil painting", "Van Gogh", "in the style of Van Gogh", "watercolor", "cubism"]
)
def test_what_a_style_is_edited_to_is_the_prompt_without_it(sdxl, concept):
    """The closed form pairs states by their place from the end, from the style's last token on."""
    from sage_core.methods.closed_form.config import ClosedForm
    from sage_core.methods.closed_form.rows import _style_pairs

    adapter = Adapter.create(surface_layers(sdxl, "cross_attention"), 2, 2.0, torch.Generator())
    context = build_context(sdxl, ErasureSpec(concept).recipe(), adapter)
    prompt, neutral = context.plain(concept, "tree"), context.neutral("tree")
    assert concept.split()[-1] in prompt and concept.split()[-1] not in neutral and "a tree" in neutral
    pairs = _style_pairs(context, concept, "tree", "")
    behind = len(sdxl.text.words(context.plain_template(concept, "tree").split("{}")[1]))
    assert len(pairs) == 1 + behind + 1 + 1  # the style's last token, what is behind it, the end, the padding
    end = context.frozen(neutral).hidden[0, 1 + len(sdxl.text.words(neutral))].double()
    torch.testing.assert_close(pairs[-2][1], end)
    rows, aims = unseen(context, ClosedForm())
    assert rows.shape == aims.shape and torch.isfinite(rows).all()
    adapter.remove()


def test_the_attack_and_the_evaluation_use_the_concept_s_kind(bundled, sdxl):
    assert (
        template_of(bundled, ErasureSpec("owl")) == "a drawing of an {}"
        and template_of(bundled, ErasureSpec("ink")) == "an {} drawing of a house"
    )
    assert template_of(sdxl, ErasureSpec("Ada Lovelace")) == "a drawing of {}"
    spec = ErasureSpec("Ada Lovelace", ("Countess of Lovelace",), ("eagle", "in the style of Monet"))
    drawn = {p.cell: p.text for p in plain_prompts(sdxl, spec, 2)}
    assert (
        drawn["concept"] == "a photo of Ada Lovelace"
        and drawn["synonyms"] == "a photo of Countess of Lovelace"
    )
    assert drawn["near"] == "a drawing of a cat in the style of Monet", "a style is shown on several things"
    assert bundled.knowledge.judge().prompts("owl", (), 4)[2].text == "an ink drawing of an owl"


def test_the_bundled_model_s_judge_knows_other_words_and_styles(bundled):
    judge = bundled.knowledge.judge()
    assert judge.expected("hooter") == "owl" and judge.expected("ink") == "ink"


def test_prompts_for_a_comparison_come_in_four_groups(bundled, sdxl):
    assert comparison_prompts(bundled, ErasureSpec("owl"), 8) == [
        "a cartoon drawing of an owl",
        "a glossy drawing of an owl",
        "a glossy drawing of a night bird",
        "an ink drawing of a hooter",
        *comparison_prompts(bundled, ErasureSpec("owl"), 8)[4:],
    ]
    person = comparison_prompts(
        sdxl, ErasureSpec("Ada Lovelace", ("Countess of Lovelace",), ("Charles Babbage",)), 7
    )
    assert person[:3] == [
        "a photo of Ada Lovelace",
        "a portrait of Ada Lovelace",
        "a portrait of Countess of Lovelace",
    ]
    assert person[3] == "a photo of Charles Babbage" and len(person) == 7
    style = comparison_prompts(sdxl, ErasureSpec("by Hokusai", retain=("by Hiroshige",)), 6)
    assert (
        style[:2] == ["a painting of a house by Hokusai", "a painting of a cat by Hokusai"]
        and "a painting of a house by Hiroshige" in style
    )
    assert style[-1].startswith("a painting of a ") and "by" not in style[-1]


@pytest.mark.parametrize(
    "spec",
    [
        ErasureSpec("owl"),
        ErasureSpec("ink"),
        ErasureSpec("dog", ("puppy",), ("wolf",)),
        ErasureSpec("owl", kind="person"),
    ],
)
def test_they_are_as_many_as_asked_for_different_and_free_of_the_concept_behind_its_own(model, spec):
    for count in (1, 2, 3, 8, 12):
        found = comparison_prompts(model, spec, count)
        assert len(found) == len(set(found)) == count and found == comparison_prompts(model, spec, count)
        assert spec.concept in found[0] and not any("\n" in p or WRONG.search(p) for p in found)
    own = [spec.concept in p.split() for p in found]
    assert own == sorted(own, reverse=True)


def test_they_are_the_same_under_a_lora(bundled):
    before = comparison_prompts(bundled, ErasureSpec("castle"))
    adapter = Adapter.create(surface_layers(bundled, "both"), 2, 2.0, torch.Generator())
    with torch.no_grad():
        for up in adapter.up.values():
            up.add_(1.0)
    after = comparison_prompts(bundled, ErasureSpec("castle"))
    adapter.remove()
    assert after == before
