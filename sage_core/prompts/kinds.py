"""What kind of thing a concept is: said by the user, or guessed from its words. Works for every model.

A guess is one of three, by the first rule that holds:

style: a phrase ("in the style of ...", "by Hokusai"), words that end in "style" or "aesthetic", a medium or a
way of drawing ("watercolor", "dark oil painting"), an art movement, an artist of the built-in list by name
alone ("Van Gogh"), or the name of a style that the model is known to have.
person: a title with a name ("President Lincoln"), or a name of two or more capitalised words, unless a word
in it says that it is a place, a building, a brand, an animal or an object ("Eiffel Tower", "Mickey Mouse").
thing: everything else. Names in lower case and single names are things: there `kind` has to be given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

THING, STYLE, PERSON = "thing", "style", "person"
KINDS = (THING, STYLE, PERSON)

ARTICLES = frozenset({"a", "an", "the"})
BEHIND = frozenset(
    {"in", "by", "like", "as", "with"}
)  # a style that begins with one of these follows a thing
PHRASES = (
    "in the style of ",
    "in style of ",
    "in the manner of ",
    "inspired by ",
    "style of ",
    "art by ",
    "artwork by ",
    "painting by ",
    "painted by ",
    "drawing by ",
    "drawn by ",
    "illustration by ",
)
PARTICLES = frozenset(
    {"van", "von", "der", "den", "de", "da", "di", "del", "della", "la", "le", "du", "bin", "ibn", "al", "el"}
)
JOINING = frozenset({"of", "the", "and"})  # also in names of places and works
INNER = frozenset(
    {"of", "in", "on", "at", "with", "from", "and", "for", "near", "over", "under", "playing", "wearing"}
)


@functools.lru_cache(maxsize=1)
def lists() -> dict[str, frozenset[str]]:
    """The sections of lists.txt by name."""
    sections: dict[str, set[str]] = {}
    own: set[str] = set()
    for line in (Path(__file__).parent / "lists.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            own = sections.setdefault(line.strip("[]"), set())
        elif line and not line.startswith("#"):
            own.add(line)
    return {name: frozenset(entries) for name, entries in sections.items()}


@functools.lru_cache(maxsize=4096)
def guess(concept: str, styles: Sequence[str] = ()) -> str:
    """The kind of a concept. `styles`: names of styles that the model is known to have (a tuple)."""
    if is_style(concept, styles):
        return STYLE
    return PERSON if is_person(concept) else THING


def is_style(concept: str, styles: Sequence[str] = ()) -> bool:
    words = bare_words(concept)
    text = " ".join(words)
    if text in styles or text in lists()["styles"] or is_artist(concept) or is_movement(concept):
        return True
    if text.startswith(PHRASES) or words[0] == "by" and len(words) > 1 and words[1] not in ARTICLES:
        return True
    if len(words) > 1 and (words[-1] in ("style", "aesthetic") or words[-1].endswith("-style")):
        return True
    ends = (" ".join(words[i:]) for i in range(1, len(words)) if not (INNER - {"and"}) & set(words[:i]))
    return any(end in lists()["styles"] for end in ends)


def is_artist(concept: str) -> bool:
    """An artist of the built-in list, by name alone."""
    return " ".join(concept.lower().split()) in lists()["artists"]


def is_movement(concept: str) -> bool:
    return bare_words(concept)[-1] in lists()["movements"]


def is_person(concept: str) -> bool:
    words = concept.split()
    if not is_name(concept) or any(w.lower() in JOINING for w in words):
        return False
    if words[0].lower() in lists()["titles"]:
        return True
    lower = {w.lower() for w in words}
    return not lower & lists()["places"] and words[-1].lower() not in lists()["things"]


def is_name(concept: str) -> bool:
    """Two or more words that are capitalised, but not all in capitals; small words may be between them."""
    words = concept.split()
    if len(words) < 2 or not (words[0][0].isupper() and words[-1][0].isupper()) or concept.isupper():
        return False
    if words[0].lower() in ARTICLES:
        return False
    return all(w[0].isupper() or w.lower() in PARTICLES | JOINING for w in words)


def bare_words(text: str) -> list[str]:
    """In lower case, without an article in front; never empty."""
    words = text.lower().split()
    return words[1:] if len(words) > 1 and words[0] in ARTICLES else words
