"""The gradients of a step, from one UNet batch or from several smaller ones.

Both ways give the same gradients; parts take the memory of the largest one. Only the UNet's activations are
held a part at a time. The text encoder runs once: every part leaves its gradient at the conditioning, and one
backward pass continues from there.
"""

from __future__ import annotations

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..methods.base import Terms
from ..methods.states import Rows

Tensors = dict[str, torch.Tensor]
UNSCALED = torch.amp.GradScaler("cpu", enabled=False)


def descend(
    model: DiffusionModel, terms: Terms, scaler: torch.amp.GradScaler = UNSCALED
) -> tuple[Tensors, Tensors]:
    """Add the gradient of the terms' sum, scaled by `scaler`, to every parameter's `.grad`.

    Returns each term's loss, and the noise predicted for its rows [n, 4, h, w], both detached. More than
    `model.at_once` samples (None: any number) go through the UNet in parts.
    """
    rows = {name: term for name, term in terms.items() if isinstance(term, Rows)}
    text = {name: term for name, term in terms.items() if isinstance(term, torch.Tensor)}
    samples = sum(len(term.z) for term in rows.values())
    if model.at_once is None or samples <= model.at_once:
        losses, predicted = _whole(model, rows)
        torch.autograd.backward(scaler.scale(_total(losses | text)))
    else:
        losses, predicted = _in_parts(model, rows, text, scaler, model.at_once)
    return {name: loss.detach() for name, loss in (losses | text).items()}, predicted


def _total(losses: Tensors) -> torch.Tensor:
    first, *others = losses.values()
    for loss in others:
        first = first + loss
    return first


def _whole(model: DiffusionModel, rows: dict[str, Rows]) -> tuple[Tensors, Tensors]:
    """The losses of all rows from ONE UNet batch."""
    if not rows:
        return {}, {}
    parts = list(rows.values())
    eps = model.predict_noise(
        torch.cat([r.z for r in parts]),
        torch.cat([r.t for r in parts]),
        Conditioning.cat([r.cond for r in parts]),
    )
    losses, predicted = {}, {}
    for (name, term), own in zip(rows.items(), torch.split(eps, [len(r.z) for r in parts])):
        losses[name], predicted[name] = term.loss(own), own.detach()
    return losses, predicted


def _in_parts(
    model: DiffusionModel, rows: dict[str, Rows], text: Tensors, scaler: torch.amp.GradScaler, at_once: int
) -> tuple[Tensors, Tensors]:
    """The same, and the backward of everything: a part's activations are gone before the next begins."""
    losses: Tensors = {}
    predicted: Tensors = {}
    ends: list[torch.Tensor] = []
    gradients: list[torch.Tensor | None] = []
    for name, whole in rows.items():
        noise = []
        for part in whole.split(at_once):
            leaf = part.cond.leaf()
            eps = model.predict_noise(part.z, part.t, leaf)
            loss = part.loss(eps) * (len(part.z) / len(whole.z))
            torch.autograd.backward(scaler.scale(loss))
            losses[name] = losses[name] + loss.detach() if name in losses else loss.detach()
            noise.append(eps.detach())
            for own, copy in zip(part.cond.tensors(), leaf.tensors()):
                if own.requires_grad and copy.grad is not None:
                    ends.append(own)
                    gradients.append(copy.grad)
        predicted[name] = torch.cat(noise)
    if text:
        together = scaler.scale(_total(text))
        if together.requires_grad:
            ends.append(together)
            gradients.append(None)
    if ends:
        torch.autograd.backward(ends, gradients)
    return losses, predicted
