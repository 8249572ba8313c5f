"""Train the text encoder and the UNet together:

Stable Diffusion 1.x's schedule, epsilon-prediction, from nothing.
"""

from __future__ import annotations

import copy
import random
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

from sage_core.demo.vocabulary import HELD_OUT_PAIRS, STYLES, concepts

from .captions import caption
from .optim import Schedule, build_optimizers

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
WIDTH = 192


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(96, 192),
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=8,
    )


def new_text_encoder(tokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=4,
            num_attention_heads=WIDTH // 64,
            max_position_embeddings=77,
            projection_dim=WIDTH,
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

    def __init__(self, latents: torch.Tensor, tokenizer, seed: int):
        self.latents, self.tokenizer, self.rng = latents, tokenizer, random.Random(seed)
        self.pairs = [
            (i, j)
            for i, c in enumerate(concepts())
            for j, s in enumerate(STYLES)
            if (c.name, s) not in HELD_OUT_PAIRS
        ]

    def batch(self, captions: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [captions, 18 or 77] and latents [captions * each, 4, 8, 8]."""
        chosen = self.rng.choices(self.pairs, k=captions)
        texts = [caption(concepts()[i], STYLES[j], self.rng) for i, j in chosen]
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
    latents,
    tokenizer,
    seconds: float,
    out: Path,
    captions: int = 64,
    each: int = 2,
    seed: int = 0,
    on_save=None,
):
    """Train for `seconds`, going on from what is under `out`; saves `text_encoder` and `unet` (averaged
    weights) there.
    """
    torch.manual_seed(seed)
    if (out / "unet").exists():
        text_encoder = CLIPTextModel.from_pretrained(out / "text_encoder", local_files_only=True).train()
        unet = UNet2DConditionModel.from_pretrained(out / "unet", local_files_only=True).train()
    else:
        text_encoder, unet = new_text_encoder(tokenizer), new_unet()
    # The fused attention's backward is slow on a CPU for small heads: plain products make a step two and a
    # half times as fast.
    unet.set_attn_processor(AttnProcessor())
    optimizers = build_optimizers([text_encoder, unet], muon_lr=0.012, adam_lr=1.5e-3)
    schedule = Schedule(optimizers, seconds)
    live = [*text_encoder.parameters(), *unet.parameters()]
    average = copy.deepcopy((text_encoder, unet))
    averaged = [p for m in average for p in m.parameters()]
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod
    data = Captioned(latents, tokenizer, seed)
    start, step, saved, mean = time.time(), 0, 0.0, None
    while (elapsed := time.time() - start) < seconds:
        schedule(elapsed)
        ids, z = data.batch(captions, each)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(unet, text_encoder(ids)[0], z, alphas, each)
        for opt in optimizers:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(live, 1.0)
        for opt in optimizers:
            opt.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, live, 1 - min(0.998, (step + 1) / (step + 10)))
        mean = loss.item() if mean is None else 0.97 * mean + 0.03 * loss.item()
        if step % 25 == 0:
            print(
                f"model {elapsed:6.0f} s  step {step}  {step * captions * each / max(elapsed, 1):.0f}"
                f" samples/s  loss {mean:.4f}",
                flush=True,
            )
        if elapsed - saved > 300:
            saved = elapsed
            save(average, out)
            if on_save:
                on_save(elapsed)
    save(average, out)
    return average


def save(models, out: Path) -> None:
    for model, name in zip(models, ("text_encoder", "unet")):
        model.save_pretrained(out / name)
