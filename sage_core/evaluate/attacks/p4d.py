"""P4D (Chin et al., arXiv 2309.06135): a whole prompt of real tokens that makes the erased model predict what
the untouched one predicts for the concept,

    min over P of  E || eps_erased(z_t, T(P), t) - eps_0(z_t, T(concept), t) ||^2

The embeddings that are learnt are continuous. Each is replaced by its nearest token before it is encoded, and
the gradient there moves the continuous one (Wen et al., arXiv 2302.03668). This is P4D-N: all N tokens are
free, and the concept's own names are not among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import normalize

from ...diffusion.checkpointing import untouched
from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning
from ...spec import ErasureSpec
from .base import (
    Attempt,
    Noised,
    OnEvent,
    attack_images,
    concept_prompt,
    denoising_loss,
    fixed_noised,
    marked,
)
from .words import allowed, as_text, check_length, encode_first, tables


@dataclass(frozen=True)
class P4D:
    """steps: gradient steps, the budget; marks: fewer of them at which pictures are drawn too. tokens: N.
    batch: noised pictures that the loss is taken over, the same in every step. rate: of AdamW, in units of
    the embedding table's root mean square. restarts: searches from different random tokens.
    """

    name: str = "p4d"
    steps: int = 60
    tokens: int = 6
    batch: int = 8
    rate: float = 0.2
    restarts: int = 2
    latents: int = 16
    marks: tuple[int, ...] = (20,)
    title: ClassVar[str] = "P4D, a prompt of free tokens"
    paper: ClassVar[str] = "P4D, Chin et al., arXiv 2309.06135"
    unit: ClassVar[str] = "steps"
    telling: ClassVar[bool] = True

    @property
    def budgets(self) -> tuple[int, ...]:
        return marked(self.marks, self.steps)

    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """Pictures of the best tokens at every budget; `loss`: theirs."""
        check_length(model.text, self.tokens, "")
        ids = allowed(model, spec)
        for restart in range(self.restarts):
            on_event(f"{self.title}: {self.tokens} tokens, {self.steps} steps, start {restart + 1}")
            generator = torch.Generator().manual_seed(1000 * seed + restart)
            states = fixed_noised(model, latents[: self.latents], self.batch, generator)
            with torch.no_grad(), untouched():
                concept = model.encode([concept_prompt(model, spec)])
                wanted = model.predict_noise(states.z, states.t, Conditioning.cat([concept] * self.batch))
            for step, best, loss in self._search(model, ids, states, wanted, generator):
                if step in self.budgets:
                    with torch.no_grad():
                        cond = model.text.encode(model.text.assemble([best]))
                    found = as_text(model.text, best)
                    pictures = attack_images(model, cond, images, seed)
                    yield Attempt(step, pictures, f"random {restart + 1}", loss, found)

    def _search(
        self, model, ids: list[int], states: Noised, wanted: torch.Tensor, generator
    ) -> Iterator[tuple[int, list[int], float]]:
        """(step, the best tokens so far, their loss) after every step."""
        table = tables(model.text, ids)
        start = torch.randint(len(ids), (self.tokens,), generator=generator).to(model.device)
        free = [t[start].clone().requires_grad_(True) for t in table]
        groups = [{"params": [v], "lr": self.rate * s} for v, s in zip(free, model.text.scales)]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        best, lowest = [ids[i] for i in start.tolist()], float("inf")
        for step in range(1, self.steps + 1):
            chosen = nearest(free, table)
            real = [t[chosen].clone().requires_grad_(True) for t in table]
            words = [ids[i] for i in chosen.tolist()]
            with torch.enable_grad():
                loss = denoising_loss(model, states, self._encoded(model, words, real), wanted)
                gradients = torch.autograd.grad(loss, real)
            if loss.item() < lowest:
                best, lowest = words, loss.item()
            for v, g in zip(free, gradients):
                v.grad = g
            optimizer.step()
            yield step, best, lowest

    def _encoded(self, model, words: list[int], real: list[torch.Tensor]) -> Conditioning:
        """A prompt of these tokens, differentiable in their embeddings `real`."""
        return encode_first(model.text, model.text.assemble([words]), real)


@torch.no_grad()
def nearest(free: list[torch.Tensor], table: list[torch.Tensor]) -> torch.Tensor:
    """Of each embedding [n, width] (one tensor an encoder) the token most like it, by cosine over all
    encoders; places in the table, [n].
    """
    like = sum(normalize(v, dim=-1) @ normalize(t, dim=-1).T for v, t in zip(free, table))
    return torch.as_tensor(like).argmax(1)
