"""Recipe: a method with every choice of one erasure filled in.

Everything below the spec takes this and nothing else.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..domain import check as checking
from ..domain.found import Domain
from ..domain.search import PASSES as SEARCH_PASSES
from ..prompts.kinds import STYLE, guess
from ..prompts.words import built_in
from .method import Method, Training

if TYPE_CHECKING:
    from ..diffusion.architecture import Family

AUTOMATIC = "automatic"  # of what the concept becomes


@dataclass(frozen=True)
class Recipe:
    """One erasure, decided. `ErasureSpec.recipe` makes it, and `recipe_for` for a model.

    Args:
        method: the row of the table, with the user's eta in its target.
        training: how the cycle runs; steps, rank, alpha and learning rate are the user's or the method's.
        concept, synonyms, retain, seed, resolution, faithful: as in ErasureSpec.
        kind: what the concept is: "thing", "style" or "person".
        surface: what is trained, one of lora.surfaces.SURFACES.
        eta: strength of the negative guidance; None where the target has none.
        search, exclude, check, becomes: as in ErasureSpec.
        domain: what the search found; None before it.
    """

    method: Method
    training: Training
    concept: str
    synonyms: tuple[str, ...]
    retain: tuple[str, ...]
    kind: str
    seed: int
    surface: str
    eta: float | None
    resolution: int | None
    faithful: bool
    search: bool = False
    exclude: tuple[str, ...] = ()
    domain: Domain | None = None
    check: bool = False
    becomes: str = ""

    @property
    def replacement(self) -> str:
        """What is drawn in the concept's place, empty for nothing. Automatic is the nearest word that stays
        (AGE, arXiv 2501.18950), by the pull; nothing, where no search found one.
        """
        if self.becomes != AUTOMATIC:
            return self.becomes
        close = () if self.domain is None else self.domain.close
        return next((w.text for w in close if w.text in built_in() and guess(w.text) == self.kind), "")

    @property
    def kept(self) -> tuple[str, ...]:
        """Words that must stay, what replaces the concept among them."""
        named = () if self.becomes in ("", AUTOMATIC) else (self.becomes,)
        return tuple(dict.fromkeys([*self.retain, *named]))

    @property
    def given(self) -> list[str]:
        """The concept and the names that the user gave, each once."""
        return list(dict.fromkeys([self.concept, *self.synonyms]))

    @property
    def names(self) -> list[str]:
        """The concept and its other names, given and found, each once."""
        found = () if self.domain is None else self.domain.means
        return list(dict.fromkeys([*self.given, *(word.text for word in found)]))

    @property
    def style(self) -> bool:
        """Whether the concept is a style."""
        return self.kind == STYLE

    @property
    def steps(self) -> int:
        """Steps of the cycle, or rounds of a closed form, at most."""
        return self.training.steps

    @property
    def rank(self) -> int:
        return self.training.rank

    @property
    def alpha(self) -> float:
        """Of the LoRA; its rank unless the method or the user says otherwise."""
        return float(self.training.rank if self.training.alpha is None else self.training.alpha)

    @property
    def learning_rate(self) -> float:
        return self.training.learning_rate

    @property
    def passes(self) -> int:
        """UNet passes, those of search and checks too, of a run that takes all its steps; a backward counts
        as two.
        """
        looking = SEARCH_PASSES if self.search and self.domain is None else 0
        if self.check:
            names = checking.MOST_NAMES if looking else len(self.names)
            training = self.training
            looking += checking.passes(self.kind, names, training.checks, training.solver_steps)
        return looking + (0 if self.method.closed is not None else self.method.passes_of(self.training))

    def on(self, family: Family) -> Recipe:
        """The same for models of this family.

        A style is learnt from the few things that training shows it on. Where a closed form takes most of it
        out before, that is enough; where there is none, or a weak one, it stays on other things
        (docs/lab/flow.md), so more are shown.
        """
        if not self.style or self.faithful or family.style_start >= 1:
            return self
        return dataclasses.replace(self, training=self.training.on_many_things())

    def with_domain(self, domain: Domain) -> Recipe:
        """The same after the search."""
        return dataclasses.replace(self, domain=domain)

    def with_rank(self, rank: int) -> Recipe:
        """The same with the rank that a closed-form edit turned out to have; its alpha is its rank."""
        return dataclasses.replace(
            self, training=dataclasses.replace(self.training, rank=rank, alpha=float(rank))
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: an ErasureSpec with every field filled in."""
        return {
            "concept": self.concept,
            "synonyms": list(self.synonyms),
            "retain": list(self.retain),
            "method": self.method.name,
            "seed": self.seed,
            "surface": self.surface,
            "steps": self.steps,
            "rank": self.rank,
            "alpha": self.alpha,
            "learning_rate": self.learning_rate,
            "eta": self.eta,
            "resolution": self.resolution,
            "faithful": self.faithful,
            "kind": self.kind,
            "search": self.search,
            "exclude": list(self.exclude),
            "domain": None if self.domain is None else self.domain.to_json(),
            "check": self.check,
            "becomes": self.becomes,
        }

    def fingerprint(self) -> str:
        """Sixteen hex digits that name this erasure: the same before and after the search."""
        values = self.to_json()
        del values["domain"]
        if self.method.closed is not None:
            # The edit decides its rank: a finished file and the request for it are the same erasure.
            values |= {"rank": None, "alpha": None}
        text = json.dumps(values, sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
