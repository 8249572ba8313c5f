"""Erasing in closed form, in seconds and without a UNet pass:

UCE (arXiv 2308.14761) and RECE (arXiv 2407.12383).

Cross-attention reads the prompt through K and V alone. UCE changes each of those matrices W so that the
concept's embeddings c give what the aim's embeddings g gave, while retained embeddings r give what they gave:

    W* = (l W + s sum (W g) c^T + p sum (W r) r^T) (l I + s sum c c^T + p sum r r^T)^-1

With M the matrix that is inverted, W* - W = s sum (W g - W c) c^T M^-1: its rank is at most the number of
edited embeddings, so it IS a LoRA, down = C M^-1 and up = s W (G - C)^T, without any loss.

Such an edit listens for c and answers with W (g - c). Whoever is free to choose the embedding finds one that
it does not hear, or one that it hears as the opposite of c, so that the edit itself draws the concept; what
that means is measured in docs/tuning.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .rows import embeddings, unseen

LAYERS = ("attn2_to_k", "attn2_to_v")
VALUES = ("attn2_to_v",)
STRONGEST = 20.0  # an edit is scaled by no more, whatever it would have to reach


@dataclass(frozen=True)
class ClosedForm:
    """keep_own l, erase s, retain p: as in the equation; aim: the prompt that the concept becomes; ridge:

    RECE's l in the search for embeddings that still mean the concept. One round is UCE; every further one is
    RECE's. rounds: how many, whatever the steps. templates: put the concept and the retained words into so
    many templates too; eta: aim beyond the aim, away from the concept; everywhere: retain every state of the
    retained prompts and of other styles, padding included, instead of the last word's alone: what an edit
    changes there is little, but adds up over several; shared: retain the mean state at every position, which
    all prompts share and every edit would push the same way, as if there were so many times more of them;
    reach: make the edit so strong that it takes this share of the concept's pull away in prompts that it was
    not fitted on, or, if `styled`, in other styles (0: as strong as it comes). The larger l is, the more
    directions around the concept an edit takes along, and the weaker it is, differently for every concept;
    with a reach all are erased alike. style_reach: the same of a style, whose aim, the thing without it, is
    near. keep_rank: bring the edit down to the adapter's own rank (the nearest such matrix), to train on from
    there. styled: edit a thing's names in the other styles too. layers: the ends of the names of the matrices
    that are edited (docs/tuning.md compares V alone with both).
    """

    keep_own: float = 0.5
    erase: float = 1.0
    retain: float = 1.0
    aim: str = " "
    ridge: float = 0.5
    rounds: int | None = None
    templates: int = 0
    eta: float = 0.0
    everywhere: bool = False
    shared: float = 0.0
    reach: float = 0.0
    style_reach: float = 0.0
    keep_rank: bool = False
    styled: bool = False
    layers: tuple[str, ...] = LAYERS

    def __call__(self, context, steps: int) -> list[dict[str, float]]:
        """Edit the context's adapter in place, `steps` rounds; one dict a round, with the share of the
        concept's pull that was left before it.
        """
        concept, aim, kept = embeddings(context, self)
        aim = aim - self.eta * (concept - aim)
        edit = Edit(
            self,
            {name: layer for name, layer in context.adapter.layers.items() if name.endswith(self.layers)},
            kept,
        )
        losses = []
        edited = concept
        for turn in range(self.rounds or steps):
            if turn:
                edited = edit.still_means(concept, self.ridge)
            losses.append({"erase": edit.pull(concept, aim)})
            edit.add(edited, aim)
        if reach := self.style_reach if context.style else self.reach:
            removed = edit.removed(*unseen(context, self))
            edit.scale(min(STRONGEST, reach / removed) if removed > 0 else 1.0)
        edit.write(context.adapter, self.keep_rank)
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
        """W, [out, width]."""
        return self.layers[name].weight.detach().cpu().double()

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
        return torch.linalg.solve(left, right @ concept.T).T

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
    def write(self, adapter, keep_rank: bool = False) -> None:
        """Put the factors into the adapter's layers, unscaled (alpha = rank); a rank beyond the matrix's own
        is brought back to it.

        keep_rank: into an adapter that is trained on, whose own tensors are filled with the nearest matrices
        of that rank.
        """
        for name, layer in self.layers.items():
            down, up = self.down[name], self.up[name]
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
