"""What is loaded is what diffusers would have loaded, in every layout and family."""

import pytest
import tiny
import torch

from sage_core import SageError, load_model
from sage_core.diffusion import architecture, names
from sage_core.diffusion.architecture import UNET
from sage_core.diffusion.networks import added_conditions


def same_predictions(model, reference, seed=0):
    """Our model and diffusers' pipeline agree on conditionings and on predicted noise."""
    torch.manual_seed(seed)
    prompts = ["a photo of a cat", "an oil painting of a red house by the sea"]
    with torch.no_grad():
        cond = model.encode(prompts)
        if len(model.text.encoders) == 2:
            hidden, _, pooled, _ = reference.encode_prompt(
                prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            torch.testing.assert_close(cond.pooled, pooled, atol=1e-5, rtol=1e-4)
        else:
            hidden, _ = reference.encode_prompt(prompts, "cpu", 1, False)
        torch.testing.assert_close(cond.hidden, hidden, atol=1e-5, rtol=1e-4)
        z, t = torch.randn(2, 4, 8, 8), torch.tensor([999, 101])
        added = added_conditions(cond, model.pixels)
        expected = reference.unet(z, t, hidden, added_cond_kwargs=added).sample
        if reference.scheduler.config.prediction_type == "v_prediction":
            a = reference.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
            expected = a.sqrt() * expected + (1 - a).sqrt() * z
        torch.testing.assert_close(model.predict_noise(z, t, cond), expected, atol=1e-4, rtol=1e-3)


def test_single_file_agrees_with_the_pipeline(family, tmp_path):
    model = load_model(tiny.single_file(family, tmp_path / "model.safetensors"))
    assert model.family.name == family.family
    same_predictions(model, tiny.pipeline(family))


def test_state_dict_in_memory_is_the_same_model(family, tmp_path):
    sd = tiny.original(family)
    a, b = load_model(sd), load_model(tiny.single_file(family, tmp_path / "m.safetensors"))
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_diffusers_folder_agrees_with_the_pipeline(family, tmp_path, prediction):
    model = load_model(tiny.folder(family, tmp_path / "model", prediction))
    assert model.velocity == (prediction == "v_prediction")
    same_predictions(model, tiny.pipeline(family, prediction))


def test_original_unet_names_agree_with_diffusers_own_converter(family):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    sd = tiny.original(family)
    theirs = convert_ldm_unet_checkpoint(dict(sd), dict(family.unet.config))
    ours = names.unet_to_diffusers(sd, family.unet.config, UNET)
    assert set(ours) == set(family.unet.state_dict()) == set(theirs)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_original_autoencoder_names_agree_with_diffusers_own_converter():
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    from sage_core.diffusion.autoencoder import kl_to_diffusers

    vae = tiny.make("sd1").vae
    back = {}
    for key in vae.state_dict():  # diffusers names to original ones, by brute force over the pattern
        k = key
        for side in ("encoder", "decoder"):
            k = k.replace(f"{side}.conv_norm_out", f"{side}.norm_out")
            for i in range(4):
                k = k.replace(f"{side}.down_blocks.{i}.resnets.", f"{side}.down.{i}.block.")
                k = k.replace(f"{side}.down_blocks.{i}.downsamplers.0.", f"{side}.down.{i}.downsample.")
                k = k.replace(f"{side}.up_blocks.{i}.resnets.", f"{side}.up.{3 - i}.block.")
                k = k.replace(f"{side}.up_blocks.{i}.upsamplers.0.", f"{side}.up.{3 - i}.upsample.")
            k = k.replace(f"{side}.mid_block.resnets.0", f"{side}.mid.block_1").replace(
                f"{side}.mid_block.resnets.1", f"{side}.mid.block_2"
            )
            for new, old in (
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ):
                k = k.replace(f"{side}.mid_block.attentions.0.{new}", f"{side}.mid.attn_1.{old}")
        k = k.replace("conv_shortcut", "nin_shortcut")
        value = vae.state_dict()[key]
        if "attn_1" in k and k.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]
        back["first_stage_model." + k] = value
    theirs = convert_ldm_vae_checkpoint(dict(back), dict(vae.config))
    ours = kl_to_diffusers(back, 4)
    assert set(ours) == set(vae.state_dict()) == set(theirs)
    assert all(torch.equal(ours[k].flatten(), theirs[k].flatten()) for k in ours)


