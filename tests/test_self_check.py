"""The search: inside-out, on template words only, and it finds what it is for."""

import random

import pytest
import tiny
import torch

from sage_core import ErasureSpec, load_model
from sage_core.cycle.run import build_context
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.domains.self_check import SelfCheck
from sage_core.methods.retentions.relations import Relations, relation_loss
from sage_core.prompts.compose import compose, likeness, meaning


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    model = load_model(tiny.folder(tiny.make("sd1"), tmp_path_factory.mktemp("thin") / "m"))
    adapter = Adapter.create(surface_layers(model, "text"), 4, 4.0, torch.Generator().manual_seed(0))
    with torch.no_grad():  # an encoder that has been changed already
        for up in adapter.up.values():
            up.copy_(0.2 * torch.randn(up.shape, generator=torch.Generator().manual_seed(1)))
    return build_context(model, ErasureSpec("red castle").recipe(), adapter)


def test_template_and_concept_tokens_are_told_apart(context):
    text = context.model.text
    prompts = compose(text, "red castle", ["a photo of a {}", "{} at night"])
    for row, template in enumerate(["a photo of a red castle", "red castle at night"]):
        ids = prompts.tokens.ids[0][row].tolist()
        assert ids[: len(text.words(template)) + 2] == [text.bos, *text.words(template), text.eos]
        concept = [ids[i] for i in prompts.read[row].tolist()]
        assert concept == [*text.words("red castle"), text.eos]
    assert prompts.template[0].nonzero().flatten().tolist() == [1, 2, 3, 4]
    assert prompts.template[1].nonzero().flatten().tolist() == [3, 4]


def test_search_moves_template_words_and_nothing_else(context):
    search = SelfCheck(steps=3).start(context)
    for attack in search.search(random.Random(0), torch.Generator().manual_seed(0), [None]):
        length = attack.embeddings[0].shape[1]
        moved = (
            attack.embeddings[0] - context.model.text.embed(attack.prompts.tokens)[0][:, :length]
        ).abs().sum(-1) > 0
        assert length == int(attack.prompts.tokens.end) + 1
        assert (
            torch.equal(moved, attack.prompts.template[:, :length])
            and not attack.prompts.template[:, length:].any()
        )


def test_search_climbs_its_objective_and_a_random_walk_does_not(context):
    def climb(config):
        search, gains = config.start(context), []
        for seed in range(4):
            attack = search.search(random.Random(seed), torch.Generator().manual_seed(seed), [None])[0]
            with torch.no_grad():
                after, _ = search.objective(attack.prompts, attack.embeddings, "red castle")
                before, _ = search.objective(
                    attack.prompts, context.model.text.embed(attack.prompts.tokens.trimmed()), "red castle"
                )
            gains.append((after - before).item())
        return sum(gains) / len(gains)

    assert climb(SelfCheck(steps=6, stride=0.2)) > 0.01
    assert climb(SelfCheck(steps=6, stride=0.2)) > climb(SelfCheck(steps=6, stride=0.2, random=True)) + 0.01


def test_search_calls_no_unet(context):
    before = context.model.cost.forwards
    SelfCheck().start(context)(random.Random(0), torch.Generator().manual_seed(0), [None] * 3)
    assert context.model.cost.forwards == before


def test_pool_keeps_the_strongest_and_gives_as_many_as_asked(context):
    search = SelfCheck(steps=1, attacks=2, pool=3).start(context)
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for _ in range(4):
        assert len(search(rng, generator, [None] * 5)) == 5
    leaks = [a.leak for a in search.pool]
    assert len(leaks) == 3 and leaks == sorted(leaks, reverse=True)


def test_meaning_does_not_depend_on_where_the_words_stand_too_much(context):
    """The bare concept is at likeness 1 with itself; another word's prompt is less like it."""
    text = context.model.text
    own = context.meaning_of("red castle")
    assert likeness(own, own).item() == pytest.approx(1.0, abs=1e-5)
    prompts = compose(text, "old bicycle", ["{}"])
    with torch.no_grad(), context.adapter.off():
        other = meaning(text.encode(prompts.tokens).hidden, prompts.read, context.empty_end)
    assert likeness(own, other).item() < 0.99


def test_relations_are_zero_when_nothing_changed_and_grow_with_change(context):
    term = Relations(batch=12).start(context)
    with context.adapter.off():
        assert term(random.Random(0), None).item() == pytest.approx(0.0, abs=1e-6)
    assert term(random.Random(0), None).item() > 1e-5


def test_relation_loss_is_the_equation():
    torch.manual_seed(0)
    frozen, trained = torch.randn(5, 8), torch.randn(5, 8)
    scale = 0.3 * frozen.square().sum(-1).mean()
    p, q = (frozen @ frozen.T / scale).softmax(-1), (trained @ frozen.T / scale).softmax(-1)
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(relation_loss(trained, frozen, 0.3), expected)
