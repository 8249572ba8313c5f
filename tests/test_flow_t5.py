"""Stable Diffusion 3 with T5, which reads prompts besides CLIP and is never trained."""

from __future__ import annotations

import random
import shutil

import pytest
import tiny_flow
import torch
from safetensors.torch import load_file

from sage_core import ErasureSpec, SageError, erase, load_model
from sage_core.lora.adapter import Adapter
from sage_core.lora.file import load_lora
from sage_core.lora.refit import PROMPT, moments
from sage_core.lora.surfaces import surface_layers
from sage_core.memory.plan import make_plan
from sage_core.memory.rehearsal import skeleton, step_bytes, weights_bytes
from sage_core.methods.closed_form.config import ClosedForm
from sage_core.methods.closed_form.rows import embeddings
from sage_core.methods.context import Context
from sage_core.prompts.compose import compose_vectors, encode_vectors

CLIP = 77  # tokens
CLIP_WIDTH = 64 + 128  # of the states; zeros follow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_flow.with_t5(tmp_path_factory.mktemp("t5") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@torch.no_grad()
def noise_of(model, cond) -> torch.Tensor:
    z = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    return model.predict_noise(z, torch.tensor([600]), cond)


@torch.no_grad()
def test_prompts_are_encoded_as_diffusers_does(folder, model):
    from diffusers import StableDiffusion3Pipeline
    from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel

    classes = {
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "tokenizer_3": AutoTokenizer,
        "text_encoder": CLIPTextModelWithProjection,
        "text_encoder_2": CLIPTextModelWithProjection,
        "text_encoder_3": T5EncoderModel,
    }
    parts = {
        name: kind.from_pretrained(folder / name, local_files_only=True) for name, kind in classes.items()
    }
    pipe = StableDiffusion3Pipeline(transformer=model.unet, vae=model.vae, scheduler=None, **parts)
    for prompt in ("a dog", "A castle, and a dog", ""):
        hidden, _, pooled, _ = pipe.encode_prompt(prompt, prompt, prompt, do_classifier_free_guidance=False)
        own = model.encode([prompt])
        assert own.hidden.shape == (1, CLIP + 256, 256)
        torch.testing.assert_close(own.hidden, hidden, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.pooled, pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_t5_said_once_is_what_it_says_again(model):
    first = model.encode(["a dog", "a castle"])
    again = model.encode(["a castle", "a dog"])
    assert torch.equal(first.hidden, again.hidden.flip(0))
    assert not torch.equal(first.hidden[0, CLIP:], first.hidden[1, CLIP:])


@torch.no_grad()
def test_the_network_reads_t5(model):
    both, silent = model.encode(["a dog"]), model.encode(["a dog"])
    silent.hidden[:, CLIP:] = model.encode([""]).hidden[:, CLIP:]
    assert (noise_of(model, both) - noise_of(model, silent)).abs().max() > 1e-4


@torch.no_grad()
def test_t5_reads_the_name_where_clip_reads_free_embeddings(model):
    prompts = compose_vectors(model.text, 2, "a {}", "dog")
    found = encode_vectors(model.text, prompts, [e[0, 1:3] for e in model.text.embed(prompts.tokens)])
    plain = model.encode(["a dog"])
    assert torch.equal(found.hidden[:, CLIP:], plain.hidden[:, CLIP:])
    assert not torch.equal(found.hidden[:, :CLIP], plain.hidden[:, :CLIP])


@torch.no_grad()
def test_ids_without_their_text_are_read_back_for_t5(model):
    ids = model.text.assemble([model.text.words("a dog")])
    assert torch.equal(model.text.encode(ids).hidden, model.encode(["a dog"]).hidden)


def test_an_erasure_changes_clip_and_the_transformer_and_never_t5(model, tmp_path):
    before = {k: v.clone() for k, v in model.text.t5.encoder.state_dict().items()}
    erasure = erase(model, ErasureSpec("dog", steps=2, search=False))
    path = tmp_path / "dog.safetensors"
    erasure.save(path, model)
    after = noise_of(model, model.encode(["a dog"]))
    erasure.adapter.remove()
    assert all(torch.equal(v, before[k]) for k, v in model.text.t5.encoder.state_dict().items())
    starts = {key.split(".")[0] for key in load_file(path)}
    assert starts == {"transformer", "text_encoder", "text_encoder_2"}
    untouched = noise_of(model, model.encode(["a dog"]))
    adapter = load_lora(model, path)
    torch.testing.assert_close(noise_of(model, model.encode(["a dog"])), after, rtol=1e-4, atol=1e-5)
    adapter.remove()
    assert (after - untouched).abs().max() > 1e-4


def test_the_text_encoders_alone_are_refused(model):
    with pytest.raises(SageError, match="T5"):
        surface_layers(model, "text")
    assert surface_layers(model, "both")


@pytest.mark.parametrize("concept", ["dog", "cartoon"])
def test_the_closed_form_edits_what_t5_says_too(model, concept):
    """Beyond CLIP's width CLIP's states are zeros: what stands there in the equation's rows is T5's."""
    recipe = ErasureSpec(concept, method="uce").recipe()
    adapter = Adapter.create(surface_layers(model, "cross_attention"), 2, 2.0, torch.Generator())
    try:
        context = Context(
            names=[concept], kind=recipe.kind, retained=["castle", "cat"], model=model, adapter=adapter
        )
        edited, wanted, kept = embeddings(context, ClosedForm())
    finally:
        adapter.remove()
    of_t5 = edited[:, CLIP_WIDTH:].abs().sum(1) > 0
    assert 0 < of_t5.sum() < len(edited)
    assert (edited - wanted)[of_t5].abs().sum(1).max() > 1e-3
    assert kept.shape == (256, 256) and kept[CLIP_WIDTH:, CLIP_WIDTH:].abs().max() > 0


def test_the_refit_sees_what_t5_says(model):
    layers = {k: v for k, v in surface_layers(model, "both").items() if k.endswith("context_embedder")}
    found = moments(model, layers, ["a dog", "a castle"])[PROMPT]
    with torch.no_grad():
        states = model.encode(["a dog", "a castle"]).hidden.flatten(0, 1)
    torch.testing.assert_close(found, states.T @ states / len(states), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["uce", "esd"])
def test_other_methods_run(model, method):
    steps = {} if method == "uce" else {"steps": 1}
    erasure = erase(model, ErasureSpec("dog", method=method, **steps))
    try:
        assert noise_of(model, model.encode(["a dog"])).isfinite().all()
    finally:
        erasure.adapter.remove()


def test_memory_is_planned_with_t5(model):
    recipe = ErasureSpec("dog").recipe()
    assert step_bytes(skeleton(model), recipe, False, 8) > 0
    plan = make_plan(model, recipe, None)
    assert plan.weights == weights_bytes([model.unet, *model.text.encoders, model.text.t5.encoder])


def test_it_draws(model):
    assert model.generate(["a dog"], [0], steps=2).shape == (1, 3, 64, 64)


def test_half_precision_keeps_the_sums_that_exceed_it(folder):
    half = load_model(folder, dtype=torch.float16).text.t5.encoder.state_dict()
    kinds = {name: tensor.dtype for name, tensor in half.items()}
    assert kinds["shared.weight"] == torch.float16
    assert {kinds[k] for k in kinds if k.endswith(".wo.weight")} == {torch.float32}


def test_a_damaged_t5_is_refused_in_one_sentence(folder, tmp_path):
    for part, name in (("text_encoder_3", "config.json"), ("tokenizer_3", "tokenizer.json")):
        copied = tmp_path / part
        shutil.copytree(folder, copied)
        (copied / part / name).write_text("{", encoding="utf-8")
        with pytest.raises(SageError):
            load_model(copied)


def test_a_long_prompt_is_cut_for_clip_and_read_further_by_t5(model):
    rng = random.Random(0)
    words = " ".join(rng.choice(["dog", "castle", "cat"]) for _ in range(100))
    tokens = model.text.tokenize([words], truncate=True)
    with torch.no_grad():
        assert model.text.encode(tokens).hidden.shape == (1, CLIP + 256, 256)
