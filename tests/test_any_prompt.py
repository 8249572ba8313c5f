"""The domain of sage-robust: the concept's states under prompts that do not name it."""

import dataclasses
import random

import pytest
import tiny
import torch

from sage_core import ErasureSpec, erase, load_model
from sage_core.cycle.run import build_context
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate.attacks.base import concept_prompt
from sage_core.evaluate.attacks.embedding import ClosedFormEmbedding
from sage_core.evaluate.attacks.success import attacked, sees_concept
from sage_core.evaluate.measure import load_judge
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.domains.any_prompt import AnyPrompt

ATTACK = ClosedFormEmbedding(ridges=(1e-4,))


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request, tmp_path_factory):
    return load_model(tiny.folder(tiny.make(request.param), tmp_path_factory.mktemp("thin") / "m"))


@pytest.fixture
def asked(monkeypatch):
    """The prompts that are encoded, as text."""
    from sage_core.diffusion.model import DiffusionModel

    texts, encode = [], DiffusionModel.encode
    monkeypatch.setattr(DiffusionModel, "encode", lambda self, own: texts.extend(own) or encode(self, own))
    return texts


def part(model, **config):
    adapter = Adapter.create(surface_layers(model, "both"), 4, 4.0, torch.Generator().manual_seed(0))
    adapter.remove()
    spec = ErasureSpec("red castle", synonyms=("fort",))
    return AnyPrompt(**config).start(build_context(model, spec.recipe(), adapter))


@pytest.mark.parametrize(
    "samples, unasked, first", [(4, 0.5, 2), (2, 0.5, 1), (1, 0.5, 0), (4, 1.0, 3), (4, 0.0, 0)]
)
def test_the_rows_that_name_the_concept_stand_last_and_one_always_does(model, samples, unasked, first):
    assert part(model, unasked=unasked).plain_rows(samples) == slice(first, None)


def test_half_of_the_prompts_do_not_name_it(model, asked):
    domain = part(model, unasked=0.5, random=0.0)
    for turn in range(8):
        asked.clear()
        rows = domain(random.Random(turn), torch.Generator().manual_seed(turn), [None] * 4)
        assert len(rows) == len(asked) == 4
        assert not any("castle" in text or "fort" in text for text in asked[:2])
        assert all("castle" in text or "fort" in text for text in asked[2:])


def test_every_second_other_prompt_is_of_a_word_near_the_concept(model):
    domain = part(model)
    near = domain.context.nearest()
    rng = random.Random(0)
    drawn = [domain.other(rng) for _ in range(40)]
    of_near = sum(any(word in text for word in near) for text in drawn)
    assert 10 <= of_near <= 32


def test_random_embeddings_stand_in_the_names_place_at_the_tables_scale(model, asked):
    domain = part(model, unasked=0.5, random=1.0)
    rows = [domain(random.Random(0), torch.Generator().manual_seed(seed), [None] * 2) for seed in (1, 1, 2)]
    assert len(asked) == 3, "only names are encoded as text"
    assert torch.equal(rows[0].hidden, rows[1].hidden) and not torch.equal(rows[0].hidden, rows[2].hidden)
    assert torch.equal(rows[0].hidden[1], rows[2].hidden[1]), "the name does not depend on the draw"
    assert rows[0].hidden.isfinite().all() and rows[0].hidden[0].abs().max() < 1e3


def test_where_the_encoder_is_not_open_prompts_take_the_embeddings_place():
    own = AnyPrompt()
    assert own.in_plain_prompts() == dataclasses.replace(own, random=0.0)


def test_the_closed_form_attack_brings_nothing_back(demo):
    """Castle, 4 pictures; docs/lab/attacks.md has the figures of more."""
    judge, spec = load_judge(demo), ErasureSpec("castle", method="sage-robust", search=False)
    asked = Prompt("concept", concept_prompt(demo, spec), judge.expected("castle"), 0)
    sees, back = sees_concept(judge, "castle", asked), {}
    back["before"] = attacked(demo, spec, ATTACK, torch.empty(0), sees, 4, 0).success
    erasure = erase(demo, spec)
    try:
        back["after"] = attacked(demo, spec, ATTACK, torch.empty(0), sees, 4, 0).success
    finally:
        erasure.adapter.remove()
    assert back["before"] >= 0.75 and back["after"] <= 0.25
