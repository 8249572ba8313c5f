"""The core's model of a graph's MODEL and CLIP, and what it sees in pictures of the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from ..sage_core.errors import SageError
from . import bridge
from .graph_weights import checkpoint

if TYPE_CHECKING:
    from ..sage_core.diffusion.hosted import HostedModel
    from ..sage_core.diffusion.model import DiffusionModel
    from ..sage_core.methods.recipe import Recipe
    from .hosted import ComfyHost


def core_model(model, clip, hosts: bool = False) -> DiffusionModel:
    """Of Stable Diffusion the weights are read out of the graph and hashed once, and everything else leaves
    the graphics card. A newer flow stays ComfyUI's, and is trained through (hosted.py).

    hosts: whether the caller can do with such a model. Raises SageError for a model that the core does not
    know.
    """
    from ..sage_core.models import load_model
    from . import hosted, variants

    sampling = bridge.prediction(model)
    family = variants.family_of(model, clip) if sampling[0] == "flow" else None
    if family is not None and hosts:
        bridge.free_memory()
        return hosted.hosted_model(model, clip, family, sampling[1])
    if family is not None:
        raise SageError(
            f"{family.title} stays ComfyUI's own model, which this node cannot judge or attack; use Compare"
            " Erasure, which draws with it."
        )
    if sampling[0] == "flow" and not hasattr(model.model.diffusion_model, "joint_blocks"):
        raise SageError(variants.unknown(model))
    weights = checkpoint(model, clip)
    bridge.free_memory()
    with bridge.training():
        core = load_model(weights, "cpu", bridge.training_dtype(), *sampling)
    core.on_pass = bridge.check_cancelled
    return core


def training(core: DiffusionModel, recipe: Recipe):
    """A context inside which this recipe can be trained on the model."""
    from . import hosted

    return hosted.trainable(core, recipe.surface) if core.hosted else bridge.training()


def check_recipes(core: DiffusionModel, recipes: list[Recipe]) -> None:
    """Raises SageError where one cannot run on the model, before anything long."""
    from ..sage_core.methods.plain_prompts import in_plain_prompts
    from . import variants

    if core.hosted:
        variants.check(cast("ComfyHost", cast("HostedModel", core).host).model)
    if not core.text.open:
        for recipe in recipes:
            in_plain_prompts(recipe)


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
    core = core_model(model, clip, hosts=True).to(bridge.device())
    core.pixels, core.at_once = size, together(size)
    with bridge.training(), torch.no_grad():
        judge = ModelJudge(core, ErasureSpec(concept))
        found = []
        for row, text in zip(read, prompts):
            thing = next((t for t in SHOWN_ON if t in text.split()), "")
            found += judge.sees_latents(row[None], [concept], [Prompt("", text, concept, 0, thing)])
            on_picture()
    return found
