"""Every attack by its name on the command line."""

from __future__ import annotations

from ...errors import SageError
from .base import Attack
from .embedding import ClosedFormEmbedding
from .fine_tune import FineTuning
from .inversion import STRONG, ConceptInversion
from .latent import LatentInversion
from .p4d import P4D
from .ring_a_bell import RingABell
from .unlearn_diff import UnlearnDiffAtk

QUICK = "quick"
ALL: tuple[Attack, ...] = (
    ConceptInversion(name=QUICK),
    STRONG,
    ClosedFormEmbedding(),
    UnlearnDiffAtk(),
    P4D(),
    RingABell(),
    LatentInversion(),
    FineTuning(),
)


def named(names: list[str]) -> tuple[Attack, ...]:
    """The attacks of these names, each once, in the table's order. "all" is every one, "none" is no attack.

    Raises SageError for an unknown name, and for "none" beside others.
    """
    known = {attack.name: attack for attack in ALL}
    for name in names:
        if name not in (*known, "all", "none"):
            raise SageError(f"There is no attack {name!r}; choose from {', '.join(known)}, all or none.")
    if "none" in names:
        if set(names) != {"none"}:
            raise SageError("--attack none means no attack: it does not go with others.")
        return ()
    return ALL if "all" in names else tuple(a for a in ALL if a.name in names)
