"""Train the small flow transformer: SD3's architecture, 4 blocks of width 256, on the bundled art.

The text encoder is the bundled one, frozen, and read as SD3 reads CLIP: the state before the last layer, and
the final state of the end token as the pooled one. The autoencoder is the bundled one with 16 latent
channels, trained a little further.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, SD3Transformer2DModel
from transformers import CLIPTextModel

from sage_core.demo import DEMO

from . import autoencoder
from .loop import descend
from .model import Captioned
from .optim import build_optimizers

CHANNELS = 16  # latent channels of SD3
EDGES = ("pos_embed", "context_embedder", "linear_1", "proj_out", "norm_out")  # left to AdamW


def new_transformer(width: int) -> SD3Transformer2DModel:
    """ComfyUI takes width / 64 for the number of blocks and of heads alike. width: of the text encoder."""
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=4,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=width,
        caption_projection_dim=256,
        pooled_projection_dim=width,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )


def widened(folder: Path) -> None:
    """The bundled autoencoder with 16 latent channels, which draws as before until it is trained."""
    old = AutoencoderTiny.from_pretrained(DEMO / "vae", local_files_only=True)
    new = AutoencoderTiny(latent_channels=CHANNELS, scaling_factor=1.0)
    weights = new.state_dict()
    for key, value in old.state_dict().items():
        if weights[key].shape == value.shape:
            weights[key] = value
        elif value.shape[0] == 4:  # the encoder's last layer: the first four channels are the old ones
            weights[key][:4] = value
        else:  # the decoder's first layer
            weights[key].zero_()
            weights[key][:, :4] = value
    new.load_state_dict(weights)
    new.save_pretrained(folder)


def trained_autoencoder(work: Path, images: torch.Tensor, seconds: float) -> AutoencoderTiny:
    folder = work / "vae"
    if not (work / "vae-done").exists():
        if not folder.exists():
            widened(folder)
        pictures = images.flatten(0, 2).permute(0, 3, 1, 2)
        autoencoder.train(pictures, seconds, folder, crops=False, muon_lr=0.01)
        (work / "vae-done").touch()
    return AutoencoderTiny.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def read(encoder: CLIPTextModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What SD3 reads of CLIP: hidden states [n, tokens, width] and the pooled state [n, width]."""
    out = encoder(input_ids=ids, output_hidden_states=True)
    return out.hidden_states[-2], out.pooler_output


def loss_of(transformer, hidden, pooled, z) -> torch.Tensor:
    """Velocity, at times whose logit is normal (Esser et al. 2024, arXiv 2403.03206), stratified."""
    n = len(z)
    u = (torch.randperm(n) + torch.rand(n)) / n
    t = torch.sigmoid(torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))
    noise = torch.randn_like(z)
    s = t.view(-1, 1, 1, 1)
    predicted = transformer(
        (1 - s) * z + s * noise,
        encoder_hidden_states=hidden,
        pooled_projections=pooled,
        timestep=1000 * t,
        return_dict=False,
    )[0]
    return (predicted.float() - (noise - z)).square().mean()


def train(
    vocabulary, latents, tokenizer, seconds: float, work: Path, captions: int = 64, each: int = 2, seed=0
):
    """Train for `seconds` in all; resumes from the last checkpoint under `work`. Saves the averaged weights
    there.
    """
    encoder = CLIPTextModel.from_pretrained(DEMO / "text_encoder", local_files_only=True).eval()
    state, done, step = work / "flow.pt", 0.0, 0
    torch.manual_seed(seed)
    model = new_transformer(encoder.config.hidden_size)
    optimizers = build_optimizers([model], muon_lr=0.012, adam_lr=1.5e-3, skip=EDGES)
    average = copy.deepcopy(model)
    if state.exists():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        average.load_state_dict(kept["average"])
        for optimizer, saved in zip(optimizers, kept["optimizers"]):
            optimizer.load_state_dict(saved)
        done, step = kept["seconds"], kept["step"]
        torch.manual_seed(seed + step)
    data = Captioned(vocabulary, latents, tokenizer, seed + step)

    def loss_of_batch() -> torch.Tensor:
        ids, z = data.batch(captions, each)
        hidden, pooled = read(encoder, ids)
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model, hidden.repeat(each, 1, 1), pooled.repeat(each, 1), z)

    def keep(elapsed: float, step: int, last: bool) -> None:
        _keep(work, model, average, optimizers, elapsed, step)

    descend("flow", [model], [average], optimizers, seconds, captions * each, loss_of_batch, keep, done, step)


def _keep(work: Path, model, average, optimizers, seconds: float, step: int) -> None:
    average.save_pretrained(work / "transformer")
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [o.state_dict() for o in optimizers],
        "seconds": seconds,
        "step": step,
    }
    torch.save(state, work / "flow.pt.new")
    (work / "flow.pt.new").replace(work / "flow.pt")
