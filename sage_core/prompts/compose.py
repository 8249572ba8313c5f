"""Concept prompts taken apart: template tokens, which a search may move, and concept tokens, which it may
not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from ..diffusion.text import Conditioning, TextStack, Tokens


@dataclass
class ConceptPrompts:
    """Prompts as tokens.

    `template` [batch, 77]: True on the words around the concept; `read` [batch, n]: positions that carry its
    meaning (the concept's tokens and the end token), the same number in every prompt.
    """

    tokens: Tokens
    template: torch.Tensor
    read: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens)


def compose(text: TextStack, concept: str, templates: list[str]) -> ConceptPrompts:
    """`concept` put into each template (`{}` marks its place; the bare "{}" is the concept alone)."""
    name = text.words(concept)
    rows, marks, reads = [], [], []
    for template in templates:
        before, after = (text.words(part.strip()) if part.strip() else [] for part in template.split("{}", 1))
        rows.append([*before, *name, *after])
        start, end = 1 + len(before), 1 + len(before) + len(name)
        marks.append([*range(1, start), *range(end, end + len(after))])
        reads.append([*range(start, end), end + len(after)])
    tokens = text.assemble(rows)
    template = torch.zeros(len(rows), text.length, dtype=torch.bool)
    for row, places in zip(template, marks):
        row[places] = True
    return ConceptPrompts(
        tokens, template.to(tokens.end.device), torch.tensor(reads, device=tokens.end.device)
    )


def own_vectors(text: TextStack, word: str, count: int) -> list[torch.Tensor]:
    """The embeddings of a word's tokens, repeated to `count`: [count, width], one tensor an encoder."""
    tokens = len(text.words(word))
    places = list(itertools.islice(itertools.cycle(range(1, tokens + 1)), count))
    return [embedded[0, places].clone() for embedded in text.embed(text.tokenize([word]))]


def random_vectors(text: TextStack, count: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Random embeddings at the scale of each encoder's table: [count, width], one tensor an encoder."""
    drawn = []
    for own, scale in zip(own_vectors(text, "a", count), text.scales):
        drawn.append((torch.randn(own.shape, generator=generator) * scale).to(own.device))
    return drawn


def compose_vectors(text: TextStack, count: int, template: str, name: str) -> ConceptPrompts:
    """One prompt with places for `count` free embeddings where the concept is; `encode_vectors` fills
    them. T5, whose embeddings are not searched, reads the name.
    """
    prompts = compose(text, " ".join(["thing"] * count), [template])
    prompts.tokens.texts = [template.replace("{}", name, 1)]
    return prompts


def encode_vectors(text: TextStack, prompts: ConceptPrompts, vectors: list[torch.Tensor]) -> Conditioning:
    """T of such a prompt with [count, width] embeddings in those places, one tensor an encoder;
    differentiable.
    """
    places = prompts.read[0, :-1]
    rows = [
        base.index_put((torch.zeros_like(places), places), v)
        for base, v in zip(text.embed(prompts.tokens), vectors)
    ]
    return text.encode(prompts.tokens, rows)


def meaning(hidden: torch.Tensor, read: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Hidden states at the positions that carry the meaning, less the empty prompt's end state; [batch, n,
    width].
    """
    picked = hidden.gather(1, read.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
    return picked.float() - empty


def likeness(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean cosine over positions of two meanings [batch, n, width]; [batch]."""
    return torch.nn.functional.cosine_similarity(a, b, dim=-1).mean(-1)


def last_word(hidden: torch.Tensor, end: int) -> list[torch.Tensor]:
    """What the UNet reads of a prompt's last word: its token's state, the end state, and the mean of the
    padding's; of hidden [77, width].
    """
    return [hidden[end - 1], hidden[end], hidden[end + 1 :].mean(0) if end + 1 < len(hidden) else hidden[end]]
