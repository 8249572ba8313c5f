"""Erasing in closed form, in seconds and without a UNet pass: UCE (arXiv 2308.14761), RECE (arXiv
2407.12383).

Cross-attention reads the prompt through K and V alone. UCE changes each of those matrices W so that the
concept's embeddings c give what the aim's embeddings g gave, while retained embeddings r give what they gave:

    W* = (l W + s sum (W g) c^T + p sum (W r) r^T) (l I + s sum c c^T + p sum r r^T)^-1

With M the matrix that is inverted, W* - W = s sum (W g - W c) c^T M^-1: its rank is at most the number of
edited embeddings, so it IS a LoRA, down = C M^-1 and up = s W (G - C)^T, without any loss.

Such an edit listens for c and answers with W (g - c). Whoever is free to choose the embedding finds one that
it does not hear, or one that it hears as the opposite of c, so that the edit itself draws the concept; what
that means is measured in docs/lab/tuning.md.
"""

from __future__ import annotations

import torch

from ...lora.adapter import Adapter
from ..context import Context
from .config import ClosedForm
from .rows import embeddings, unseen

STRONGEST = 20.0  # an edit is scaled by no more, whatever it would have to reach


def solve(config: ClosedForm, context: Context, steps: int) -> list[dict[str, float]]:
    """Edit the context's adapter in place, in `config.rounds` rounds or else `steps`.

    Returns one dict a round: the share of the concept's pull that was left before it.
    """
    concept, aim, kept = embeddings(context, config)
    endings = config.endings(context.model.family)
    chosen = {name: layer for name, layer in context.adapter.layers.items() if name.endswith(endings)}
    edit = Edit(config, chosen, kept)
    losses, edited = [], concept
    for turn in range(config.rounds or steps):
        if turn:
            edited = edit.still_means(concept, config.ridge)
        losses.append({"erase": edit.pull(concept, aim)})
        edit.add(edited, aim)
    reach = config.style_reach if context.style else config.reach
    if reach:
        removed = edit.removed(*unseen(context, config))
        edit.scale(min(STRONGEST, reach / removed) if removed > 0 else 1.0)
    edit.write(context.adapter, config.keep_rank)
    return losses


class Edit:
    """The change of every matrix so far, as factors: W + up @ down, [out, n] and [n, width].

    Solved on the CPU in float64, one matrix after the other, since not every device has that type and a large
    model's matrices would fill the memory.
    """

    def __init__(self, config: ClosedForm, layers: dict[str, torch.nn.Linear], kept: torch.Tensor):  # R^T R
        self.config, self.layers, self.kept = config, layers, kept
        self.down = {name: kept.new_zeros(0, len(kept)) for name in layers}
        self.up = {name: kept.new_zeros(layer.out_features, 0) for name, layer in layers.items()}

    def original(self, name: str) -> torch.Tensor:
        """W, [out, width], without the columns that only ever read zeros."""
        return self.layers[name].weight.detach()[:, : len(self.kept)].cpu().double()

    def add(self, concept: torch.Tensor, aim: torch.Tensor) -> None:
        """UCE's edit on top of what is there; `aim` is read by the ORIGINAL matrices."""
        down = torch.linalg.solve(self.moment(concept), concept.T).T  # C M^-1, since M is symmetric
        for name in self.layers:
            own = self.original(name)
            self.up[name] = torch.cat(
                [self.up[name], self.config.erase * (own @ aim.T - self.read(name, own, concept))], dim=1
            )
            self.down[name] = torch.cat([self.down[name], down])

    def moment(self, concept: torch.Tensor) -> torch.Tensor:
        """M = l I + s C^T C + p R^T R."""
        c = self.config
        return (
            c.keep_own * torch.eye(concept.shape[1], dtype=concept.dtype)
            + c.erase * concept.T @ concept
            + c.retain * self.kept
        )

    def read(self, name: str, own: torch.Tensor, concept: torch.Tensor) -> torch.Tensor:
        """What the matrix, as edited so far, makes of embeddings; [out, n]."""
        return own @ concept.T + self.up[name] @ (self.down[name] @ concept.T)

    def still_means(self, concept: torch.Tensor, ridge: float) -> torch.Tensor:
        """RECE: the embeddings that the edited matrices read as the original ones read the concept; [n,
        width].

        c' = (l I + sum Wn^T Wn)^-1 (sum Wn^T Wo) c over all K and V.
        """
        left = ridge * torch.eye(concept.shape[1], dtype=concept.dtype)
        right = torch.zeros_like(left)
        for name in self.layers:
            own = self.original(name)
            new = own + self.up[name] @ self.down[name]
            left, right = left + new.T @ new, right + new.T @ own
        solution: torch.Tensor = torch.linalg.solve(left, right @ concept.T)
        return solution.T

    def pull(self, concept: torch.Tensor, aim: torch.Tensor) -> float:
        """How far K and V still read the concept away from its aim, relative to the original; 1 before the
        first edit.
        """
        now = before = 0.0
        for name in self.layers:
            own = self.original(name)
            now += float((self.read(name, own, concept) - own @ aim.T).square().sum())
            before += float((own @ (concept - aim).T).square().sum())
        return now / max(before, 1e-30)

    def removed(self, concept: torch.Tensor, aim: torch.Tensor) -> float:
        """Which share of the way from the concept to its aim K and V go with the edit, over all embeddings; 1
        is the whole way.
        """
        gone = whole = 0.0
        for name in self.layers:
            way = self.original(name) @ (aim - concept).T
            gone += float((self.up[name] @ (self.down[name] @ concept.T) * way).sum())
            whole += float(way.square().sum())
        return gone / max(whole, 1e-30)

    def scale(self, factor: float) -> None:
        self.up = {name: factor * up for name, up in self.up.items()}

    @torch.no_grad()
    def write(self, adapter: Adapter, keep_rank: bool = False) -> None:
        """Put the factors into the adapter's layers, unscaled (alpha = rank); a rank beyond the matrix's own
        is brought back to it.

        keep_rank: into an adapter that is trained on, whose own tensors are filled with the nearest matrices
        of that rank.
        """
        for name, layer in self.layers.items():
            down, up = self.down[name], self.up[name]
            down = torch.nn.functional.pad(down, (0, layer.in_features - down.shape[1]))
            if keep_rank or len(down) > min(layer.weight.shape):
                down, up = thin_factors(down, up)
            if keep_rank:
                rank = len(adapter.down[name])
                adapter.down[name].zero_()[: len(down)].copy_(down[:rank])
                adapter.up[name].zero_()[:, : len(down)].copy_(up[:, :rank] * rank / adapter.alpha[name])
            else:
                device = adapter.down[name].device
                adapter.down[name], adapter.up[name] = (x.float().contiguous().to(device) for x in (down, up))
                adapter.alpha[name] = float(len(down))


def thin_factors(down: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same product from its singular vectors, largest first, both factors of like size; QR first, so that
    no full matrix is made.
    """
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    u, s, v = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return s.sqrt()[:, None] * (v @ q_down.T), (q_up @ u) * s.sqrt()
