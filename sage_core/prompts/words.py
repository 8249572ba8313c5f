"""Which words the eraser keeps by itself: the model's other concepts, less whatever already means the erased
one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path

import torch

from ..diffusion.checkpointing import SWITCHES
from ..diffusion.model import DiffusionModel
from .compose import last_word
from .kinds import STYLE, guess

SMALL_WORDS = frozenset(
    {
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "by",
        "with",
        "and",
        "for",
        "like",
        "as",
        "from",
        "to",
        "style",
    }
)
TOO_LIKE = 0.8  # likeness above which a word counts as another name of the concept

STYLES = (
    "watercolor",
    "oil painting",
    "pencil sketch",
    "photograph",
    "comic book",
    "3d render",
    "pixel art",
    "ink drawing",
)


def other_styles(model: DiffusionModel, erased: list[str]) -> list[str]:
    """Styles that stay while another is erased: the same for every model."""
    return _unlike(erased, STYLES)


def all_styles(erased: list[str]) -> list[str]:
    """Those and the styles of the built-in word list, less what shares a word with the erased names."""
    return _unlike(erased, [*STYLES, *(word for word in built_in() if guess(word) == STYLE)])


def _unlike(erased: list[str], styles: Iterable[str]) -> list[str]:
    """The styles, each once, that share no word with the erased names."""
    taken = telling_words(erased)
    return [s for s in dict.fromkeys(styles) if not taken & set(s.lower().split())]


def telling_words(names: list[str]) -> set[str]:
    """The words of these names, without small ones: "in the style of" makes no two styles alike."""
    return {w for name in names for w in name.lower().split()} - SMALL_WORDS


def candidates(model: DiffusionModel) -> list[str]:
    """A general list of everyday things and styles, the same for every model."""
    return list(built_in())


@functools.cache
def built_in() -> tuple[str, ...]:
    """The words of that list."""
    lines = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


@torch.no_grad()
def retained_words(model: DiffusionModel, erased: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Candidates and the user's own words, without those that hold an erased word or lie within the concept's
    domain.
    """
    taken = telling_words(erased)
    words = [w for w in candidates(model) if not taken & set(w.lower().split())]
    kept = [w for w, value in zip(words, likeness_to(model, erased, words)) if value < TOO_LIKE]
    return list(dict.fromkeys([*wanted, *kept]))


@torch.no_grad()
def likeness_to(model: DiffusionModel, erased: list[str], words: list[str]) -> list[float]:
    """Of each word the cosine to the nearest erased name, in what the UNet reads of them; call it with every
    adapter off.

    Measured from the mean of all candidates: what every word shares is most of a state, and would make all of
    them alike.
    """
    if not model.text.open:  # a host's large encoder would be asked for hundreds of words: none is known
        return [0.0] * len(words)
    known = candidates(model)
    texts = list(dict.fromkeys([*known, *erased, *words]))  # most words are candidates: each is read once
    read = dict(zip(texts, _readings(model, texts)))
    middle = torch.stack([read[t] for t in known]).mean(0)
    own, others = (torch.stack([read[t] for t in some]) - middle for some in (erased, words))
    return torch.nn.functional.cosine_similarity(others[:, None], own[None], dim=-1).amax(1).tolist()


def _readings(model: DiffusionModel, texts: list[str]) -> torch.Tensor:
    """The states of each text's last word, one behind the other; [texts, 3 width]."""
    known = (
        {} if any(switch.enabled for switch in SWITCHES) else model.readings
    )  # under a LoRA words say something else
    new = [text for text in texts if text not in known]
    for i in range(0, len(new), 32):
        tokens = model.text.tokenize(new[i : i + 32], truncate=True)
        states = zip(model.text.encode_clip(tokens).hidden.float(), tokens.end.tolist())
        known |= dict(zip(new[i : i + 32], (torch.cat(last_word(h, e)) for h, e in states)))
    return torch.stack([known[text] for text in texts])
