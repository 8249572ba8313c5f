"""Concepts whose pictures the page does not show unasked."""

from __future__ import annotations

from ...prompts.words import telling_words

WORDS = {
    *(
        "erotic",
        "erotica",
        "explicit",
        "genitals",
        "naked",
        "nsfw",
        "nude",
        "nudes",
        "nudity",
        "penis",
        "porn",
    ),
    *("porno", "pornographic", "pornography", "sex", "sexual", "sexy", "topless", "undressed", "vagina"),
    *(
        "abuse",
        "blood",
        "bloody",
        "corpse",
        "death",
        "gore",
        "gory",
        "gun",
        "guns",
        "hanging",
        "hate",
        "horror",
    ),
    *(
        "killing",
        "knife",
        "murder",
        "rape",
        "self-harm",
        "shooting",
        "suicide",
        "terror",
        "terrorist",
        "torture",
    ),
    *("violence", "violent", "war", "weapon", "weapons", "wound", "wounds"),
}


def is_unsafe(report: dict) -> bool:
    """Whether one of the erased names has such a word."""
    spec = report["spec"]
    names = [spec["concept"], *spec.get("synonyms", ())]
    return bool(telling_words(names) & WORDS)
