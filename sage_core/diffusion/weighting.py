r"""Prompts with weights, "a (dog:1.4) on a sofa", as ComfyUI reads them.

(words) weigh 1.1 times as much as what they stand in; (words:1.4) weigh 1.4, wherever they stand. \( and \)
are plain parentheses, and so is one without its counterpart. A token of weight w moves the state that the
UNet reads at its place along the line from the empty prompt's state there:

    h'[i] = empty[i] + w (h[i] - empty[i])

The encoder itself reads every word at its plain weight, and SDXL's pooled state is left as it is. Square
brackets and schedules of other hosts are plain text here.
"""

from __future__ import annotations

import re

import torch

from .text import Conditioning, TextStack

STEP = 1.1
NUMBER = re.compile(r"(?P<words>.+):\s*(?P<weight>[-+]?(\d+\.?\d*|\.\d+))\s*", re.DOTALL)


def parse_weights(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """(words, weight) in the order of the prompt. weight: of what stands in no parentheses."""
    pieces: list[tuple[str, float]] = []
    plain, i = "", 0
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in ("(", ")"):
            plain += text[i + 1]
            i += 2
            continue
        end = _closing(text, i) if text[i] == "(" else None
        if end is None:
            plain += text[i]
            i += 1
            continue
        pieces += [(plain, weight)] if plain else []
        pieces += _inside(text[i + 1 : end], weight * STEP)
        plain, i = "", end + 1
    return pieces + ([(plain, weight)] if plain else [])


def _inside(text: str, weight: float) -> list[tuple[str, float]]:
    """What stands in parentheses, with the weight behind its colon if there is one."""
    match = NUMBER.fullmatch(text)
    return parse_weights(match["words"], float(match["weight"])) if match else parse_weights(text, weight)


def _closing(text: str, start: int) -> int | None:
    """Where the parenthesis that opens at `start` is closed; None if it never is."""
    depth, i = 0, start
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return None


@torch.no_grad()
def encode_weighted(text: TextStack, prompts: list[str]) -> Conditioning:
    """Conditioning of prompts with weights. What does not fit into 75 tokens is dropped."""
    rows, weights = [], torch.ones(len(prompts), text.length)
    for row, prompt in enumerate(prompts):
        ids: list[int] = []
        for words, weight in parse_weights(prompt):
            own = text.words(words)[: text.length - 2 - len(ids)]
            weights[row, 1 + len(ids) : 1 + len(ids) + len(own)] = weight  # behind the start token
            ids += own
        rows.append(ids)
    cond, empty = text.encode(text.assemble(rows)), text([""])
    behind = cond.hidden.shape[1] - weights.shape[1]  # T5 reads every word at its plain weight
    factor = torch.nn.functional.pad(weights.to(cond.hidden), (0, behind), value=1.0)[:, :, None]
    return Conditioning(empty.hidden + factor * (cond.hidden - empty.hidden), cond.pooled)
