"""Random models of every family, small enough for a test, in diffusers' layout and in the original
single-file one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sage_core.diffusion import names
from sage_core.diffusion.architecture import FAMILIES, UNET

FAMILY_NAMES = ("sd1", "sd2", "sdxl")


@dataclass
class Tiny:
    family: str
    unet: UNet2DConditionModel
    encoders: list[torch.nn.Module]
    vae: AutoencoderKL


def clip(width: int, layers: int, act: str, projection: int | None = None):
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=projection or width,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def make(family: str, seed: int = 0) -> Tiny:
    """A thin model: real structure, few channels."""
    torch.manual_seed(seed)
    widths = (32, 64) if family == "sd1" else (64, 128)  # heads of SD 2.x and SDXL are 64 wide
    common = {"sample_size": 8, "layers_per_block": 2, "block_out_channels": widths}
    cross = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
    if family == "sdxl":
        encoders = [clip(64, 2, "quick_gelu"), clip(128, 3, "gelu", projection=128)]
        unet = UNet2DConditionModel(
            **common,
            cross_attention_dim=192,
            use_linear_projection=True,
            attention_head_dim=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=128 + 6 * 256,
            transformer_layers_per_block=(1, 2),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
    else:
        linear = family == "sd2"
        encoders = [clip(128 if linear else 64, 2, "gelu" if linear else "quick_gelu")]
        unet = UNet2DConditionModel(
            **common,
            cross_attention_dim=128 if linear else 64,
            use_linear_projection=linear,
            attention_head_dim=(1, 2) if linear else 8,
            down_block_types=cross[0],
            up_block_types=cross[1],
        )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=FAMILIES[family].vae_scale,
    )
    return Tiny(family, unet.eval(), encoders, vae.eval())


def original(tiny: Tiny) -> dict[str, torch.Tensor]:
    """The state dict of a single-file checkpoint, as the families' own training code named it."""
    family = FAMILIES[tiny.family]
    sd = names.unet_to_original(tiny.unet.state_dict(), tiny.unet.config, UNET)
    for prefix, open_clip, encoder in zip(family.text_prefixes, family.open_clip, tiny.encoders):
        own = names.with_text_model(encoder.state_dict())
        if tiny.family == "sd2":  # the last layer, which SD 2.x does not read, is in the file
            last = 1 + max(int(k.split(".")[3]) for k in own if ".layers." in k)
            own |= {
                k.replace(f"layers.{last - 1}.", f"layers.{last}."): torch.randn_like(v)
                for k, v in own.items()
                if f"layers.{last - 1}." in k
            }
        sd |= {prefix + k: v for k, v in (clip_to_open_clip(own) if open_clip else own).items()}
    return {k: v.clone().contiguous() for k, v in sd.items()}


def single_file(tiny: Tiny, path: Path) -> Path:
    save_file(original(tiny), path)
    return path


def folder(tiny: Tiny, path: Path, prediction: str = "epsilon") -> Path:
    """A diffusers folder, written by diffusers itself."""
    pipe = pipeline(tiny, prediction)
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def pipeline(tiny: Tiny, prediction: str = "epsilon"):
    """diffusers' own pipeline around the same modules."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from sage_core.diffusion.load import CLIP_TOKENIZER

    tokenizer = CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True)
    second = CLIPTokenizer.from_pretrained(CLIP_TOKENIZER, local_files_only=True, pad_token="!")
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
    if tiny.family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=tiny.vae,
            text_encoder=tiny.encoders[0],
            text_encoder_2=tiny.encoders[1],
            tokenizer=tokenizer,
            tokenizer_2=second,
            unet=tiny.unet,
            scheduler=scheduler,
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        vae=tiny.vae,
        text_encoder=tiny.encoders[0],
        tokenizer=second if tiny.family == "sd2" else tokenizer,
        unet=tiny.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.no_grad()
def in_diffusers(
    name: str, lora: Path, prompts: list[str], z: torch.Tensor, t: torch.Tensor, added: dict | None = None
):
    """(prompt states, predicted noise) of diffusers' own pipeline around a fresh `make(name)` with a LoRA
    file loaded.
    """
    pipe = pipeline(make(name))  # fresh, since load_lora_weights changes its modules
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    hidden = pipe.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )[0]
    return hidden, pipe.unet(z, t, hidden, added_cond_kwargs=added).sample


def clip_to_open_clip(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse, for writing a checkpoint in the original layout."""
    back = {new: old for old, new in names.OPEN_CLIP.items()}
    out = {old: sd[f"text_model.{new}"] for old, new in names.OPEN_CLIP_TOP.items()}
    if "text_projection.weight" in sd:
        out["text_projection"] = sd["text_projection.weight"].T.contiguous()
    for key, value in sd.items():
        if not key.startswith("text_model.encoder.layers."):
            continue
        _, _, _, layer, rest = key.split(".", 4)
        base = f"transformer.resblocks.{layer}"
        if rest.startswith("self_attn.q_proj."):
            kind = rest.rsplit(".", 1)[1]
            out[f"{base}.attn.in_proj_{kind}"] = torch.cat(
                [sd[key.replace("q_proj", f"{n}_proj")] for n in "qkv"]
            )
        elif not rest.startswith(("self_attn.k_proj.", "self_attn.v_proj.")):
            module, kind = rest.rsplit(".", 1)
            out[f"{base}.{back[module]}.{kind}"] = value
    return out
