"""What the user asks for: one typed, validated value that goes through every host and into the LoRA's
metadata.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .domain.found import Domain
from .errors import SageError, shown
from .lora.surfaces import SURFACES
from .prompts.kinds import KINDS, guess

if TYPE_CHECKING:
    from .diffusion.model import DiffusionModel
    from .methods.method import Method, Training
    from .methods.recipe import Recipe

MAX_TEXT = 300  # characters
MAX_WORDS = 1000  # in a list of them
JOINERS = "\u200c\u200d"  # not printable, and part of words and of emoji
HOST_SYNTAX = re.compile(
    r"\([^()]*:\s*[-+]?\d*\.?\d+\s*\)|<(lora|lyco|hypernet):[^>]*>|\bembedding:\S+", re.IGNORECASE
)  # weights, files, learnt words
TOWARDS = 0.3  # eta, at most, where something replaces the concept: beyond that it is pushed past it
NAMES = 4  # so many names a method's own steps and rank are enough for


@dataclass(frozen=True)
class ErasureSpec:
    """What to erase, and how. None means "as the method has it"; `recipe()` makes every choice.

    Raises SageError on bad values.

    Args:
        concept: what to erase, as one would write it in a prompt ("dog", "in the style of Van Gogh").
        synonyms: other words for it, or other concepts, that the same LoRA erases as well.
        retain: words that must stay, besides the built-in list.
        method: a name in methods.table.METHODS.
        surface: "text" (text encoders), "cross_attention" (UNet), "both", or "unet" (all of its transformer
            blocks).
        eta: strength of the negative guidance.
        resolution: side in pixels of what is trained on, a multiple of 64; None: what the model was made for.
            Smaller is quicker.
        faithful: train as the paper's own code does, at its own cost (a fresh trajectory at every step).
        kind: what the concept is, "thing", "style" or "person"; None: guessed from its words.
        search: whether to search the model for other words that mean the concept; None: as the method has it.
        exclude: words that the search must not take, neither as names of the concept nor as its neighbours.
        domain: what an earlier search found, so that there is no need of another.
        becomes: what is drawn in the concept's place ("a mouse", "a person in clothes"); "automatic": the
            nearest word that stays; empty: nothing.
        check: whether to check what is left in each name and to give the LoRA the strength that takes all of
            it, but no more; None: as the method has it.
    """

    concept: str
    synonyms: tuple[str, ...] = ()
    retain: tuple[str, ...] = ()
    method: str = "sage"
    seed: int = 0
    surface: str | None = None
    steps: int | None = None
    rank: int | None = None
    alpha: float | None = None
    learning_rate: float | None = None
    eta: float | None = None
    resolution: int | None = None
    faithful: bool = False
    kind: str | None = None
    search: bool | None = None
    exclude: tuple[str, ...] = ()
    domain: Domain | None = None
    check: bool | None = None
    becomes: str = ""

    def __post_init__(self) -> None:
        from .methods.table import METHODS  # loads torch

        object.__setattr__(self, "concept", _text(self.concept, "concept"))
        object.__setattr__(
            self, "synonyms", tuple(_text(s, "synonym") for s in _texts(self.synonyms, "synonyms"))
        )
        object.__setattr__(
            self, "retain", tuple(_text(s, "retained word") for s in _texts(self.retain, "retain"))
        )
        if not isinstance(self.method, str) or self.method not in METHODS:
            raise SageError(f"There is no method {shown(self.method)}; choose one of {', '.join(METHODS)}.")
        object.__setattr__(
            self, "exclude", tuple(_text(s, "excluded word") for s in _texts(self.exclude, "exclude"))
        )
        if self.domain is not None and not isinstance(self.domain, Domain):
            object.__setattr__(self, "domain", Domain.from_json(self.domain))
        for name in ("search", "check"):
            if getattr(self, name) not in (None, True, False):
                raise SageError(f"{name} is true, false or left out, not {shown(getattr(self, name))}.")
        if self.becomes != "":
            object.__setattr__(self, "becomes", _text(self.becomes, "replacement"))
            if self.becomes in (self.concept, *self.synonyms):
                raise SageError(
                    f"{self.becomes!r} is to be erased and to be what it becomes; name another replacement."
                )
        if self.surface is not None and self.surface not in SURFACES:
            raise SageError(
                f"There is no surface {shown(self.surface)}; choose one of {', '.join(SURFACES)}."
            )
        _number(self.seed, "seed", 0, 2**63 - 1, whole=True)
        for name, low, high, whole in (
            ("steps", 1, 100_000, True),
            ("rank", 1, 1024, True),
            ("alpha", 1e-6, 1e6, False),
            ("learning_rate", 1e-9, 1.0, False),
            ("eta", 0.0, 100.0, False),
        ):
            value = getattr(self, name)
            if value is not None:
                _number(value, name, low, high, whole)
        if self.resolution is not None:
            _number(self.resolution, "resolution", 64, 2048, whole=True)
            if self.resolution % 64:
                raise SageError(f"resolution is a multiple of 64, not {self.resolution}.")
        if not isinstance(self.faithful, bool):
            raise SageError(f"faithful is true or false, not {shown(self.faithful)}.")
        if self.kind is not None and self.kind not in KINDS:
            raise SageError(
                f"There is no kind {shown(self.kind)}; choose one of {', '.join(KINDS)}, or leave "
                "it out to have it guessed."
            )
        method = METHODS[self.method]
        if self.faithful and method.published is None:
            raise SageError(
                f"There is no published training of {method.title} to be faithful to; leave that out."
            )
        if method.closed is not None and self.surface not in (None, method.surface):
            raise SageError(
                f"{method.title} edits the UNet's cross-attention and nothing else; leave the surface out."
            )
        if self.concept in self.retain:
            raise SageError(
                f"{self.concept!r} is to be erased and to be kept at once; take it out of one of the lists."
            )

    def kind_of(self, styles: tuple[str, ...] = ()) -> str:
        """The kind of the concept, as given or guessed. `styles`: those that the model is known to have."""
        return self.kind or guess(self.concept, tuple(styles))

    def taken_as(self, styles: tuple[str, ...] = ()) -> str:
        """What to tell the user about a guess; empty where the kind was given."""
        return "" if self.kind else f"taken as a {self.kind_of(styles)}; set kind to change it"

    @property
    def times(self) -> int:
        """Factor by which steps and rank grow: 1 for every four names."""
        return math.ceil((1 + len(self.synonyms)) / NAMES)

    def recipe(self, styles: tuple[str, ...] = ()) -> Recipe:
        """The erasure with every choice made, as in a file's metadata.

        styles: those that the model is known to have (model.knowledge.styles); the kind may depend on them.
        """
        from .methods.recipe import Recipe
        from .methods.table import METHODS

        method = METHODS[self.method]
        eta = None if method.target is None else method.target.own_eta()
        wanted = self.eta
        if wanted is None and self.becomes and eta is not None:
            wanted = min(eta, TOWARDS)
        if wanted is not None and method.target is not None:
            method = dataclasses.replace(method, target=method.target.with_eta(wanted))
        return Recipe(
            method=method,
            training=self._training(method),
            concept=self.concept,
            synonyms=self.synonyms,
            retain=self.retain,
            kind=self.kind_of(styles),
            seed=self.seed,
            surface=self.surface or method.surface,
            eta=eta if wanted is None else wanted,
            resolution=self.resolution,
            faithful=self.faithful,
            search=method.searches and not self.faithful if self.search is None else self.search,
            exclude=self.exclude,
            domain=self.domain,
            check=method.checks and not self.faithful if self.check is None else self.check,
            becomes=self.becomes,
        )

    def recipe_for(self, model: DiffusionModel) -> Recipe:
        """The same, with what the model has a say in: the kind, and what its family needs."""
        return self.recipe(model.knowledge.styles).on(model.family)

    def _training(self, method: Method) -> Training:
        """The method's training with the user's numbers in it."""
        own = method.training_as(self.faithful)
        assert own is not None  # refused by __post_init__
        times = 1 if self.faithful or method.closed is not None else self.times
        rank = self.rank or times * own.rank
        return dataclasses.replace(
            own,
            steps=self.steps or times * own.steps,
            rank=rank,
            alpha=float(self.alpha or own.alpha or rank),
            learning_rate=self.learning_rate or own.learning_rate,
        )

    def to_json(self) -> dict:
        """Plain JSON values; `from_json` is its inverse."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["domain"] = None if self.domain is None else self.domain.to_json()
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, data: object) -> ErasureSpec:
        """Raises SageError on unknown fields or wrong types."""
        if not isinstance(data, dict):
            raise SageError(f"An erasure spec is a JSON object, not {type(data).__name__}.")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := [str(k) for k in data if k not in known]:
            raise SageError(
                f"The erasure spec has an unknown field {unknown[0][:60]!r}; known are"
                f" {', '.join(sorted(known))}."
            )
        if "concept" not in data:
            raise SageError("The erasure spec has no field 'concept'; say what to erase.")
        return cls(**data)


