"""Prompts that show what an erasure did: the concept, other words for it, close words, and other things."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch

from ..prompts.kinds import PERSON, STYLE, THING, guess
from ..prompts.templates import SHOWN_ON, fill, picture_of, plainest_in_style, without_style
from ..prompts.words import candidates, other_styles, telling_words

if TYPE_CHECKING:
    from ..diffusion.model import DiffusionModel
    from ..spec import ErasureSpec

THING_LOOKS = (
    "a photo of {a_thing}",
    "a painting of {a_thing}",
    "a drawing of {a_thing}",
    "a picture of {a_thing}",
)
PERSON_LOOKS = ("a photo of {thing}", "a portrait of {thing}", "a painting of {thing}", "{thing} smiling")


def comparison_prompts(model: DiffusionModel, spec: ErasureSpec, count: int = 8) -> list[str]:
    """`count` different prompts in this order: the concept, other words for it, close words, other things.

    The groups are equally large if each has enough words. Fewer than `count` prompts come back only if all
    words are used up. The same spec and model give the same prompts, trained or not, with any LoRAs.
    """
    kind = spec.kind_of(model.knowledge.styles)
    groups = _of_style(model, spec) if kind == STYLE else _of_thing(model, spec, kind)
    taken: list[list[str]] = [[] for _ in groups]
    used: set[str] = set()
    for turn in range(count):
        for group, chosen in zip(groups, taken):
            if turn < len(group) and group[turn] not in used and len(used) < count:
                chosen.append(group[turn])
                used.add(group[turn])
    return [prompt for chosen in taken for prompt in chosen]


def _of_thing(model: DiffusionModel, spec: ErasureSpec, kind: str) -> list[list[str]]:
    """The four groups for a thing or a person."""
    synonyms, (close, others) = _synonyms(model, spec), _words(model, spec)
    looks = model.knowledge.styles or (PERSON_LOOKS if kind == PERSON else THING_LOOKS)
    own = [_look(model, spec.concept, kind, i) for i in range(len(looks))]
    return [
        own,
        [_look(model, word, kind, i + 1) for i, word in enumerate(synonyms)],
        *(
            [_look(model, word, _kind(model, word), i) for i, word in enumerate(words)]
            for words in (close, others)
        ),
    ]


def _of_style(model: DiffusionModel, spec: ErasureSpec) -> list[list[str]]:
    """The four groups for a style: it, other words for it, other styles, and things without a style."""
    names = [spec.concept, *spec.synonyms]
    asked = [word for word in spec.retain if _kind(model, word) == STYLE]
    beside = list(dict.fromkeys([*asked, *_nearest(model, spec.concept, other_styles(model, names))]))

    def shown(styles: list[str]) -> list[str]:
        return [plainest_in_style(thing, style) for style, thing in zip(styles, itertools.cycle(SHOWN_ON))]

    own = shown([spec.concept] * len(SHOWN_ON))
    plain = [without_style(thing, spec.concept) for thing in SHOWN_ON]
    return [own, shown(_synonyms(model, spec)), shown(beside), plain]


def _look(model: DiffusionModel, word: str, kind: str, turn: int) -> str:
    """One of the ways to draw a word, in turn: in the model's known styles, or in general ones."""
    styles = model.knowledge.styles
    if kind == STYLE:
        return picture_of(word, kind, SHOWN_ON[turn % len(SHOWN_ON)])
    if styles:
        return plainest_in_style(word, styles[turn % len(styles)], kind=kind)
    looks = PERSON_LOOKS if kind == PERSON else THING_LOOKS
    return fill(looks[turn % len(looks)], word, kind=kind)


def _kind(model: DiffusionModel, word: str) -> str:
    return guess(word, model.knowledge.styles)


def _synonyms(model: DiffusionModel, spec: ErasureSpec) -> list[str]:
    """Known words that the erasure was not given come first, since they say more; then the given ones."""
    return list(
        dict.fromkeys(
            w for w in (*model.knowledge.synonyms(spec.concept), *spec.synonyms) if w != spec.concept
        )
    )


def _words(model: DiffusionModel, spec: ErasureSpec, close: int = 8) -> tuple[list[str], list[str]]:
    """Close words, the user's own and then the nearest, and other things from all over the list."""
    taken = telling_words([spec.concept, *spec.synonyms])
    known = [w for w in candidates(model) if _kind(model, w) == THING and not taken & set(w.lower().split())]
    ranked = _nearest(model, spec.concept, known)
    near = list(dict.fromkeys([*spec.retain, *ranked[:close]]))
    far = [w for w in known if w in set(ranked[len(ranked) // 2 :]) and w not in near]
    step = max(1, len(far) // close)
    return near, far[step // 2 :: step]


@torch.no_grad()
def _nearest(model: DiffusionModel, concept: str, words: list[str]) -> list[str]:
    """The words by their likeness to the concept, by token embeddings: that takes no pass of an encoder."""
    if not words or not model.text.open:  # what is alike is not known: they stay in the list's order
        return words
    table = torch.stack([_embedding(model, word) for word in words])
    own = _embedding(model, concept) - table.mean(0)
    like = torch.cosine_similarity(table - table.mean(0), own[None]).tolist()
    return [words[i] for i in sorted(range(len(words)), key=lambda i: -like[i])]


def _embedding(model: DiffusionModel, text: str) -> torch.Tensor:
    """Mean token embedding of a text, the encoders' one behind the other; [sum of widths]."""
    ids = torch.tensor(model.text.words(text), dtype=torch.long)
    rows = [
        e.get_input_embeddings().weight[ids.to(model.text.device)].float().mean(0)
        for e in model.text.encoders
    ]
    return torch.cat([torch.nn.functional.normalize(row, dim=0) for row in rows]).cpu()
