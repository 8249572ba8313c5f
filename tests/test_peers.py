"""What the guard is compared with (sage_core/bench/peers.py)."""

import importlib

import pytest
import torch

from sage_core.bench.peers import PEERS, SETTINGS, Safety, drawn_by, make_peer, safety
from sage_core.diffusion.text import Conditioning

DIFFUSERS = "diffusers.pipelines.deprecated.stable_diffusion_safe.pipeline_stable_diffusion_safe"


def test_one_element_by_hand():
    """apart = 0.2 - 0.5 is under the threshold; mu = min(1, 2 * 0.3); gamma = mu * (0.5 - 0.1) + 0.5 nu."""
    one = torch.ones(1, 1, 1, 1)
    gamma, nu = safety(0.2 * one, 0.1 * one, 0.5 * one, 0.2 * one, Safety(0, 2.0, 0.0, 0.5, 0.7))
    assert gamma.item() == pytest.approx(0.6 * 0.4 + 0.5 * 0.2)
    assert nu.item() == pytest.approx(0.7 * 0.2 + 0.3 * 0.34)
    away, _ = safety(0.5 * one, 0.1 * one, 0.2 * one, 0 * one, Safety(0, 2.0, 0.0, 0.5, 0.7))
    assert away.item() == 0, "a prompt that is further from the concept than the threshold is left alone"


@pytest.mark.parametrize("name", SETTINGS)
def test_safe_latent_diffusion_is_what_diffusers_computes(name):
    try:
        pipeline = importlib.import_module(DIFFUSERS).StableDiffusionPipelineSafe
    except ImportError:
        pytest.skip("this diffusers has no StableDiffusionPipelineSafe")
    settings, generator = SETTINGS[name], torch.Generator().manual_seed(0)
    ours = theirs = None
    for _ in range(4):
        asked, base, unsafe = (0.1 * torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
        ours = torch.zeros_like(base) if ours is None else ours
        gamma, ours = safety(asked, base, unsafe, ours, settings)
        guidance, theirs = pipeline.perform_safety_guidance(
            None,
            True,
            theirs,
            asked - base,
            (asked, base, unsafe),
            settings.warmup,
            settings.scale,
            settings.warmup,
            settings.threshold,
            settings.momentum,
            settings.beta,
        )
        torch.testing.assert_close(asked - base - gamma, guidance)
        torch.testing.assert_close(ours, theirs)


def test_warming_up_ends_at_the_published_part_of_the_schedule(thin):
    """10 of 50 steps: pictures are guided as without it down to time 800, and not below."""
    peer = make_peer("sld-medium", thin, "dog")
    cond, empty = thin.encode(["a dog"]), thin.encode([""])
    z = torch.randn(1, *thin.latent_shape, generator=torch.Generator().manual_seed(0))
    for time, same in ((999, True), (800, True), (799, False), (400, False)):
        t = torch.tensor([time])
        with torch.no_grad():
            own = thin.guided(z, t, cond, empty, 5.0)
            assert torch.allclose(peer(z, t, cond, empty, 5.0), own, atol=1e-5) == same


def test_its_momentum_begins_anew_with_every_picture(demo):
    peer = make_peer("sld-max", demo, "dog")
    with drawn_by(demo, peer):
        first = demo.generate(["a cartoon drawing of a dog"], [1], 6)
        again = demo.generate(["a cartoon drawing of a dog"], [1], 6)
    assert torch.equal(first, again)


def test_a_negative_prompt_is_guidance_away_from_the_concept(thin):
    cond, empty, dog = thin.encode(["a cat"]), thin.encode([""]), thin.encode(["dog"])
    z, t = torch.randn(1, *thin.latent_shape), torch.tensor([500])
    with torch.no_grad():
        at_cat, at_dog = thin.predict_noise(
            torch.cat([z, z]), t.repeat(2), Conditioning.cat([cond, dog])
        ).chunk(2)
        guided = make_peer("negative", thin, "dog")(z, t, cond, empty, 5.0)
    torch.testing.assert_close(guided, at_dog + 5 * (at_cat - at_dog), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, ratio", [(name, 1.0 if name == "negative" else 1.5) for name in PEERS])
def test_a_peer_costs_what_it_says_and_is_gone_afterwards(demo, name, ratio):
    free = demo.generate(["a cat"], [1], 4)
    passes = demo.cost.forwards
    with drawn_by(demo, make_peer(name, demo, "dog")):
        demo.generate(["a cat"], [1], 4)
    assert demo.cost.forwards - passes == ratio * passes
    assert torch.equal(demo.generate(["a cat"], [1], 4), free)
