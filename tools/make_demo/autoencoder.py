"""Train the tiny autoencoder:

TAESD's own layout (64 wide, f8, 4 latent channels), which ComfyUI reads as it is.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from .optim import Schedule, build_optimizers

LATENT_NOISE = 0.10  # the decoder must forgive what the UNet gets slightly wrong


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(out: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """L1 + squared error + L1 of the image gradients, which keeps outlines sharp. Images in [-1, 1]."""
    gradients = sum(F.l1_loss(a, b) for a, b in zip(edges(out), edges(image)))
    return F.l1_loss(out, image) + F.mse_loss(out, image) + 0.5 * gradients


def unit_latents(z: torch.Tensor) -> torch.Tensor:
    """Pull every latent channel to mean 0 and deviation 1, so that the diffusion needs no scaling factor."""
    z = z.float().transpose(0, 1).flatten(1)
    return z.mean(1).square().mean() + (z.std(1) - 1).square().mean()


def busy_crops(images: torch.Tensor, batch: int, side: int) -> torch.Tensor:
    """Random crops where there is something to see: of two candidates each, the one with more contrast."""
    index = torch.randint(len(images), (2, batch))
    top, left = torch.randint(0, (images.shape[-1] - side) // 4 + 1, (2, 2, batch)) * 4
    crops = torch.stack(
        [
            torch.stack(
                [images[i, :, y : y + side, x : x + side] for i, y, x in zip(index[k], top[k], left[k])]
            )
            for k in (0, 1)
        ]
    )
    contrast = crops.float().flatten(2).std(-1)
    return torch.where((contrast[0] > contrast[1])[:, None, None, None], crops[0], crops[1])


def train(
    images: torch.Tensor,
    seconds: float,
    out: Path,
    crops: bool,
    muon_lr: float,
    batch: int = 12,
    seed: int = 0,
) -> AutoencoderTiny:
    """`images`: uint8 [n, 3, 64, 64].

    Trains for `seconds` and saves a diffusers folder at `out`, resuming from what is there.

    First with `crops`, where something is to be seen, at a high rate, then on whole pictures at a lower one.
    """
    torch.manual_seed(seed)
    vae = (
        AutoencoderTiny.from_pretrained(out, local_files_only=True)
        if out.exists()
        else AutoencoderTiny(latent_channels=4, scaling_factor=1.0)
    )
    vae.to(memory_format=torch.channels_last)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    vae.to(device)
    optimizers = build_optimizers(
        [vae], muon_lr=muon_lr, adam_lr=muon_lr / 10, skip=("encoder.layers.0.", "decoder.layers.18.")
    )
    schedule = Schedule(optimizers, seconds, flat=0.3)
    start, step, seen = time.time(), 0, 0
    while (elapsed := time.time() - start) < seconds:
        schedule(elapsed)
        x = busy_crops(images, 4 * batch, 32) if crops else images[torch.randint(len(images), (batch,))]
        x = x.to(device).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            z = vae.encoder(x)
            restored = vae.decoder(z + LATENT_NOISE * torch.randn_like(z))
        loss = reconstruction_loss(restored.float(), x) + 0.02 * unit_latents(z)
        for opt in optimizers:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in optimizers:
            opt.step()
        step, seen = step + 1, seen + len(x)
        if step % 100 == 0:
            mse = F.mse_loss(restored.detach().float().clamp(-1, 1), x).item()
            print(
                f"autoencoder {elapsed:6.0f} s  step {step}  {seen / max(elapsed, 1):.0f}/s  loss"
                f" {loss.item():.4f}  PSNR {10 * torch.log10(torch.tensor(4 / mse)).item():.2f} dB  latent"
                f" std {z.float().std().item():.2f}",
                flush=True,
            )
            vae.save_pretrained(out)
    vae.save_pretrained(out)
    return vae
