"""The layers of a network that only text goes through, found by watching it work: for flow models whose
layers nobody has listed (sage_core/diffusion/hosted_families.py).

Three small passes show it. A layer is the text's where what goes into it follows the prompt and has as many
rows whatever the size of the picture. One row a prompt (a pooled state) counts only where the time and the
picture do not move it: the modulation of a block has one row too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ..sage_core.errors import SageError

if TYPE_CHECKING:
    from ..sage_core.diffusion.architecture import Family
    from ..sage_core.diffusion.hosted import HostedModel

PROMPTS = ("a photo of a dog on the grass", "two red chairs beside an old table")
SIZES, TIMES = (64, 128), (700, 300)
SAMPLED = 512  # values of a layer's input that are compared
MOVED = 1e-3  # of their size, by which values must differ to follow something

Inputs = dict[str, list[tuple[int, torch.Tensor]]]  # (rows, some values) of every call of each layer


def with_text_layers(core: HostedModel) -> Family:
    """The model's family with the names of its text's layers. Raises SageError where there are none."""
    if core.family.names:
        return core.family
    core.to(core.device)
    first = watched(core, SIZES[0], TIMES[0], PROMPTS[0])
    prompt = watched(core, SIZES[0], TIMES[0], PROMPTS[1])
    picture = watched(core, SIZES[1], TIMES[1], PROMPTS[0])
    paths = [
        path for path, own in first.items() if _is_texts(own, prompt.get(path, []), picture.get(path, []))
    ]
    if not paths:
        raise SageError(
            f"No layer of this {core.family.title} model is the text's alone, so nothing can be erased from"
            " it without changing every picture."
        )
    pattern = "|".join(map(re.escape, paths))
    return dataclasses.replace(core.family, names=((f"({pattern})", ("diffusion_model.{0}",)),))


@torch.no_grad()
def watched(core: HostedModel, pixels: int, time: int, prompt: str) -> Inputs:
    """What goes into each linear layer in one pass."""
    before, core.pixels = core.pixels, pixels
    try:
        with _noting(core.unet) as inputs:
            core.predict_noise(
                core.noise([time]), torch.tensor([time], device=core.device), core.encode([prompt])
            )
        return inputs
    finally:
        core.pixels = before


@contextmanager
def _noting(network: torch.nn.Module) -> Iterator[Inputs]:
    inputs: Inputs = {}
    handles = []

    def watch(path: str, module: torch.nn.Module) -> None:
        def note(module, args):
            rows = args[0].numel() // args[0].shape[-1]
            flat = args[0].detach().reshape(-1)
            some = flat[:: max(1, len(flat) // SAMPLED)].float().cpu()
            inputs.setdefault(path, []).append((rows, some))

        handles.append(module.register_forward_pre_hook(note))

    for path, module in network.named_modules():
        if hasattr(module, "in_features") and hasattr(module, "weight"):
            watch(path, module)
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _is_texts(first: list, prompt: list, picture: list) -> bool:
    rows = [call[0] for call in first]
    if rows != [call[0] for call in picture] or not _differ(first, prompt):
        return False
    return min(rows) > 1 or not _differ(first, picture)


def _differ(some: list, others: list) -> bool:
    """Whether any call has another number of rows or other values."""
    if [len(values) for _, values in some] != [len(values) for _, values in others]:
        return True
    return any(bool((a - b).norm() > MOVED * a.norm()) for (_, a), (_, b) in zip(some, others))
