"""Load a model and recognise it. Users, the command line and the nodes load through here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from .demo import DEMO, FLOW, TOKENIZER, recognise
from .diffusion import load
from .diffusion.model import DiffusionModel

BUNDLED = {"demo": DEMO, "demo-flow": FLOW}


def load_model(
    source: str | Path | Mapping[str, torch.Tensor],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    prediction: str = "auto",
    alphas: torch.Tensor | None = None,
) -> DiffusionModel:
    """`source`: "demo" (the bundled model), "demo-flow" (the bundled flow transformer), a diffusers
    folder, a .safetensors checkpoint, or a state dict in the original layout.

    `prediction`: "auto", "epsilon" or "v". `alphas`: the noise schedule, abar_t [1000], if a host samples the
    model with one of its own. Raises SageError with one sentence for what cannot be used.
    """
    name = "" if isinstance(source, Mapping) else str(source)
    if name in BUNDLED:
        model = load.load_model(BUNDLED[name], device, dtype, prediction, (TOKENIZER,), alphas, text=DEMO)
        model.source = name
    else:
        model = load.load_model(source, device, dtype, prediction, (TOKENIZER,), alphas)
    return recognise(model)
