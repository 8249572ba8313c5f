"""Stable Diffusion 3's architecture: a rectified flow, erased by the same cycle."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import tiny_flow
import torch
from safetensors.torch import load_file, save_file

from sage_core import ErasureSpec, SageError, erase, load_model
from sage_core.cycle.setup import trained_layers
from sage_core.diffusion import names_sd3, schedule
from sage_core.lora.file import load_lora, read_lora
from sage_core.lora.merge import merge_loras
from sage_core.lora.surfaces import paths, surface_layers
from sage_core.memory.rehearsal import skeleton, step_bytes

STEPS = {"steps": 2, "search": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_flow.bundled_text(tmp_path_factory.mktemp("flow") / "m")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def erased(model, tmp_path_factory):
    """(path of a LoRA for dog, what the erased model predicts)."""
    return erased_on(model, None, tmp_path_factory.mktemp("lora"))


def erased_on(model, surface, folder) -> tuple[Path, torch.Tensor]:
    path = folder / "dog.safetensors"
    erasure = erase(model, ErasureSpec("dog", surface=surface, **STEPS))
    erasure.save(path, model)
    after = noise_of(model)
    erasure.adapter.remove()
    return path, after


@torch.no_grad()
def noise_of(model, prompt: str = "a dog", time: int = 600) -> torch.Tensor:
    z = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    return model.predict_noise(z, torch.tensor([time]), model.encode([prompt]))


@pytest.mark.parametrize(
    "name, parts",
    [
        ("erase-anything", {"add_q_proj", "add_k_proj"}),
        (
            "esd-flux",
            {"to_q", "to_k", "to_v", "to_out_0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"},
        ),
    ],
)
def test_a_peers_layers_are_those_of_its_paper(model, name, parts):
    layers = trained_layers(model, ErasureSpec("dog", method=name).recipe())
    assert layers and {layer.split("_attn_")[1] for layer in layers} == parts


# ---- the schedule ----


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
def test_a_flow_is_a_schedule_whose_times_come_back(shift):
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    s = shift * u / (1 + (shift - 1) * u)
    alphas = schedule.flow(shift)
    torch.testing.assert_close(schedule.flow_time(alphas)[10:-1], s[10:-1].float(), rtol=1e-3, atol=1e-4)
    assert schedule.flow_shift(alphas) == shift
    assert schedule.name_of(alphas) == f"shift {shift:g}"
    assert torch.equal(schedule.checked(alphas.double() * (1 - 1e-5)), alphas)
    assert schedule.is_zero_terminal(alphas)


def test_known_schedules_are_no_flows():
    for alphas in (schedule.standard(), schedule.zero_terminal_snr(schedule.standard())):
        assert schedule.flow_shift(alphas) is None


@torch.no_grad()
def test_the_noise_is_the_velocitys(model):
    """x = (1 - s) z_0 + s noise and v = noise - z_0: written out again, from x and the bare network."""
    t, cond = torch.tensor([700]), model.encode(["a dog"])
    u = 701 / 1000
    s = 3 * u / (1 + 2 * u)
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    v = model.unet(
        x,
        encoder_hidden_states=cond.hidden,
        pooled_projections=cond.pooled,
        timestep=torch.tensor([1000 * s]),
        return_dict=False,
    )[0]
    clean = x - s * v
    found = model.predict_noise(x / ((1 - s) ** 2 + s**2) ** 0.5, t, cond)
    torch.testing.assert_close(found, (x - (1 - s) * clean) / s, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_sampler_ends_at_the_picture_that_every_velocity_points_to(model, monkeypatch):
    goal = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))

    def network(x, timestep, **kwargs):
        return ((x - goal) / (timestep / 1000).view(-1, 1, 1, 1),)

    monkeypatch.setattr(model.unet, "forward", network)
    drawn = model.sample(model.encode(["a dog"]), [0], steps=6, guidance=4.0)
    torch.testing.assert_close(drawn, goal, rtol=1e-3, atol=1e-3)


# ---- the bundled one ----


def test_it_is_small_and_draws_what_it_is_asked_for():
    from sage_core.demo import FLOW

    assert sum(p.stat().st_size for p in FLOW.rglob("*") if p.is_file()) <= 25e6
    model = load_model("demo-flow")
    assert model.source == "demo-flow" and model.family.name == "sd3"
    judge = model.knowledge.judge()
    words = ["dog", "castle", "rose", "owl"]
    images = model.generate([f"a cartoon drawing of a {w}" for w in words], [1, 2, 3, 4], steps=12)
    assert sum(seen.concept == word for seen, word in zip(judge.look(images), words)) >= 3


# ---- layouts ----


def test_names_and_shapes_come_back(folder, model):
    for dual in ((), (0, 1)):
        network = tiny_flow.transformer(context=96, pooled=32, dual=dual)
        own = network.state_dict()
        original = names_sd3.to_original(own, 4, "p.")
        back = names_sd3.to_diffusers(original, "p.")
        assert set(back) == set(own) and all(torch.equal(back[k], own[k]) for k in own)
        config = names_sd3.config_of(original, "p.")
        config.pop("sample_size")
        assert all(tuple_of(network.config[key]) == tuple_of(value) for key, value in config.items())


def tuple_of(value):
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("make", [tiny_flow.bundled_text, tiny_flow.two_encoders])
def test_a_folder_and_a_single_file_are_one_model(tmp_path, make):
    whole = load_model(make(tmp_path / "m"))
    single = load_model(tiny_flow.single_file(whole, tmp_path / "m.safetensors"))
    assert single.fingerprint == whole.fingerprint
    assert whole.sampling == single.sampling == "flow, shift 3"
    single.pixels = whole.pixels
    torch.testing.assert_close(noise_of(whole), noise_of(single))


def test_pictures_are_drawn_and_read_with_the_autoencoders_shift(tmp_path):
    model = load_model(tiny_flow.two_encoders(tmp_path / "m"))
    z = torch.randn(1, 16, 8, 8)
    with torch.no_grad():
        raw = model.vae.decode(z / 1.5305 + 0.0609, return_dict=False)[0].clamp(-1, 1)
        torch.testing.assert_close(model.decode(z), raw)
        latents = model.vae.encode(raw).latent_dist.mode()
        torch.testing.assert_close(model.encode_images(raw), (latents - 0.0609) * 1.5305)
    assert model.generate(["a dog"], [0], steps=2).shape == (1, 3, 64, 64)


def test_what_an_absent_encoder_would_say_is_zeros(model):
    cond = model.encode(["a dog"])
    assert cond.hidden.shape == (1, 77, 4096) and cond.pooled.shape == (1, 1472)
    assert cond.hidden[..., 192:].abs().max() == 0 and cond.pooled[:, 192:].abs().max() == 0
    encoder = model.text.encoders[0]
    ids = model.text.tokenize(["a dog"]).ids[0]
    with torch.no_grad():
        own = encoder(input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(cond.hidden[..., :192], own.hidden_states[-2])
    torch.testing.assert_close(cond.pooled[:, :192], own.pooler_output)


# ---- refusals ----


def test_t5_in_a_single_file_is_refused_in_one_sentence(model, tmp_path):
    sd = load_file(tiny_flow.single_file(model, tmp_path / "m.safetensors"))
    save_file(
        sd | {"text_encoders.t5xxl.transformer.shared.weight": torch.zeros(1)}, tmp_path / "t5.safetensors"
    )
    with pytest.raises(SageError, match="T5"):
        load_model(tmp_path / "t5.safetensors")


def test_other_transformers_are_refused_by_name(folder, tmp_path):
    copied = tmp_path / "flux"
    shutil.copytree(folder, copied)
    config = copied / "transformer" / "config.json"
    data = json.loads(config.read_text(encoding="utf-8")) | {"_class_name": "FluxTransformer2DModel"}
    config.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(SageError, match="FluxTransformer2DModel"):
        load_model(copied)


def test_a_transformer_without_its_text_encoder_is_refused(model, tmp_path):
    sd = load_file(tiny_flow.single_file(model, tmp_path / "m.safetensors"))
    save_file({k: v for k, v in sd.items() if "clip_l" not in k}, tmp_path / "bare.safetensors")
    with pytest.raises(SageError, match="CLIP-L"):
        load_model(tmp_path / "bare.safetensors")


# ---- erasing ----


def test_what_is_trained_is_what_reads_text(model):
    names = surface_layers(model, "cross_attention")
    assert all(name.endswith(model.family.cross) for name in names)
    assert len(names) == 4 * 3 + 3 + 2  # the last block has no way out of its text stream
    assert not any("attn_to_q" in name for name in names)


def test_a_file_has_the_names_that_every_host_reads(model, erased):
    path, after = erased
    tensors = load_file(path)
    starts = ("transformer.", "text_encoder.text_model.encoder.layers.")
    assert all(key.startswith(starts) for key in tensors)
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in tensors)
    assert "transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight" in tensors
    assert "transformer.context_embedder.lora_B.weight" in tensors
    known = set(paths(model).values())
    assert {key.rsplit(".", 2)[0] for key in tensors} <= known
    before = noise_of(model)
    adapter = load_lora(model, path)
    loaded = noise_of(model)
    adapter.remove()
    torch.testing.assert_close(loaded, after, rtol=1e-4, atol=1e-5)
    assert (loaded - before).abs().max() > 1e-4


def test_joined_files_keep_their_names_and_their_sum(model, erased, tmp_path):
    path, _ = erased
    merge_loras([path, path], tmp_path / "two.safetensors", [0.5, 0.25])
    assert set(load_file(tmp_path / "two.safetensors")) == set(load_file(path))
    adapter = load_lora(model, tmp_path / "two.safetensors")
    joined = noise_of(model)
    adapter.remove()
    adapter = load_lora(model, path, 0.75)
    alone = noise_of(model)
    adapter.remove()
    torch.testing.assert_close(joined, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("surface", [None, "unet"])
def test_diffusers_own_loader_takes_every_layer(model, surface, tmp_path):
    from diffusers import StableDiffusion3Pipeline
    from peft.tuners.lora import LoraLayer

    path, after = erased_on(model, surface, tmp_path)
    transformer = type(model.unet).from_config(model.unet.config)
    transformer.load_state_dict(model.unet.state_dict())
    parts = ("vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3")
    tokenizers = ("tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = StableDiffusion3Pipeline(transformer=transformer, **dict.fromkeys((*parts, *tokenizers)))
    tensors = {k: v for k, v in load_file(path).items() if k.startswith("transformer.")}
    pipe.load_lora_weights(tensors)
    found = [name for name, m in transformer.named_modules() if isinstance(m, LoraLayer)]
    assert len(found) == len(tensors) / 2
    text = {k: v for k, v in read_lora(path).layers.items() if k.startswith("lora_te1_")}
    assert len(text) + len(found) == len(read_lora(path).layers)
    adapter = load_lora(model, path)
    own, model.unet = model.unet, transformer
    try:
        for name in [n for n in adapter.layers if n.startswith("lora_unet_")]:
            adapter.up[name].zero_()  # hung on the other transformer by diffusers
        torch.testing.assert_close(noise_of(model), after, rtol=1e-4, atol=1e-4)
    finally:
        model.unet = own
        adapter.remove()


def test_the_closed_form_edits_the_projection_of_the_text(model):
    erasure = erase(model, ErasureSpec("dog", method="uce"))
    try:
        changed = [name for name, up in erasure.adapter.up.items() if up.abs().max() > 0]
    finally:
        erasure.adapter.remove()
    assert changed == ["lora_unet_context_embedder"]


def test_a_style_is_shown_on_many_things_where_a_closed_form_takes_little_of_it(model, thin):
    """Their trajectories and states are counted beforehand, and drawn."""
    style, thing = ErasureSpec("pixel art", search=False, steps=2), ErasureSpec("dog")
    few, many = style.recipe_for(thin), style.recipe_for(model)
    assert (few.training.trajectories, few.training.erase_batch) == (4, 2)
    assert (many.training.trajectories, many.training.erase_batch) == (20, 4) and many.passes > few.passes
    assert thing.recipe_for(model) == thing.recipe_for(thin)
    for other in ({"method": "esd"}, {"method": "esd", "faithful": True}):
        spec = ErasureSpec("pixel art", **other)
        assert spec.recipe_for(model) == spec.recipe()
    whole = dataclasses.replace(many, training=dataclasses.replace(many.training, steps=8), check=False)
    scenes = []
    erasure = erase(model, whole, lambda e: scenes.append(e.total) if e.phase == "bank" else None)
    erasure.adapter.remove()
    things = math.ceil(8 * 4 / 6)  # no more than the steps can use
    assert scenes[-1] == 6 * (things + 8) and erasure.cost.passes <= whole.passes


def test_a_step_is_rehearsed_without_memory(model):
    ghost = skeleton(model)
    ghost.pixels = 256
    recipe = ErasureSpec("dog").recipe()
    whole, spared = (step_bytes(ghost, recipe, checkpointing, 8) for checkpointing in (False, True))
    assert 0 < spared < whole
