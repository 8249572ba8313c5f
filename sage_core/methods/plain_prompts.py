"""A recipe for a model whose text encoders are not open: the concept's names in plain prompts.

Learnt names, states of tokens and edits of the encoder need an encoder that can be reached. What an erasure
is without them is decided here, once.
"""

from __future__ import annotations

import dataclasses

from ..errors import SageError
from .base import Domain
from .domains.any_prompt import AnyPrompt
from .domains.inversion import NameInversion
from .domains.word import Word
from .method import Method
from .recipe import AUTOMATIC, Recipe
from .retentions.noise import Noise
from .retentions.relations import Relations
from .table import METHODS
from .targets.negative_guidance import NegativeGuidance

DOMAINS: tuple[type[Domain], ...] = (Word, NameInversion, AnyPrompt)
TARGETS, RETENTIONS = (NegativeGuidance,), (Noise, Relations)
SURFACES = ("cross_attention", "both")  # "both" without a text encoder is the network's part of it


def runs(method: Method) -> bool:
    """Whether a method needs nothing but prompts and predictions."""
    return (
        method.closed is None
        and isinstance(method.domain, DOMAINS)
        and isinstance(method.target, TARGETS)
        and all(isinstance(term, RETENTIONS) for term in method.retention)
        and method.surface in SURFACES
        and method.layers == ("",)  # they are named as the core's own networks name them
    )


def in_plain_prompts(recipe: Recipe) -> Recipe:
    """The same recipe with the concept's names in templates in place of learnt names, without random
    embeddings, and without terms that keep a text encoder, which is frozen here. What it asks for, and so its
    fingerprint, is unchanged.

    Raises SageError where the method or the surface needs an open text encoder.
    """
    method = recipe.method
    if not runs(method):
        able = ", ".join(name for name, other in METHODS.items() if runs(other))
        raise SageError(
            f"{method.title} works inside the text encoder or on layers that pictures go through too, which"
            f" a model of this kind does not offer; choose one of {able}."
        )
    if recipe.surface not in SURFACES:
        raise SageError(
            f"The surface {recipe.surface!r} is not trained in a model of this kind, whose text encoders are"
            f" frozen; choose {' or '.join(SURFACES)}."
        )
    if recipe.becomes == AUTOMATIC:
        raise SageError(
            "What replaces the concept is found by a search for words, which a model of this kind does not"
            " offer; name the replacement, or leave it out."
        )
    domain = method.domain
    if isinstance(domain, NameInversion):
        domain = Word()
    elif isinstance(domain, AnyPrompt):
        domain = domain.in_plain_prompts()
    plain = dataclasses.replace(
        method,
        domain=domain,
        retention=tuple(term for term in method.retention if not isinstance(term, Relations)),
        warm=None,
    )
    return dataclasses.replace(recipe, method=plain, training=dataclasses.replace(recipe.training, refit=0.0))
