"""Which text states a closed form edits, what they become, and which it keeps (see closed_form.py for the equation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .domain.prompts import TEMPLATES, is_phrase, last_word, style_templates

if TYPE_CHECKING:
    from .closed_form import ClosedForm

STYLE_THINGS = 8  # on so many things a style is shown, in so many styles a thing
UNSEEN_NAMES = 4  # so many of the names the strength of an edit is read from
BATCH = 16  # prompts encoded at once
KEPT = 100  # so many retained words, the nearest

Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # (state of the concept, what it is to become), each [width]


def embeddings(context, config: ClosedForm) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """C and G [n, width], row for row, and R^T R [width, width], in float64; of bare words, and of words in some templates too.

    Of a thing's names: the last token's state, the end state, and the mean of the padding's, which the UNet reads as well; each is
    to become what the aim has there. Of a style, shown on a few things: the same and every token between, since the thing's own
    state knows of the style; each is to become what the prompt without the style has there.
    """
    ending = [t for t in TEMPLATES if t.endswith("{}")]  # where the name comes last, its token stands before the end
    prompts = ["{}", *ending[: config.templates], *(in_styles(context) if config.styled else [])]
    return *_pairs(context, config, context.names, _some_things(context), prompts), kept_moment(context, config)


def unseen(context, config: ClosedForm) -> tuple[torch.Tensor, torch.Tensor]:
    """C and G [n, width] of the concept in prompts that `embeddings` has not (unless `styled`): a thing in some styles, a style on other things."""
    return _pairs(context, config, context.names[:UNSEEN_NAMES], _some_things(context, skip=1), in_styles(context))


def in_styles(context) -> list[str]:
    """Templates that show a thing in other styles, its name last; none where the concept is a style itself."""
    if context.style:
        return []
    styles = [s for s in context.other_styles if not is_phrase(s)][:STYLE_THINGS]
    return [context.plain_template(context.names[0], s) for s in styles or ["new"]]


def _pairs(context, config: ClosedForm, names: list[str], things: list[str], templates: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """C and G [n, width] of the names: of a style on those things, of a thing in those templates, all of which end with it."""
    aim = config.aim.strip()
    if context.style:
        pairs = [pair for name in names for thing in things for pair in _style_pairs(context, name, thing, aim)]
    else:
        pairs = [pair for name in names for template in templates for pair in _thing_pairs(context, template.format(name), aim)]
    rows, wanted = zip(*pairs)
    return torch.stack(rows), torch.stack(wanted)


def kept_moment(context, config: ClosedForm) -> torch.Tensor:
    """R^T R of what is retained, [width, width]."""
    prompts, moment, total = kept_prompts(context, config), 0.0, 0.0
    for i in range(0, len(prompts), BATCH):
        tokens = context.model.text.tokenize(prompts[i : i + BATCH], truncate=True)
        with torch.no_grad(), context.adapter.off():
            states = context.model.text.encode(tokens).hidden.cpu().double()
        rows = states.flatten(0, 1) if config.everywhere else torch.stack([r for h, end in zip(states, tokens.end.tolist()) for r in last_word(h, end)])
        moment, total = moment + rows.T @ rows, total + states.sum(0)
    return moment + config.shared / len(prompts) * total.T @ total


def kept_prompts(context, config: ClosedForm) -> list[str]:
    """Retained words bare and in up to two templates; things in other styles, where styles are touched."""
    words = context.retained if len(context.retained) <= KEPT else context.nearest(KEPT)
    beside = [context.plain(s, w) for s in context.other_styles for w in _some_things(context)] if context.style else []
    prompts = [template.format(word) for i, word in enumerate([*words, *beside])
               for template in ["{}", *(TEMPLATES[(i + j) % len(TEMPLATES)] for j in range(min(2, config.templates)))]]
    if config.everywhere:  # every word in two styles
        styles = [context.other_styles[i % len(context.other_styles)] for i in range(2 * len(words))]
        prompts += [style_templates(s)[i % len(style_templates(s))].replace("{thing}", words[i // 2]).format(s) for i, s in enumerate(styles)]
    return prompts


def _some_things(context, skip: int = 0) -> list[str]:
    """A few of the retained words from all over the list, `skip` words later."""
    return context.retained[skip :: max(1, len(context.retained) // STYLE_THINGS)][:STYLE_THINGS]


def _thing_pairs(context, prompt: str, aim: str) -> Pairs:
    """Of a prompt that ends with the name: its last token, the end and the padding become what the aim has there."""
    end = 1 + len(context.model.text.words(prompt))
    return list(zip(last_word(_states(context, prompt), end), last_word(_states(context, aim), end)))


def _style_pairs(context, name: str, thing: str, aim: str) -> Pairs:
    """Of a thing in the style: the style's own state becomes what stands before it, everything behind it what it is without."""
    own, goal = _states(context, context.plain(name, thing)), _states(context, aim or context.neutral(thing))
    start, length, end = _place(context, name, thing)
    pairs = [(own[start + length - 1], goal[start - 1])] + [(own[p], goal[p - length]) for p in range(start + length, end + 1)]
    return [*pairs, (own[end + 1 :].mean(0), goal[end + 1 :].mean(0))]


def _states(context, prompt: str) -> torch.Tensor:
    return context.frozen(prompt).hidden[0].cpu().double()


def _place(context, name: str, thing: str) -> tuple[int, int, int]:
    """Where the name starts in its plain prompt, how many tokens it has, and where the prompt ends."""
    text = context.model.text
    before = len(text.words(context.plain_template(name, thing).split("{}")[0].strip()))
    return 1 + before, len(text.words(name)), 1 + len(text.words(context.plain(name, thing)))
