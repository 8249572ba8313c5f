"""Words that may mean the concept: the whole words of the model's own tokenizer and the built-in list.

No list of synonyms is asked. The text encoder shortlists them at the price of a few tokens a word; whether a
word means the concept is for the UNet to say (pull.py).
"""

from __future__ import annotations

import re
from typing import Any

import torch

from ..diffusion.checkpointing import SWITCHES
from ..diffusion.model import DiffusionModel
from ..diffusion.text import Tokens
from ..prompts.words import candidates, telling_words

WHOLE = re.compile(r"[a-z]{3,}</w>")  # a token of CLIP that ends a word, letters only
MOST_WORDS = 20_000  # of CLIP's 30,000; the rarest are handles and fragments
ENCODED_TOGETHER = 256
COMPARED_TOGETHER = 2048
PADDING = 16  # positions of it that are read; fewer say less than the end token in the small models


def tokenizer_words(tokenizer: Any) -> dict[str, int]:
    """Tokens that are a whole word of three letters or more, with their ids: the most frequent MOST_WORDS.

    CLIP's tokens are in the order in which they were merged, the most frequent first.
    """
    vocabulary = tokenizer.get_vocab()
    whole = [(number, token) for token, number in vocabulary.items() if WHOLE.fullmatch(token)]
    return {token.removesuffix("</w>"): number for number, token in sorted(whole)[:MOST_WORDS]}


def known_words(model: DiffusionModel) -> dict[str, list[int]]:
    """The built-in list and the tokenizer's words, each once, with their token ids."""
    known = {word: model.text.words(word) for word in candidates(model)}
    for word, number in tokenizer_words(model.text.tokenizer).items():
        known.setdefault(word, [number])
    return known


@torch.no_grad()
def word_states(
    model: DiffusionModel, sequences: list[list[int]], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """What CLIP says of texts, given as token ids, in two places; [2, texts, width] on the CPU.

    The end token, and the mean of the padding behind it, which is nearly everything that the UNet reads of a
    short prompt.
    """
    rows = []
    own = sum(encoder.config.hidden_size for encoder in model.text.encoders)  # wider states end in zeros
    for i in range(0, len(sequences), ENCODED_TOGETHER):
        tokens = model.text.assemble(sequences[i : i + ENCODED_TOGETHER])
        length = min(model.text.length, int(tokens.end.max()) + 1 + PADDING)
        cut = Tokens([ids[:, :length] for ids in tokens.ids], tokens.end)
        hidden = model.text.encode_clip(cut).hidden[..., :own].float()
        end = hidden[torch.arange(len(hidden)), tokens.end]
        behind = torch.arange(length, device=hidden.device)[None] > tokens.end[:, None]
        weights = behind / behind.sum(1, keepdim=True).clamp_min(1)
        rows.append(torch.stack([end, (hidden * weights[..., None]).sum(1)]).to("cpu", dtype))
    return torch.cat(rows, dim=1)


@torch.no_grad()
def shortlist(model: DiffusionModel, names: list[str], count: int) -> list[str]:
    """The `count` known words most like one of the names in what the text encoder says of them.

    Call it with every adapter off. The nearest by the padding and the nearest by the end token come in turn:
    in the small models the end token's state puts one synonym in six behind hundreds of other words, the
    padding's none; other encoders may have it the other way round. A word that shares a telling word with a
    name is left out: it is erased or kept with that name.
    """
    words, states = _states_of_known_words(model)
    like = _likeness(states, word_states(model, [model.text.words(name) for name in names]))
    by_end, by_padding = like.argsort(dim=1, descending=True).tolist()
    taken = telling_words(names)
    in_turn = dict.fromkeys(words[i] for pair in zip(by_padding, by_end) for i in pair)
    return [word for word in in_turn if not taken & set(word.split())][:count]


def _likeness(states: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """Of each word the cosine to the nearest name, measured from the mean of all words; [2, words].

    states [2, words, width], own [2, names, width]. In parts: as a whole, the words of a large encoder would
    take a gigabyte here.
    """
    middle = states.mean(1, keepdim=True, dtype=torch.float32)
    names = torch.nn.functional.normalize(own - middle, dim=-1).mT
    parts = states.split(COMPARED_TOGETHER, dim=1)
    return torch.cat([(torch.nn.functional.normalize(p - middle, dim=-1) @ names).amax(2) for p in parts], 1)


_latest: dict[str, tuple[list[str], torch.Tensor]] = {}  # by the model's fingerprint; one entry


def _states_of_known_words(model: DiffusionModel) -> tuple[list[str], torch.Tensor]:
    """Of the untouched text encoder; read once for all erasures of a model, since it can take minutes on a
    CPU.
    """
    if model.fingerprint in _latest:
        return _latest[model.fingerprint]
    known = known_words(model)
    words, states = list(known), word_states(model, list(known.values()), torch.float16)
    if model.fingerprint and not any(switch.enabled for switch in SWITCHES):
        _latest.clear()
        _latest[model.fingerprint] = words, states
    return words, states