def parse_concepts(text: str) -> list[tuple[str, tuple[str, ...]]]:
    """One concept a line, synonyms behind a bar: "dog | puppy, hound".

    Raises SageError on an empty list, or one that names a concept twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for line in (part.strip() for part in text.splitlines()):
        if not line:
            continue
        name, _, rest = line.partition("|")
        name = " ".join(name.split())
        if name in found:
            raise SageError(f"The concept {shown(name)} stands on two lines; leave one out.")
        found[name] = tuple(" ".join(s.split()) for s in rest.split(",") if s.strip())
    if not found:
        raise SageError("No concept is given; type one a line, for example: dog | puppy, hound")
    return list(found.items())


def _texts(value: object, what: str) -> tuple:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise SageError(f"{what!r} is a list of words, not {type(value).__name__}.")
    if len(value) > MAX_WORDS:
        raise SageError(f"{what!r} has {len(value)} words; up to {MAX_WORDS} can be given.")
    return tuple(value)


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise SageError(f"A {what} is text, not {type(value).__name__} ({shown(value)}).")
    text = " ".join(value.split())
    if not text:
        raise SageError(f'The {what} is empty; write what it should be, for example "dog".')
    if len(text) > MAX_TEXT:
        raise SageError(
            f"The {what} is {len(text)} characters long; CLIP reads about {MAX_TEXT} at most: shorten it."
        )
    if any(not c.isprintable() and c not in JOINERS for c in text):
        raise SageError(f"The {what} {text[:40]!r} holds characters that cannot be printed; type it again.")
    if found := HOST_SYNTAX.search(text):
        raise SageError(
            f"The {what} {text[:60]!r} holds {found.group()[:40]!r}, which hosts understand and the model"
            " does not; write the plain words only."
        )
    return text


def _number(value: object, what: str, low: float, high: float, whole: bool) -> None:
    right = isinstance(value, int) if whole else isinstance(value, (int, float))
    if not right or isinstance(value, bool) or not low <= value <= high:  # NaN is in no range
        raise SageError(
            f"{what} is {'a whole number' if whole else 'a number'} from {low:g} to {high:g}, not"
            f" {shown(value)}."
        )
