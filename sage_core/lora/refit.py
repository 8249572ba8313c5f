"""The refit: a LoRA that changes what it was made for, and as little else as possible.

Training moves a layer for the concept's prompts. What the same change does to all other prompts, retention
only samples. But what a layer that reads text can read is known: every prompt can be listed, and needs no
UNet pass. So the change B A of such a layer is replaced by the one that does the same on the concept's
prompts and nothing on those that are kept:

    min over D of  mean |(D - B A) x|^2 + p mean |D y|^2 + l |D|^2,    x: inputs for the concept, y: kept
    D = B A G (G + p K + l I)^-1,    G = mean x x^T,  K = mean y y^T

B stays, and A becomes A G (G + p K + l I)^-1: the rank is the same. Several LoRAs are joined by the same
equation, with the sum of their G inside the inverse: each does on its own concept's prompts what it did
alone, where a plain sum of them does all others' changes too. (Regression means, Jin et al., arXiv
2212.09849, merge whole models so, without inputs that are kept.)

Layers that read pictures, and the second matrix of an MLP, four times as wide as the rest, stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import nn

from ..diffusion.architecture import FAMILIES
from ..diffusion.model import DiffusionModel

PROMPT = "prompt"  # the source of what reads the prompt itself, as K and V of cross-attention do
READERS = tuple({layer for family in FAMILIES.values() for layer in family.readers})
ATTENTION_INPUT = re.compile(r"_[qv]_proj$")  # read what k_proj reads
TOGETHER = 16  # prompts encoded at once
RIDGE = 1e-3  # l, in units of the mean of the diagonal

Moments = dict[str, torch.Tensor]  # by source: mean x x^T [in, in], float32 on the CPU


def source(layer: str) -> str | None:
    """What stands for the input of a layer; layers of one source read the same. None: it is not refitted."""
    if layer.endswith(READERS):
        return PROMPT
    if not layer.startswith("lora_te") or layer.endswith("fc2"):
        return None
    return ATTENTION_INPUT.sub("_k_proj", layer)


@torch.no_grad()
def moments(
    model: DiffusionModel,
    layers: dict[str, nn.Linear],
    prompts: list[str],
    on_batch: Callable[[int], None] = lambda done: None,
) -> Moments:
    """Second moments of what the layers read of the prompts, padding included, with whatever adapters are on.

    on_batch: called with the number of prompts that are read.
    """
    found: Moments = {}
    counted: dict[str, int] = {}

    def add(key: str, read: torch.Tensor) -> None:
        counted[key] = counted.get(key, 0) + read.shape[:-1].numel()
        rows = read.flatten(0, -2).float()
        product = (rows.T @ rows).cpu()  # SDXL's sums would take 0.7 GB of a graphics card
        found[key] = found[key].add_(product) if key in found else product

    def hook(key: str) -> Callable:
        return lambda module, args: add(key, args[0])

    first = {source(name): layer for name, layer in reversed(layers.items())}
    handles = [
        layer.register_forward_pre_hook(hook(key))
        for key, layer in first.items()
        if key not in (None, PROMPT)
    ]
    try:
        for i in range(0, len(prompts), TOGETHER):
            part = prompts[i : i + TOGETHER]
            read = model.text.encode(model.text.tokenize(part, truncate=True)).hidden
            add(PROMPT, read[..., : model.text.width])
            on_batch(i + len(part))
    finally:
        for handle in handles:
            handle.remove()
    return {key: moment.div_(counted[key]) for key, moment in found.items()}


def heard(down: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """A G of the equation, [rank, in], float64 on the CPU: what a LoRA hears of its concept.

    moment: G, without the inputs of the layer that are always zero.
    """
    return down.detach()[:, : len(moment)].cpu().double() @ moment.double()


def refitted(
    heard: list[torch.Tensor],
    own: torch.Tensor,
    kept: torch.Tensor,
    weight: float,
    width: int | None = None,
) -> list[torch.Tensor]:
    """A G (sum of G + p K + l I)^-1 of one layer, for each of the LoRAs that are joined (one: it is refitted
    alone), float64.

    Args:
        heard: A G of each LoRA that has the layer, [rank, in].
        own: sum of G over all that are joined, [in, in].
        kept: K, [in, in].
        weight: p.
        width: of the layer's input, where some of it is always zero: those columns are zero.
    """
    whole = own.double() + weight * kept.double()
    whole.diagonal().add_(RIDGE * whole.diagonal().mean())
    fitted = torch.linalg.solve(whole, torch.cat(heard).T).T  # `whole` is symmetric
    fitted = torch.nn.functional.pad(fitted, (0, (width or len(own)) - len(own)))
    return list(fitted.split([len(part) for part in heard]))
