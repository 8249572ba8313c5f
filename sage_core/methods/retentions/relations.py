"""SAGE's global retention: how concepts relate to each other in the text encoder stays as it was.

No UNet pass.

    L_global = KL( softmax(S0 / temp) || softmax(S / temp) ),  S0 = T0(R) T0(R)^T,  S = T(R) T0(R)^T

over a batch R of many unrelated prompts (arXiv 2506.09363, our reconstruction). Rows are the tokens that the
UNet reads, not only the pooled vector; S is scaled by the mean squared norm of T0(R), so that lengths count
as well as angles.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from ...diffusion.text import Conditioning, Tokens
from ..base import Retention, RetentionPart
from ..context import Context


@dataclass(frozen=True)
class Relations(Retention):
    """weight: lambda_g; temperature: of both softmaxes; batch: prompts a step."""

    weight: float = 1.0
    temperature: float = 0.1
    batch: int = 48

    def prompts(self) -> int:
        return self.batch

    def start(self, context: Context) -> RelationsTerm:
        return RelationsTerm(self, context)


def token_rows(cond: Conditioning, tokens: Tokens, empty: torch.Tensor) -> torch.Tensor:
    """Hidden states of all real tokens (start and padding left out), less the empty prompt's; [rows,
    width].
    """
    position = torch.arange(cond.hidden.shape[1], device=cond.hidden.device)
    real = (position >= 1) & (position <= tokens.end[:, None])
    return cond.hidden[real].float() - empty


def relation_loss(trained: torch.Tensor, frozen: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of the frozen relations from the trained ones, mean over rows; both [rows, width]."""
    scale = temperature * frozen.square().sum(-1).mean()
    before, after = frozen @ frozen.T / scale, trained @ frozen.T / scale
    return torch.nn.functional.kl_div(
        after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="batchmean"
    )


@dataclass
class RelationsTerm(RetentionPart):
    config: Relations
    context: Context

    def __call__(self, rng: random.Random, generator: torch.Generator) -> torch.Tensor:
        """lambda_g L_global of a fresh batch of retained prompts."""
        text = self.context.model.text
        tokens = text.tokenize(
            [self.context.retained_prompt(rng) for _ in range(self.config.batch)], truncate=True
        ).trimmed()
        with torch.no_grad(), self.context.adapter.off():
            frozen = token_rows(text.encode_clip(tokens), tokens, self.context.empty_end)
        trained = token_rows(text.encode_clip(tokens), tokens, self.context.empty_end)
        return self.config.weight * relation_loss(trained, frozen, self.config.temperature)
