"""The bundled model: small, quick, really trained, and honest about what it knows."""

import json
from pathlib import Path

import pytest
import torch

from sage_core.demo import DEMO
from sage_core.demo.vocabulary import BUNDLED, canonical


def test_vocabulary_is_large_and_unambiguous():
    all_words = [w for c in BUNDLED.concepts for w in (c.name, *c.synonyms)]
    assert len(BUNDLED.concepts) >= 100 and len(BUNDLED.styles) >= 4
    assert len(all_words) == len(set(all_words)) and all(len(c.synonyms) >= 3 for c in BUNDLED.concepts)


def test_what_an_eraser_is_given_and_what_judges_it_are_disjoint():
    given = {c.name for c in BUNDLED.retained()}
    for concept in BUNDLED.concepts:
        judges = {c.name for c in (*BUNDLED.near(concept), *BUNDLED.far(concept))}
        assert not judges & given and concept.name not in judges
        assert not {c.name for c in BUNDLED.near(concept)} & {c.name for c in BUNDLED.far(concept)}


def test_it_is_small():
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) <= 30e6


def test_it_has_stable_diffusions_layout_and_loads_in_diffusers_as_it_is(demo):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(DEMO, local_files_only=True, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    assert (
        pipe.scheduler.config.prediction_type == "epsilon"
        and pipe.scheduler.config.beta_schedule == "scaled_linear"
    )
    prompt = "a cartoon drawing of a pizza"
    with torch.no_grad():
        torch.testing.assert_close(
            pipe.encode_prompt(prompt, "cpu", 1, False)[0], demo.encode([prompt]).hidden, atol=1e-5, rtol=1e-4
        )
    pipe.scheduler = demo.scheduler(8)
    latents = pipe(
        prompt, latents=demo.noise([1]), num_inference_steps=8, guidance_scale=5.0, output_type="latent"
    ).images
    torch.testing.assert_close(latents, demo.sample(demo.encode([prompt]), [1], 8, 5.0), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_probe_sees_what_is_asked_for(demo):
    """A sample of the card's measurement, on seeds of its own: names in all styles, and synonyms."""
    from sage_core.evaluate.measure import load_judge

    judge, chosen = load_judge(demo), BUNDLED.concepts[::12]
    pairs = [(c, s) for c in chosen for s in BUNDLED.styles if (c.name, s) not in BUNDLED.held_out]
    images = demo.generate([canonical(s, c.name) for c, s in pairs], list(range(9000, 9000 + len(pairs))))
    right = [seen.concept == c.name for seen, (c, _) in zip(judge.look(images), pairs)]
    assert sum(right) / len(right) >= 0.90
    words = [(c, c.synonyms[i % len(c.synonyms)], BUNDLED.styles[i % 4]) for i, c in enumerate(chosen)]
    images = demo.generate([canonical(s, w) for _, w, s in words], list(range(9500, 9500 + len(words))))
    right = [seen.concept == c.name for seen, (c, _, _) in zip(judge.look(images), words)]
    assert sum(right) / len(right) >= 0.85


def test_card_and_attribution_are_there():
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    assert "recognised" in card and "synonym" in card
    text = (Path(__file__).parent.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(name in text for name in ("Noto", "Fluent", "Twemoji", "CC BY 4.0", "Apache-2.0", "MIT"))


def test_tokenizer_files_are_consistent():
    vocab = json.loads((DEMO / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(vocab.values()) == list(range(len(vocab)))
