"""Words that may mean the concept: the whole words of the model's own tokenizer and the built-in list.

No list of synonyms is asked. The text encoder shortlists them at the price of a few tokens a word; whether a
word means the concept is for the UNet to say (pull.py).
"""

from __future__ import annotations

import re
from typing import Any

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Tokens
from ..prompts.words import candidates, telling_words

WHOLE = re.compile(r"[a-z]{3,}</w>")  # a token of CLIP that ends a word, letters only
ENCODED_TOGETHER = 256
PADDING = 16  # positions of it that are read; fewer say less than the end token in the small models


def tokenizer_words(tokenizer: Any) -> list[str]:
    """Every token that is a whole word of three letters or more, in the tokenizer's order."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    return [token.removesuffix("</w>") for token in tokens if WHOLE.fullmatch(token)]


def known_words(model: DiffusionModel) -> list[str]:
    """The built-in list and the tokenizer's words, each once."""
    return list(dict.fromkeys([*candidates(model), *tokenizer_words(model.text.tokenizer)]))


@torch.no_grad()
def word_states(model: DiffusionModel, texts: list[str]) -> torch.Tensor:
    """What the text encoder says of each text in two places: its end token, and the mean of the padding
    behind it, which is nearly everything that the UNet reads of a short prompt; [2, texts, width] on the CPU.
    """
    rows = []
    for i in range(0, len(texts), ENCODED_TOGETHER):
        tokens = model.text.tokenize(texts[i : i + ENCODED_TOGETHER], truncate=True)
        length = min(model.text.length, int(tokens.end.max()) + 1 + PADDING)
        cut = Tokens([ids[:, :length] for ids in tokens.ids], tokens.end)
        hidden = model.text.encode(cut).hidden.float()
        end = hidden[torch.arange(len(hidden)), tokens.end]
        behind = torch.arange(length, device=hidden.device)[None] > tokens.end[:, None]
        weights = behind / behind.sum(1, keepdim=True).clamp_min(1)
        rows.append(torch.stack([end, (hidden * weights[..., None]).sum(1)]).cpu())
    return torch.cat(rows, dim=1)


@torch.no_grad()
def shortlist(model: DiffusionModel, names: list[str], count: int) -> list[str]:
    """The `count` known words most like one of the names in what the text encoder says of them.

    Call it with every adapter off. The nearest by the padding and the nearest by the end token come in turn:
    in the small models the end token's state puts one synonym in six behind hundreds of other words, the
    padding's none; other encoders may have it the other way round. A word that shares a telling word with a
    name is left out: it is erased or kept with that name.
    """
    if model.word_states is None:
        words = known_words(model)
        model.word_states = words, word_states(model, words)
    words, states = model.word_states
    middle = states.mean(1, keepdim=True)
    own = word_states(model, names) - middle
    like = torch.nn.functional.cosine_similarity((states - middle)[:, :, None], own[:, None], dim=-1).amax(2)
    by_end, by_padding = like.argsort(dim=1, descending=True).tolist()
    taken = telling_words(names)
    in_turn = dict.fromkeys(words[i] for pair in zip(by_padding, by_end) for i in pair)
    return [word for word in in_turn if not taken & set(word.split())][:count]
