"""Every template that a concept or a retained word is put into, by its kind, with the article that it takes.

In the tables, {thing} and {style} are the bare words. {a_thing} and {a_style} have an article in front,
{the_thing} has "the", {a_small_thing} has an article and an adjective. {styled} is a thing in a style
("ink owl"), {a_styled} the same with an article ("an ink owl").
A template that is handed out has "{}" in place of one of the two; `put` fills it.

The rule for articles: none for persons, for plurals, for what cannot be counted, and for names ("Golden Gate
Bridge"). None where the words begin with a determiner of their own ("the moon"). Otherwise "a" or "an", by
the sound of the next word.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from .kinds import BEHIND, INNER, PERSON, STYLE, THING, is_artist, is_movement, is_name, lists

OPEN = "{}"

# Training prompts of a concept, one table for each kind; self_check moves the words around the concept.
THINGS = (
    "a picture of {a_thing}",
    "a photo of {a_thing}",
    "an image of {a_thing}",
    "a drawing of {a_thing}",
    "a painting of {a_thing}",
    "{a_beautiful_thing}",
    "{the_thing}",
    "{a_small_thing}",
    "artwork of {a_thing}",
    "{a_thing} in the style of art",
    "depicting {a_large_thing}",
    "showing {a_single_thing}",
)
PERSONS = (
    "a picture of {thing}",
    "a photo of {thing}",
    "an image of {thing}",
    "a drawing of {thing}",
    "a painting of {thing}",
    "a portrait of {thing}",
    "{thing} smiling",
    "a close-up of {thing}",
    "artwork of {thing}",
    "{thing} standing",
    "depicting {thing}",
    "showing {thing}",
)
# Plainer ones: of the concept's names, and of retained words.
PLAIN_THINGS = (
    "{thing}",
    "{a_thing}",
    "a picture of {a_thing}",
    "a photo of {a_thing}",
    "a drawing of {a_thing}",
    "an image of {a_thing}",
)
PLAIN_PERSONS = (
    "{thing}",
    "a portrait of {thing}",
    "a picture of {thing}",
    "a photo of {thing}",
    "a drawing of {thing}",
    "an image of {thing}",
)

# A style is shown on a thing. How it is said depends on its form: "pixel art" (adjective), "oil painting"
# (medium), "in the style of Hokusai" (phrase), "by Hokusai" (by), "Van Gogh" (artist), "cubism" (movement).
SHOWN = {
    "adjective": (
        "a drawing of {a_thing} {style}",
        "{thing}, {style}",
        "a picture of {a_thing}, {style}",
        "{a_style} drawing of {a_thing}",
        "{a_styled}",
        "{styled}",
    ),
    "medium": (
        "{a_style} of {a_thing}",
        "{thing}, {style}",
        "a picture of {a_thing}, {style}",
        "{style} of {a_thing}",
    ),
    "phrase": (
        "a drawing of {a_thing} {style}",
        "{thing}, {style}",
        "a picture of {a_thing}, {style}",
        "a painting of {a_thing} {style}",
    ),
    "by": (
        "a painting of {a_thing} {style}",
        "{thing} {style}",
        "a picture of {a_thing} {style}",
        "a drawing of {a_thing} {style}",
    ),
    "artist": (
        "a drawing of {a_thing} in the style of {style}",
        "a painting of {a_thing} by {style}",
        "{thing}, {style} style",
        "{thing} in the style of {style}",
    ),
}
SHOWN["movement"] = (SHOWN["artist"][0], "a painting of {a_thing}, {style}", *SHOWN["artist"][2:])
PLAINEST = {"adjective": 3, "medium": 0, "phrase": 0, "by": 0, "artist": 0, "movement": 0}  # places in SHOWN
WITHOUT_STYLE = {"medium": "a picture of {a_thing}", "by": "a painting of {a_thing}"}  # the others: DRAWING
DRAWING = "a drawing of {a_thing}"
# A style without a thing.
ALONE = {
    "adjective": ("{a_style} drawing", "{a_style} picture", "{a_style} image", "{style}"),
    "medium": ("{a_style}", "{style}", "a picture, {style}", "an image, {style}"),
    "phrase": ("a drawing {style}", "a painting {style}", "a picture {style}", "an image {style}"),
    "by": ("a painting {style}", "a drawing {style}", "a picture {style}", "artwork {style}"),
    "artist": (
        "a drawing in the style of {style}",
        "a painting by {style}",
        "a picture in the style of {style}",
        "artwork by {style}",
    ),
}
ALONE["movement"] = (ALONE["artist"][0], "{style}", ALONE["artist"][2], "a painting, {style}")

BEHIND_COMMA = ("inspired by ", "style of ", "painted by ", "drawn by ", "art by ", "artwork by ")
ADJECTIVES = ("beautiful", "small", "large", "single")
AN = re.compile(
    r"[aeio]|u(?!([^aeiou\W][aeiou]))|un[aeou]|uni[mn]|hour|honest|honou?r|heir|x-|8|11(?!\d)|18(?!\d)",
    re.IGNORECASE,
)
NOT_AN = re.compile(r"eu|ewe|one\b|once\b|uni(?![mn])", re.IGNORECASE)

# Things on which a style is shown in previews; every model draws them.
SHOWN_ON = ("house", "cat", "tree", "car", "apple", "guitar", "castle", "fish")


def indefinite(text: str) -> str:
    """ "a" or "an", by the sound with which the text begins."""
    text = unicodedata.normalize("NFD", text.lstrip("\"'(["))  # accents behind their letters
    return "an" if AN.match(text) and not NOT_AN.match(text) else "a"


def takes_article(text: str) -> bool:
    """Whether a thing is counted and in the singular. The words before the first preposition decide."""
    words = text.lower().split()
    cut = next((i for i, w in enumerate(words) if i and w in INNER), len(words))
    head, known = words[:cut], lists()
    if known["plural"] & set(head) or head[-1] in known["uncountable"]:
        return False
    last = head[-1]
    return not last.endswith("s") or last.endswith(("ss", "us", "is")) or last in known["singular"]


def is_fixed(text: str, kind: str) -> bool:
    """Nothing can be put in front: a person, a name, or words with a determiner of their own."""
    return (
        kind == PERSON or is_name(text) or text.split()[0].lower() in lists()["determiners"] | BEHIND | INNER
    )


def noun(text: str, kind: str, before: str = "", shown: str | None = None) -> str:
    """`shown` (the text itself, or "{}") with its article, and with an adjective or a style before it."""
    shown = text if shown is None else shown
    if is_fixed(text, kind):
        return shown
    phrase = f"{before} {shown}".strip()
    return f"{indefinite(before or text)} {phrase}" if takes_article(text) else phrase


def form(style: str) -> str:
    """How a style is said: a key of SHOWN."""
    words = style.lower().split()
    if words[0] == "by":
        return "by"
    if words[0] in BEHIND or style.lower().startswith(BEHIND_COMMA):
        return "phrase"
    if is_movement(style):
        return "movement"
    if is_artist(style) or is_name(style):
        return "artist"
    return "medium" if words[-1] in lists()["media"] or " by " in style else "adjective"


def fill(
    template: str, thing: str | None, style: str | None = None, kind: str = THING, leave: str = ""
) -> str:
    """A row of the tables for these words, articles included.

    kind: the thing's. leave: "thing" or "style", the one that stays open as "{}"; empty: none.
    """
    fields: dict[str, str] = {}
    if style is not None:
        own = OPEN if leave == "style" else style
        fields |= {
            "style": own,
            "a_style": f"{indefinite(style)} {own}" if _style_takes_article(style) else own,
        }
    if thing is not None:
        own = OPEN if leave == "thing" else thing
        fixed = is_fixed(thing, kind)
        fields |= {
            "thing": own,
            "a_thing": noun(thing, kind, shown=own),
            "the_thing": own if fixed else f"the {own}",
        }
        fields |= {f"a_{adjective}_thing": noun(thing, kind, adjective, own) for adjective in ADJECTIVES}
        if style is not None:
            fields["styled"] = _styled(thing, own, fields["style"])
            article = "" if fixed or not takes_article(thing) else f"{indefinite(style)} "
            fields["a_styled"] = article + fields["styled"]
    return template.format(**fields)


def _style_takes_article(style: str) -> bool:
    """Whether an article goes before a style; not if it is an uncountable medium ("street photography")."""
    return style.split()[0].lower() not in lists()["determiners"] and (
        form(style) != "medium" or takes_article(style)
    )


def _styled(thing: str, thing_shown: str, style_shown: str) -> str:
    """ "ink owl", "ink Ada Lovelace", but "the moon, ink": nothing fits between a determiner and its noun."""
    determined = thing.split()[0].lower() in lists()["determiners"]
    return f"{thing_shown}, {style_shown}" if determined else f"{style_shown} {thing_shown}"


def put(template: str, words: str) -> str:
    """`words` in the open place of a template."""
    return template.replace(OPEN, words, 1)


@functools.lru_cache(maxsize=4096)
def concept_templates(name: str, kind: str) -> tuple[str, ...]:
    """Training templates of a concept that is alone, "{}" in its place."""
    if kind == STYLE:
        return alone(name)
    return tuple(fill(t, name, kind=kind, leave="thing") for t in (PERSONS if kind == PERSON else THINGS))


@functools.lru_cache(maxsize=4096)
def plain_templates(word: str, kind: str) -> tuple[str, ...]:
    """A few plain ones; of a concept's names, and of retained words."""
    if kind == STYLE:
        return alone(word)
    return tuple(
        fill(t, word, kind=kind, leave="thing") for t in (PLAIN_PERSONS if kind == PERSON else PLAIN_THINGS)
    )


