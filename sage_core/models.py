"""Load a model and recognise it. Users, the command line and the nodes load through here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from .demo import DEMO, TOKENIZER, recognise
from .diffusion import load
from .diffusion.model import DiffusionModel


def load_model(
    source: str | Path | Mapping[str, torch.Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: str = "auto",
    alphas: torch.Tensor | None = None,
) -> DiffusionModel:
    """`source`: "demo" (the bundled model), a diffusers folder, a .safetensors checkpoint, or a state dict in
    the original layout.

    `prediction`: "auto", "epsilon" or "v". `alphas`: the noise schedule, abar_t [1000], if a host samples the
    model with one of its own. Raises SageError with one sentence for what cannot be used.
    """
    bundled = not isinstance(source, Mapping) and str(source) == "demo"
    model = load.load_model(DEMO if bundled else source, device, dtype, prediction, (TOKENIZER,), alphas)
    if bundled:
        model.source = "demo"
    return recognise(model)
