"""What training shows: scenes of a concept, their prompts, and the states of the bank."""

import random

import pytest
import torch

from sage_core import ErasureSpec
from sage_core.cycle.bank import build_bank
from sage_core.cycle.latents import FreshTrajectories
from sage_core.cycle.run import Files, Run, build_context
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.table import METHODS


@pytest.fixture
def adapter(thin):
    made = Adapter.create(surface_layers(thin, "text"), 2, 2.0, torch.Generator().manual_seed(0))
    yield made
    made.remove()


def test_fresh_states_carry_the_frozen_predictions(thin, adapter):
    ctx = build_context(thin, ErasureSpec("castle").recipe(), adapter)
    states = FreshTrajectories(ctx, 4, 3.0).concept(random.Random(0), 2)
    with torch.no_grad():
        torch.testing.assert_close(
            thin.predict_noise(states.z, states.t, thin.encode(["castle"] * 2)),
            states.eps_concept,
            atol=1e-4,
            rtol=1e-3,
        )
        torch.testing.assert_close(
            thin.predict_noise(states.z, states.t, thin.encode(["", ""])),
            states.eps_empty,
            atol=1e-4,
            rtol=1e-3,
        )


def test_a_bank_without_retained_trajectories_is_a_bank(thin):
    bank = build_bank(thin, ["castle"], [], [1], 2, 3.0)
    assert len(bank.erase_t) == 2 and len(bank.retain_t) == 0


def test_a_style_s_prompts_keep_what_they_show(thin, adapter):
    ctx = build_context(thin, ErasureSpec("pixel art style").recipe(), adapter)
    things = ctx.scenes(random.Random(0), 3)
    assert len(set(things)) == 3 and ctx.neutral(things[0]) == f"a drawing of a {things[0]}"
    assert ctx.plain("pixel art style", things[0]) == f"a pixel art style drawing of a {things[0]}"
    assert ctx.plain("in the style of Hokusai", "tree") == "a drawing of a tree in the style of Hokusai"
    for method in ("sage", "sage-text", "esd"):
        domain = METHODS[method].domain.start(ctx)
        domain(random.Random(0), torch.Generator().manual_seed(0), things)
        for attack in getattr(domain, "pool", []):
            ids, own = attack.prompts.tokens.ids[0][0], thin.text.words(attack.scene)
            moved = (
                attack.embeddings[0][0]
                - thin.text.embed(attack.prompts.tokens)[0][0, : attack.embeddings[0].shape[1]]
            )
            fixed = [i for i in range(len(moved)) if int(ids[i]) in own]
            assert fixed and not moved[fixed].any() and moved.any()
    bank = build_bank(
        thin,
        [ctx.plain("pixel art style", t) for t in things],
        [],
        [1, 2, 3],
        2,
        3.0,
        scenes=things,
        neutral_prompts=[ctx.neutral(t) for t in things],
    )
    states = bank.concept(random.Random(0), 4)
    with torch.no_grad():
        eps = thin.predict_noise(states.z, states.t, thin.encode([ctx.neutral(t) for t in states.scenes]))
    torch.testing.assert_close(eps, states.eps_empty, atol=1e-4, rtol=1e-3)


def test_a_thing_is_shown_in_styles_and_alone_and_the_same_styles_are_kept(thin, adapter):
    ctx = build_context(thin, ErasureSpec("castle").recipe(), adapter, styled=0.5)
    scenes = ctx.scenes(random.Random(0), 4)
    assert len(set(scenes[:2]) & set(ctx.other_styles)) == 2 and scenes[2:] == [None, None]
    style = scenes[0]
    assert (
        ctx.plain("castle", style) == f"a {style} drawing of a castle"
        and ctx.neutral(style) == f"a {style} drawing"
    )
    for turn in range(20):
        template = ctx.template(random.Random(turn), style, "castle")
        assert template.count("{}") == 1 and style in template and "{thing}" not in template
    words = ctx.retained[:6]
    for turn in range(5):
        kept = ctx.retained_prompts(random.Random(turn), words, scenes)
        assert all(word in prompt for word, prompt in zip(words, kept))
        assert sum(any(s in prompt for s in ctx.other_styles) for prompt in kept) == 3
        assert all(any(s in prompt for prompt in kept) for s in scenes[:2])
    bare = build_context(thin, ErasureSpec("castle").recipe(), adapter)
    assert bare.scenes(random.Random(0), 4) == [None] * 4
    assert not any(
        s in p for p in bare.retained_prompts(random.Random(0), words, [None]) for s in bare.other_styles
    )


def test_every_concept_draws_its_own_scenes(thin):
    """LoRAs that are stacked must not all have been trained on the same prompts, or what they disturb would
    add up.
    """
    drawn = []
    for concept in ("castle", "river", "tree"):
        spec = ErasureSpec(concept, steps=1).recipe()
        adapter = Adapter.create(surface_layers(thin, "text"), 2, 2.0, torch.Generator().manual_seed(0))
        run = Run(thin, spec, adapter, torch.Generator().manual_seed(0), lambda event: None, Files())
        drawn.append([run.rng.random() for _ in range(4)])
        adapter.remove()
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_a_dealt_bank_shows_every_state_before_any_comes_again(thin):
    rng, bank = (
        random.Random(0),
        build_bank(thin, ["castle", "lion"], ["dog"] * 3, [1, 2, 3, 4, 5], 2, 3.0, dealt=True),
    )
    for draw, z in ((bank.concept, bank.erase_z), (bank.retained, bank.retain_z)):
        seen = torch.cat([draw(rng, 1).z for _ in range(2 * len(z))])
        for once in seen.split(len(z)):
            assert len({row.numpy().tobytes() for row in once}) == len(z)
    assert len(bank.concept(rng, 7).t) == 7  # more than there are
    chance = build_bank(thin, ["castle", "lion"], [], [1, 2], 2, 3.0)
    assert (
        len(
            {
                row.numpy().tobytes()
                for row in torch.cat([chance.concept(random.Random(1), 1).z for _ in range(4)])
            }
        )
        < 4
    )
