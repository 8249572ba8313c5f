"""Which text states a closed form edits, what they become, and which it keeps (see closed_form.py for the
equation).
"""

from __future__ import annotations

import torch

from ...diffusion.text import Section
from ...prompts.compose import last_word
from ...prompts.kinds import STYLE
from ...prompts.templates import OPEN, concept_templates, ends_with_thing, in_style, put
from ..context import Context
from .config import ClosedForm

STYLE_THINGS = 8  # on so many things a style is shown, in so many styles a thing
UNSEEN_NAMES = 4  # so many of the names the strength of an edit is read from
BATCH = 16  # prompts encoded at once
KEPT = 100  # so many retained words, the nearest

Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # (state of the concept, what it is to become), each [width]


def embeddings(context: Context, config: ClosedForm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """C and G [n, width], row for row, and R^T R [width, width], in float64; of bare words, and of words in
    some templates too.

    Of a thing's names: the last token's state, the end state, and the mean of the padding's, which the UNet
    reads as well; each is to become what the aim has there. Of a style, shown on a few things: the same and
    every token between, since the thing's own state knows of the style; each is to become what the prompt
    without the style has there.
    """
    edited, wanted = _pairs(context, config, context.names, _some_things(context), config.styled, plain=True)
    return edited, wanted, kept_moment(context, config)


def unseen(context: Context, config: ClosedForm) -> tuple[torch.Tensor, torch.Tensor]:
    """C and G [n, width] of the concept in prompts that `embeddings` has not (unless `styled`): a thing in
    some styles, a style on other things.
    """
    names, things = context.names[:UNSEEN_NAMES], _some_things(context, skip=1)
    return _pairs(context, config, names, things, styled=True, plain=False)


def in_styles(context: Context, name: str) -> list[str]:
    """Templates that show a thing in other styles, its name last."""
    styles = [s for s in context.other_styles if ends_with_thing(s)][:STYLE_THINGS]
    return [context.plain_template(name, s) for s in styles or ["new"]]


def unstyled(context: Context, name: str, count: int) -> list[str]:
    """Templates that show a thing or a person alone: the bare name, and `count` more.

    All have the name last, so that its token stands before the end.
    """
    ending = [t for t in concept_templates(name, context.kind) if t.endswith(OPEN)]
    return [OPEN, *ending[:count]]


def _pairs(
    context: Context, config: ClosedForm, names: list[str], things: list[str], styled: bool, plain: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """C and G [n, width] of the names: a style on things, a thing alone (`plain`) and in styles
    (`styled`).
    """
    aim = config.aim.strip()
    pairs: Pairs = []
    for name in names:
        if context.style:
            for thing in things:
                pairs += _style_pairs(context, name, thing, aim)
            continue
        shown = unstyled(context, name, config.templates) if plain else []
        for template in [*shown, *(in_styles(context, name) if styled else [])]:
            goal = put(template, context.becomes) if context.becomes else aim
            pairs += _thing_pairs(context, put(template, name), goal)
    rows, wanted = zip(*pairs)
    return torch.stack(rows), torch.stack(wanted)


def kept_moment(context: Context, config: ClosedForm) -> torch.Tensor:
    """R^T R of what is retained, [width, width]."""
    prompts = kept_prompts(context, config)
    moment = total = torch.zeros((), dtype=torch.double)
    for i in range(0, len(prompts), BATCH):
        tokens = context.model.text.tokenize(prompts[i : i + BATCH], truncate=True)
        with torch.no_grad(), context.adapter.off():
            states = _said(context, context.model.text.encode(tokens).hidden)
        if config.everywhere:
            rows = states.flatten(0, 1)
        else:
            read = []
            for hidden, prompt in zip(states, prompts[i : i + BATCH]):
                for section in context.model.text.sections:
                    read += last_word(section.of(hidden), section.end(prompt))
            rows = torch.stack(read)
        moment, total = moment + rows.T @ rows, total + states.sum(0)
    shared = config.shared / len(prompts) * total.T @ total
    return moment + shared


def kept_prompts(context: Context, config: ClosedForm, most: int = KEPT) -> list[str]:
    """Retained words, the `most` nearest, bare and in up to two templates; things in other styles, where
    styles are touched.
    """
    words = context.retained if len(context.retained) <= most else context.nearest(most)
    beside = (
        [context.plain(s, w) for s in context.other_styles for w in _some_things(context)]
        if context.style
        else []
    )
    prompts = []
    for i, word in enumerate([*words, *beside]):
        own = concept_templates(word, context.kind_of(word))
        prompts += [word, *(put(own[(i + j) % len(own)], word) for j in range(min(2, config.templates)))]
    if config.everywhere and context.other_styles:  # every word in two styles
        for i in range(2 * len(words)):
            prompts.append(_in_a_style(context, words[i // 2], i))
    return prompts


def _in_a_style(context: Context, word: str, turn: int) -> str:
    """A retained word in one of the other styles; one that is a style itself in a template of its own."""
    kind, style = context.kind_of(word), context.other_styles[turn % len(context.other_styles)]
    own = concept_templates(word, kind) if kind == STYLE else in_style(word, style, leave="style", kind=kind)
    return put(own[turn % len(own)], word if kind == STYLE else style)


def _some_things(context: Context, skip: int = 0) -> list[str]:
    """A few of the things from all over the list, `skip` things later."""
    return context.things[skip :: max(1, len(context.things) // STYLE_THINGS)][:STYLE_THINGS]


def _thing_pairs(context: Context, prompt: str, aim: str) -> Pairs:
    """Of a prompt that ends with the name: its last token, the end and the padding become what the aim has
    there.
    """
    pairs: Pairs = []
    for section in context.model.text.sections:
        own, goal = (section.of(_states(context, text)) for text in (prompt, aim))
        end = section.end(prompt)
        pairs += zip(last_word(own, end), last_word(goal, end))
    return pairs


def _style_pairs(context: Context, name: str, thing: str, aim: str) -> Pairs:
    """Of a thing in the style: the style's last token and all tokens behind it become what the prompt without
    the style has in their place, counted from the end."""
    without = aim or context.aim(thing, name)
    pairs: Pairs = []
    for section in context.model.text.sections:
        pairs += _in_section(context, section, name, thing, without)
    return pairs


def _in_section(context: Context, section: Section, name: str, thing: str, without: str) -> Pairs:
    own, goal = (section.of(_states(context, text)) for text in (context.plain(name, thing), without))
    last, end = _place(context, section, name, thing)
    shift = end - section.end(without)
    pairs = [(own[p], goal[max(0, p - shift)]) for p in range(last, end + 1)]
    return [*pairs, (own[end + 1 :].mean(0), goal[end + 1 + max(0, -shift) :].mean(0))]


def _states(context: Context, prompt: str) -> torch.Tensor:
    return _said(context, context.frozen(prompt).hidden[0])


def _said(context: Context, hidden: torch.Tensor) -> torch.Tensor:
    """States without the zeros behind what the encoders say, which no equation needs; float64."""
    return hidden[..., : context.model.text.width].cpu().double()


def _place(context: Context, section: Section, name: str, thing: str) -> tuple[int, int]:
    """Positions in the section of the name's last token and of the end token in its plain prompt."""
    before = section.words(context.plain_template(name, thing).split(OPEN, 1)[0].strip())
    last = section.first + len(before) + len(section.words(name)) - 1
    return last, section.end(context.plain(name, thing))