def alone(style: str) -> tuple[str, ...]:
    """Templates of a style that is shown on nothing."""
    return tuple(fill(t, None, style, leave="style") for t in ALONE[form(style)])


def in_style(thing: str, style: str, leave: str, kind: str = THING) -> tuple[str, ...]:
    """Templates of a thing of that kind in a style. leave: "thing" or "style", the one that stays open."""
    return tuple(fill(t, thing, style, kind, leave) for t in SHOWN[form(style)])


def plainest_in_style(thing: str, style: str, leave: str = "", kind: str = THING) -> str:
    """The plainest of them."""
    own = form(style)
    return fill(SHOWN[own][PLAINEST[own]], thing, style, kind, leave)


def without_style(thing: str, style: str, kind: str = THING) -> str:
    """What the plainest prompt of a thing in a style says without the style."""
    return fill(WITHOUT_STYLE.get(form(style), DRAWING), thing, kind=kind)


def without_thing(style: str) -> str:
    """What it says without the thing."""
    return fill(ALONE[form(style)][0], None, style)


def ends_with_thing(style: str) -> bool:
    """Whether the plainest prompt of a thing in this style ends with the thing."""
    return form(style) in ("adjective", "medium")


def picture_of(words: str, kind: str, thing: str = "house") -> str:
    """The prompt that draws a word, for previews and evaluations. A style is shown on `thing`."""
    if kind == STYLE:
        return plainest_in_style(thing, words)
    return fill("a photo of {thing}" if kind == PERSON else "a picture of {a_thing}", words, kind=kind)
