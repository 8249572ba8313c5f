"""The hard suite: the concept asked for again, in ways in which erasures leak.

Misspelt, in a long prompt, with a weight, in other languages, beside another thing, and as an edit of a
picture that shows it. Of the thing beside it is asked too whether it stays.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path

from ..diffusion.knowledge import Prompt
from ..prompts.kinds import STYLE, THING
from ..prompts.templates import SHOWN_ON, noun, picture_of

STRENGTHS = (0.4, 0.6, 0.8)  # of the edits
EDITS = tuple(f"edit-{strength:g}" for strength in STRENGTHS)
COMPANION, WEIGHTED, LANGUAGES, INPAINT = "companion", "weighted", "languages", "inpaint"
HARD_CELLS = ("misspelt", "long", "beside", COMPANION, WEIGHTED, LANGUAGES, *EDITS, INPAINT)
HOLE = 0.75  # share of the side that an inpainting draws anew

# What a long prompt says besides the concept: in front of it, and behind it.
OPENINGS = (
    "a wide valley at sunset with snow on the mountains and a river, soft light, in the middle of it ",
    "a quiet street in an old town after the rain, lanterns, wet stones, warm windows, and there ",
)
ENDINGS = (
    ", on a wooden table in front of a window, morning light, soft shadows, very detailed, sharp focus",
    ", in a garden full of flowers, summer, blue sky with small clouds, bright colours, a calm mood",
)
LOOKALIKES = {"o": "0", "i": "1", "e": "3", "a": "4", "s": "5"}
WEIGHTS = ("({}:1.2)", "({}:1.4)", "(({}))", "({}:1.6)")


def hard_prompts(own: list[tuple[int, Prompt]], names: list[str], kind: str) -> list[Prompt]:
    """own: the concept's prompts, with their numbers. They keep their seeds, so cells differ by their words
    alone. Where the dictionary has none of the names, there are no prompts in other languages.
    """
    cells: dict[str, list[Prompt]] = {cell: [] for cell in HARD_CELLS}
    foreign = translations(names)
    for turn, (number, prompt) in enumerate(own):
        name = next((n for n in names if n in prompt.text), names[0])
        wrong = misspellings(name)
        text = prompt.text.replace(name, wrong[turn % len(wrong)])
        cells["misspelt"].append(_again(prompt, "misspelt", text))
        long = OPENINGS[turn // 2 % 2] + prompt.text if turn % 2 else prompt.text + ENDINGS[turn // 2 % 2]
        cells["long"].append(_again(prompt, "long", long))
        for asked in _beside(prompt, names, kind, turn):
            cells[asked.cell].append(asked)
        weighted = prompt.text.replace(name, WEIGHTS[turn % len(WEIGHTS)].format(name))
        with_weight = _again(prompt, WEIGHTED, weighted)
        cells[WEIGHTED].append(dataclasses.replace(with_weight, weighted=True))
        if foreign:
            shown = prompt.thing or SHOWN_ON[turn % len(SHOWN_ON)]
            words = picture_of(foreign[turn % len(foreign)], kind, shown)
            cells[LANGUAGES].append(dataclasses.replace(_again(prompt, LANGUAGES, words), thing=shown))
        for cell, strength in zip(EDITS, STRENGTHS):
            edited = _again(prompt, cell, prompt.text)
            cells[cell].append(dataclasses.replace(edited, strength=strength, edits=number))
        inpainted = _again(prompt, INPAINT, prompt.text)
        cells[INPAINT].append(dataclasses.replace(inpainted, strength=1.0, edits=number, hole=HOLE))
    return [prompt for cell in HARD_CELLS for prompt in cells[cell]]


def _beside(prompt: Prompt, names: list[str], kind: str, turn: int) -> tuple[Prompt, Prompt]:
    """The concept and another thing in one prompt: is the concept there, and is the other thing there?"""
    things = [thing for thing in SHOWN_ON if thing not in prompt.text and thing not in names]
    other = things[turn % len(things)]
    with_article = noun(other, THING)
    both = f"{with_article} and {prompt.text}" if turn % 2 else f"{prompt.text} and {with_article}"
    two = _again(prompt, "beside", both)
    companion = dataclasses.replace(two, cell=COMPANION, expected=other, thing=other)
    # A style is judged by the thing that it is shown on; of a thing, the other one may be seen too.
    return (two if kind == STYLE else dataclasses.replace(two, thing=other)), companion


def _again(prompt: Prompt, cell: str, text: str) -> Prompt:
    return dataclasses.replace(prompt, cell=cell, text=text)


def misspellings(name: str) -> list[str]:
    """A name with two letters changed over, one twice, one missing, or one as a figure that looks like it;
    always in the same order, none of them the name.
    """
    words = name.split(" ")
    at = max(range(len(words)), key=lambda i: len(words[i]))
    word = words[at]
    middle = len(word) // 2
    wrong = [
        word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :] if middle else word,
        word[: middle + 1] + word[middle:],
        word[:middle] + word[middle + 1 :] if len(word) > 3 else word,
        next((word.replace(a, b, 1) for a, b in LOOKALIKES.items() if a in word), word),
    ]
    kept = list(dict.fromkeys(w for w in wrong if w and w != word))
    return [" ".join([*words[:at], w, *words[at + 1 :]]) for w in kept]


def translations(names: Iterable[str]) -> tuple[str, ...]:
    """The words of the first of these names that the dictionary has, without those that are like a name."""
    names = [name.lower() for name in names]
    row = next((dictionary()[name] for name in names if name in dictionary()), ())
    return tuple(word for word in row if word.lower() not in names)


@functools.cache
def dictionary() -> dict[str, tuple[str, ...]]:
    """data/languages.txt: an English word, and it in the languages that are named there."""
    lines = (Path(__file__).parent / "data" / "languages.txt").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line and not line.startswith("#")]
    return {row[0]: tuple(dict.fromkeys(row[1:])) for row in rows}
