"""What the attacks with real tokens share: which tokens they may take, and prompts made of them."""

from __future__ import annotations

import torch

from ...diffusion.model import DiffusionModel
from ...diffusion.text import Conditioning, TextStack, Tokens
from ...domain.candidates import tokenizer_words
from ...errors import SageError
from ...spec import ErasureSpec


def allowed(model: DiffusionModel, spec: ErasureSpec) -> list[int]:
    """Ids of the tokenizer's whole words, so that what is found can be typed; not the concept's own names.

    Raises SageError where the tokenizer has none.
    """
    text = model.text
    own = {number for name in spec.recipe(model.knowledge.styles).names for number in text.words(name)}
    ids = [number for number in tokenizer_words(text.tokenizer).values() if number not in own]
    if not ids:
        raise SageError("The model's tokenizer has no whole words, so no attack with words can be run.")
    return ids


def tables(text: TextStack, ids: list[int]) -> list[torch.Tensor]:
    """The embeddings of these tokens, [tokens, width] in float32, one tensor an encoder."""
    return [e.get_input_embeddings().weight.detach()[ids].float() for e in text.encoders]


def encode_first(text: TextStack, tokens: Tokens, first: list[torch.Tensor]) -> Conditioning:
    """A prompt (one row) whose first words have these embeddings, [words, width], one tensor an encoder;
    differentiable in them.
    """
    places = torch.arange(1, len(first[0]) + 1, device=first[0].device)
    rows = []
    for embedded, own in zip(text.embed(tokens), first):
        rows.append(embedded.index_put((torch.zeros_like(places), places), own))
    return text.encode(tokens, rows)


def as_text(text: TextStack, ids: list[int]) -> str:
    """Tokens as they would be typed."""
    return text.tokenizer.decode(ids).strip()


def check_length(text: TextStack, count: int, prompt: str) -> None:
    """Raise SageError where `count` tokens do not fit beside a prompt."""
    room = text.length - 2 - len(text.words(prompt))
    if count > room:
        raise SageError(
            f"An attack of {count} tokens does not fit beside {prompt!r}: there is room for {room}."
        )
