"""Train the text encoder and the UNet together:

Stable Diffusion 1.x's schedule, epsilon-prediction, from nothing.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

from sage_core.demo.vocabulary import Vocabulary

from .captions import caption
from .loop import descend
from .optim import build_optimizers

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True)
class Shape:
    """Of the UNet and the text encoder. channels: of the UNet's levels; the lowest of three has no
    cross-attention. width, layers, heads: of the text encoder.
    """

    channels: tuple[int, ...] = (96, 192)
    width: int = 192
    layers: int = 4
    heads: int = 3


def new_unet(shape: Shape) -> UNet2DConditionModel:
    plain = len(shape.channels) - 2
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=shape.channels,
        cross_attention_dim=shape.width,
        down_block_types=("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",) * plain,
        up_block_types=("UpBlock2D",) * plain + ("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=8,
    )


def new_text_encoder(shape: Shape, tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=4 * shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            max_position_embeddings=77,
            projection_dim=shape.width,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


class Captioned:
    """Batches of token ids and cached latents [concepts, styles, copies, 4, 8, 8]; one caption serves two
    pictures.
    """

    def __init__(self, vocabulary: Vocabulary, latents: torch.Tensor, tokenizer, seed: int):
        self.vocabulary, self.latents = vocabulary, latents
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        self.pairs = [
            (i, j)
            for i, c in enumerate(vocabulary.concepts)
            for j, s in enumerate(vocabulary.styles)
            if (c.name, s) not in vocabulary.held_out
        ]

    def batch(self, captions: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [captions, 18 or 77] and latents [captions * each, 4, 8, 8]."""
        chosen = self.rng.choices(self.pairs, k=captions)
        texts = [caption(self.vocabulary.concepts[i], self.vocabulary.styles[j], self.rng) for i, j in chosen]
        # Attention is causal, so short padding only hides padding tokens; full length now and then keeps them
        # meaningful.
        length = 18 if self.rng.random() < 0.85 else 77
        ids = self.tokenizer(
            texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        copies = self.latents.shape[2]
        z = torch.stack(
            [self.latents[i, j, self.rng.randrange(copies)] for _ in range(each) for i, j in chosen]
        )
        return ids, z


def loss_of(unet, hidden, z, alphas, each: int) -> torch.Tensor:
    """Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5).

    Timesteps are stratified over the batch.
    """
    n = len(z)
    t = ((torch.randperm(n) + torch.rand(n)) / n * 1000).long().clamp(max=999)
    noise = torch.randn_like(z)
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    predicted = unet(noisy, t, hidden.repeat(each, 1, 1), return_dict=False)[0].float()
    snr = (a / (1 - a)).flatten()
    weight = snr.clamp(max=5) / snr
    return (weight * (predicted - noise).square().mean((1, 2, 3))).mean()


def train(
    vocabulary: Vocabulary,
    shape: Shape,
    latents,
    tokenizer,
    seconds: float,
    out: Path,
    captions: int = 64,
    each: int = 2,
    seed: int = 0,
    on_save=None,
):
    """Train for `seconds`, resuming from what is under `out`; saves `text_encoder` and `unet` (averaged
    weights) there.
    """
    torch.manual_seed(seed)
    if (out / "unet").exists():
        text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder", local_files_only=True).train()
        unet = UNet2DConditionModel.from_pretrained(out / "unet", local_files_only=True).train()
    else:
        text_encoder, unet = new_text_encoder(shape, tokenizer), new_unet(shape)
    # The fused attention's backward is slow on a CPU for small heads: plain products make a step two and a
    # half times as fast.
    unet.set_attn_processor(AttnProcessor())
    optimizers = build_optimizers([text_encoder, unet], muon_lr=0.012, adam_lr=1.5e-3)
    average = copy.deepcopy((text_encoder, unet))
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    data = Captioned(vocabulary, latents, tokenizer, seed)

    def loss_of_batch() -> torch.Tensor:
        ids, z = data.batch(captions, each)
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(unet, text_encoder(ids)[0], z, alphas, each)

    def keep(elapsed: float, step: int, last: bool) -> None:
        save(average, out)
        if on_save and not last:
            on_save(elapsed)

    descend("model", [text_encoder, unet], average, optimizers, seconds, captions * each, loss_of_batch, keep)
    return average


def save(models, out: Path) -> None:
    for model, name in zip(models, ("text_encoder", "unet")):
        model.save_pretrained(out / name)
