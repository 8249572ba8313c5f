"""The gradients of a step, from one UNet batch or from several smaller ones: the same gradients, at the
memory of the largest.

Only the UNet's activations are held a part at a time. The text encoder runs once: every part leaves its
gradient at the conditioning, and one backward takes it on from there.
"""

from __future__ import annotations

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..methods.states import Rows

Terms = dict[str, Rows | torch.Tensor]  # samples for the UNet, or losses in text space


def descend(
    model: DiffusionModel, terms: Terms, scale: float = 1.0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Add `scale` times the gradient of the terms' sum to every parameter's `.grad`.

    Returns each term's loss, and the noise predicted for its rows [n, 4, h, w], both detached. More than
    `model.at_once` samples (None: any number) go through the UNet in parts.
    """
    rows = {k: v for k, v in terms.items() if isinstance(v, Rows)}
    text = {k: v for k, v in terms.items() if k not in rows}
    if model.at_once is None or sum(len(r.z) for r in rows.values()) <= model.at_once:
        losses, predicted = _whole(model, rows)
        (scale * sum((losses | text).values())).backward()
    else:
        losses, predicted = _in_parts(model, rows, scale * sum(text.values()), scale)
    return {k: v.detach() for k, v in (losses | text).items()}, predicted


def _whole(
    model: DiffusionModel, rows: dict[str, Rows]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The losses of all rows from ONE UNet batch."""
    if not rows:
        return {}, {}
    parts = list(rows.values())
    eps = model.predict_noise(
        torch.cat([r.z for r in parts]),
        torch.cat([r.t for r in parts]),
        Conditioning.cat([r.cond for r in parts]),
    )
    predicted = dict(zip(rows, eps.split([len(r.z) for r in parts])))
    return {k: rows[k].loss(own) for k, own in predicted.items()}, {
        k: own.detach() for k, own in predicted.items()
    }


def _in_parts(
    model: DiffusionModel, rows: dict[str, Rows], text: torch.Tensor | float, scale: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The same, and the backward of everything: a part's activations are gone before the next begins."""
    losses, predicted, leaves = {}, {}, []
    for name, whole in rows.items():
        losses[name], predicted[name] = 0.0, []
        for part in whole.split(model.at_once):
            leaf = part.cond.leaf()
            eps = model.predict_noise(part.z, part.t, leaf)
            loss = part.loss(eps) * (len(part.z) / len(whole.z))
            (scale * loss).backward()
            losses[name], leaves = losses[name] + loss.detach(), [*leaves, (part.cond, leaf)]
            predicted[name].append(eps.detach())
    ends = [
        (own, leaf.grad)
        for cond, copy in leaves
        for own, leaf in zip(cond.tensors(), copy.tensors())
        if own.requires_grad and leaf.grad is not None
    ]
    ends += [(text, None)] if isinstance(text, torch.Tensor) and text.requires_grad else []
    if ends:
        torch.autograd.backward(*map(list, zip(*ends)))
    return losses, {k: torch.cat(v) for k, v in predicted.items()}