def test_sampling_gives_the_pictures_of_the_pipeline(sd1):
    """Same solver, same noise, same guidance: the same latents as StableDiffusionPipeline."""
    model, pipe = load_model(tiny.original(sd1)), tiny.pipeline(sd1)
    model.pixels = 64
    pipe.scheduler = model.scheduler(4)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        "a cat", latents=model.noise([3]), num_inference_steps=4, guidance_scale=5.0, output_type="latent"
    ).images
    torch.testing.assert_close(
        model.sample(model.encode(["a cat"]), [3], 4, 5.0), expected, atol=1e-3, rtol=1e-3
    )


def test_velocity_is_told_from_a_marker_or_asked_for(sd1):
    sd = tiny.original(sd1)
    assert not load_model(sd).velocity
    assert load_model(sd, prediction="v").velocity
    assert load_model({**sd, "v_pred": torch.zeros(0)}).velocity


def test_every_unet_pass_is_counted(sd1):
    model = load_model(tiny.original(sd1))
    z, t, cond = torch.randn(3, 4, 8, 8), torch.tensor([1, 2, 3]), model.encode(["a", "b", "c"])
    with torch.no_grad():
        model.predict_noise(z, t, cond)
    assert (model.cost.forwards, model.cost.backwards) == (3, 0)
    cond.hidden.requires_grad_(True)
    model.predict_noise(z, t, cond)
    assert (model.cost.forwards, model.cost.backwards, model.cost.passes) == (6, 3, 12)


def test_padding_does_not_change_what_real_tokens_mean(family):
    """Causal attention: trimmed prompts have the states of whole ones, and a pooled state."""
    text = load_model(tiny.original(family)).text
    tokens = text.tokenize(["a photo of a dog", "a"])
    whole, short = text.encode(tokens), text.encode(tokens.trimmed())
    torch.testing.assert_close(short.hidden, whole.hidden[:, : short.hidden.shape[1]])
    if whole.pooled is not None:
        torch.testing.assert_close(short.pooled, whole.pooled)


def test_token_embeddings_in_place_of_tokens_change_nothing_and_carry_gradients(family):
    model = load_model(tiny.original(family))
    tokens = model.text.tokenize(["a photo of a dog"])
    embeddings = [e.requires_grad_(True) for e in model.text.embed(tokens)]
    out = model.text.encode(tokens, embeddings)
    torch.testing.assert_close(out.hidden, model.text.encode(tokens).hidden)
    out.hidden.square().sum().backward()
    assert all(e.grad.abs().sum() > 0 for e in embeddings)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda sd: {"double_blocks.0.weight": torch.zeros(1)}, "Flux"),
        (lambda sd: {k: v for k, v in sd.items() if not k.startswith("cond_stage_model")}, "no text encoder"),
        (lambda sd: {k: v for k, v in sd.items() if "middle_block.2" not in k}, "lacks"),
        (lambda sd: sd | {UNET + "input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)}, "9 input channels"),
        (lambda sd: sd | {UNET + "out.2.bias": torch.full((4,), float("nan"))}, "NaN"),
        (lambda sd: sd | {UNET + "out.2.bias": torch.zeros(7)}, "shapes"),
        (lambda sd: {}, "no Stable Diffusion"),
    ],
)
def test_a_wrong_checkpoint_is_refused_with_one_sentence(sd1, change, words):
    with pytest.raises(SageError, match=words) as caught:
        load_model(change(tiny.original(sd1)))
    assert "\n" not in str(caught.value)


def test_family_is_told_from_names_alone():
    for name in tiny.FAMILY_NAMES:
        assert architecture.recognise(tiny.original(tiny.make(name))).name == name
