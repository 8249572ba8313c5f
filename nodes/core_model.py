"""The core's model of a graph's MODEL and CLIP, and what it sees in pictures of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import bridge
from .graph_weights import checkpoint

if TYPE_CHECKING:
    from ..sage_core.diffusion.model import DiffusionModel


def core_model(model, clip) -> DiffusionModel:
    """The weights are read out of the graph and hashed once; everything else leaves the graphics card.

    Raises SageError for a model that the core does not know.
    """
    from ..sage_core.models import load_model

    sampling, weights = bridge.prediction(model), checkpoint(model, clip)
    bridge.free_memory()
    with bridge.training():
        core = load_model(weights, "cpu", bridge.training_dtype(), *sampling)
    core.on_pass = bridge.check_cancelled
    return core


def seen(
    model, clip, concept: str, prompts: list[str], latents: torch.Tensor, size: int, on_picture
) -> list[bool]:
    """Whether the model, untouched, sees the concept in each of its own sampler's latents [n, 4, h, w].

    prompts: of each. See sage_core/evaluate/judge.py for how it sees.
    """
    from ..sage_core.diffusion.knowledge import Prompt
    from ..sage_core.diffusion.model import together
    from ..sage_core.evaluate.judge import ModelJudge
    from ..sage_core.prompts.templates import SHOWN_ON
    from ..sage_core.spec import ErasureSpec

    read = bridge.as_trained(model, latents)
    core = core_model(model, clip).to(bridge.device())
    core.pixels, core.at_once = size, together(size)
    with bridge.training(), torch.no_grad():
        judge = ModelJudge(core, ErasureSpec(concept))
        found = []
        for row, text in zip(read, prompts):
            thing = next((t for t in SHOWN_ON if t in text.split()), "")
            found += judge.sees_latents(row[None], [concept], [Prompt("", text, concept, 0, thing)])
            on_picture()
    return found
