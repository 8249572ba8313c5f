"""Naturalness: does what is drawn in the concept's place look like something to the untouched model?

The denoising error of a picture's latents z0 bounds its likelihood under the model (Ho et al., arXiv
2006.11239). With the same noise e at the same times t for all pictures, under the empty prompt:

    error(z0, t) = |eps0(z_t, "") - e|^2,   z_t = sqrt(abar) z0 + sqrt(1 - abar) e

By itself it says how much there is to draw, not whether it is something: an autoencoder makes faint latents
of white noise, and their error is that of an ordinary picture (docs/evaluating.md). So it is compared with
what needs no model: the best linear denoiser that knows of the picture its variance v alone,

    linear(z0, t) = abar v / (abar v + 1 - abar),   ratio(z0, t) = error / linear

A picture of something is denoised better than its variance explains. Both are taken relative to their means
over a reference, the untouched model's pictures of ordinary prompts, averaged over the times, and given as
percentiles of the reference:

empty: an error below nearly all of the reference. noisy: not empty, and a ratio above nearly all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...diffusion.checkpointing import untouched
from ...diffusion.model import DiffusionModel
from ...domain.pull import TOGETHER, encoded
from ..measure import wilson
from .bootstrap import mean_of

DRAWS = ((100, 0), (200, 1), (300, 2), (500, 3))  # (t, seed of the noise)
SEED = 61_000
BAND = (2.5, 97.5)  # percentiles between which a picture counts as usual
FEWEST = 8  # pictures of a reference
FLAT = 1e-6  # a variance below it is that of a single colour


@dataclass(frozen=True)
class Denoised:
    """Of n pictures, [n, draws] each: the errors, and their ratios to the linear denoiser's."""

    errors: np.ndarray
    ratios: np.ndarray


@torch.no_grad()
def denoised(model: DiffusionModel, images: torch.Tensor) -> Denoised:
    """Of pictures [n, 3, H, W] in [-1, 1]; by the untouched model, whatever LoRAs are on."""
    z0 = model.encode_images(images)
    rows = np.empty((len(z0), len(DRAWS)))
    with untouched():
        empty = encoded(model, [""])
        for column, (time, number) in enumerate(DRAWS):
            generator = torch.Generator().manual_seed(SEED + number)
            noise = torch.randn(z0.shape[1:], generator=generator).to(z0.device)
            abar = model.alphas[time]
            for i in range(0, len(z0), TOGETHER):
                z = abar.sqrt() * z0[i : i + TOGETHER] + (1 - abar).sqrt() * noise
                t = torch.full((len(z),), time, device=z.device)
                error = model.predict_noise(z, t, empty[[0] * len(z)]) - noise
                rows[i : i + len(z), column] = error.square().mean((1, 2, 3)).cpu().numpy()
    variance = (z0 - z0.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).cpu().numpy()
    abars = model.alphas.cpu().numpy()[[time for time, _ in DRAWS]]
    return Denoised(rows, rows / linear(variance, abars))


def linear(variance: np.ndarray, abars: np.ndarray) -> np.ndarray:
    """The error [n, times] of the best linear prediction of e from sqrt(abar) z0 + sqrt(1 - abar) e, where z0
    has these variances [n], and e has 1.
    """
    signal = abars[None] * np.maximum(variance, FLAT)[:, None]
    return signal / (signal + 1 - abars[None])


def percentiles(reference: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where pictures [n, draws] lie among those of the reference [m, draws], from 0 to 100. Ties count
    half.
    """
    middle = reference.mean(0)
    usual = np.sort((reference / middle).mean(1))
    own = (rows / middle).mean(1)
    below, up_to = np.searchsorted(usual, own, "left"), np.searchsorted(usual, own, "right")
    return (below + up_to) / 2 / len(usual) * 100


def about(reference: Denoised, own: Denoised, prompts: Sequence[str]) -> dict:
    """For the report: the mean percentile of the ratio, with its bootstrap interval over prompts; the shares
    of usual (with Wilson's interval), noisy and empty pictures.
    """
    place = percentiles(reference.ratios, own.ratios)
    empty = percentiles(reference.errors, own.errors) < BAND[0]
    noisy = (place > BAND[1]) & ~empty
    count = len(place)
    usual = count - int(noisy.sum()) - int(empty.sum())
    return {
        "percentile": mean_of(place.tolist(), prompts),
        "usual": round(usual / count, 4),
        "interval": [round(end, 4) for end in wilson(usual, count)],
        "noisy": round(float(noisy.mean()), 4),
        "empty": round(float(empty.mean()), 4),
        "pictures": count,
    }
