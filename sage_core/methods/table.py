"""The table of presets.

A method is data: what is erased, what it becomes, what stays, what is trained, and its source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..diffusion.cost import ROW
from ..domain import check as checking
from ..domain.search import PASSES as SEARCH_PASSES
from ..prompts.kinds import THING
from .base import Choice, Domain, Retention, Target
from .closed_form.config import VALUES, ClosedForm
from .domains.inversion import NameInversion
from .domains.neighbours import Neighbours
from .domains.prefix_token import PrefixToken
from .domains.self_check import SelfCheck
from .domains.soft_tokens import SoftTokens
from .domains.word import Word
from .retentions.adversarial import Adversarial
from .retentions.beyond_concept import BeyondConcept
from .retentions.noise import Noise
from .retentions.region import Region
from .retentions.relations import Relations
from .targets.adaptive import Adaptive
from .targets.anchor import Anchor
from .targets.misdirect import Misdirect
from .targets.negative_guidance import NegativeGuidance


@dataclass(frozen=True)
class Training:
    """How the cycle runs. Batches count samples a step; trajectories and solver steps size the latent bank.

    steps: at most so many. first, again: steps before the first check, and between two; the cycle ends when a
    check finds that some strength of the LoRA is enough (0: no check before the last step). enough: the cycle
    ends `settle` steps (in which the learning rate falls) after the residual, the erasing loss in units of
    the frozen model's, was below it on average over `window` steps; 0 never ends early. fresh: no bank, a
    trajectory of `solver_steps` a step, as the papers' own code does.
    alpha: of the LoRA; its rank unless one is given. adjacent: share of the retained trajectories that show
    words near the concept. styled: share of a thing's trajectories, and of retained prompts, that are in a
    style. dealt: the bank's states come in turn instead of at random. warmup: steps in which the learning
    rate rises, so that Adam's first steps, all of full size, do not shake a closed-form start; beta2: of
    Adam. refit: weight of the words that stay when the trained LoRA is refitted (see lora/refit.py); 0: it is
    not.
    """

    steps: int = 16
    first: int = 0
    again: int = 6
    enough: float = 0.0
    settle: int = 5
    window: int = 5
    learning_rate: float = 2e-3
    warmup: int = 4
    beta2: float = 0.95
    rank: int = 8
    alpha: float | None = None
    erase_batch: int = 2
    trajectories: int = 2
    retain_trajectories: int = 6
    adjacent: float = 0.5
    styled: float = 0.0
    dealt: bool = False
    solver_steps: int = 6
    guidance: float = 3.0
    fresh: bool = False
    refit: float = 0.0

    @property
    def checks(self) -> int:
        """Number of checks of a run that takes all steps."""
        return 1 + (math.ceil((self.steps - self.first) / self.again) if 0 < self.first < self.steps else 0)

    @property
    def bank_passes(self) -> int:
        """UNet passes that draw the latent bank: a guided trajectory of each concept prompt, a plain one of
        each retained.
        """
        return 0 if self.fresh else self.solver_steps * (2 * self.trajectories + self.retain_trajectories)


@dataclass(frozen=True)
class Method:
    """One paper as a setting of the cycle's three choices.

    published: what the paper's own code does (`faithful`); searches: whether the model is searched for other
    words that mean the concept; checks: whether the cycle checks what is left of it (domain/check.py);
    closed: a closed form instead of the cycle, whose
    rounds are training.steps; warm: a closed form from which the cycle starts; layers: train only layers
    whose names hold one of these.
    """

    name: str
    title: str
    citation: str
    summary: str
    domain: Domain | None
    target: Target | None
    retention: tuple[Retention, ...]
    surface: str
    training: Training
    published: Training | None = None
    closed: ClosedForm | None = None
    searches: bool = False
    checks: bool = False
    warm: ClosedForm | None = None
    layers: tuple[str, ...] = ("",)

    @property
    def choices(self) -> list[Choice]:
        """Domain, target and retention terms; none of a closed form."""
        given = (self.domain, self.target, *self.retention)
        return [choice for choice in given if choice is not None]

    def training_as(self, faithful: bool) -> Training | None:
        """How it trains here, or as the paper's own code does (None where there is none)."""
        return self.published if faithful else self.training

    def passes(self, faithful: bool = False) -> int | None:
        """UNet passes of a run that takes all its steps, with its search and all its checks; a backward
        counts as two.

        None where there is no published training.
        """
        training = self.training_as(faithful)
        if training is None:
            return None
        looking = 0
        if not faithful:
            looking = SEARCH_PASSES * self.searches
            looking += checking.passes(THING, checking.MOST_NAMES, training.checks) * self.checks
        return looking + (0 if self.closed is not None else self.passes_of(training))

    def passes_of(self, training: Training) -> int:
        """The same of a training with other numbers."""
        batch = training.erase_batch
        # Half a guided trajectory on average, and two frozen predictions.
        walk = training.solver_steps + 1 if training.fresh else 0
        # Without noisy latents everything is in text space.
        step = batch * (ROW + walk) if training.fresh or training.trajectories else 0
        for choice in self.choices:
            step += choice.passes(walk, batch)
        return training.bank_passes + training.steps * step

    def rows(self, batch: int) -> int:
        """Samples in the UNet batch of a step beside `batch` erased ones."""
        return sum(choice.rows(batch) for choice in self.choices)

    def prompts(self) -> int:
        """Prompts a step that go through the text encoder alone."""
        return sum(choice.prompts() for choice in self.choices)


# The papers' plain Adam from its first step on, here from a larger bank than sage's own.
STEADY: dict[str, Any] = {
    "trajectories": 12,
    "retain_trajectories": 12,
    "adjacent": 0.0,
    "solver_steps": 8,
    "erase_batch": 4,
    "warmup": 0,
    "beta2": 0.999,
}


def steady(steps: int, rate: float, **other: Any) -> Training:
    """A fixed number of steps at a constant rate, as the papers train, from a larger bank."""
    return Training(steps=steps, settle=0, learning_rate=rate, **STEADY | other)


def published(steps: int, rate: float, **other: Any) -> Training:
    """One sample a step, a fresh trajectory of 50 steps with guidance 3 for each."""
    return steady(steps, rate, erase_batch=1, solver_steps=50, fresh=True, **other)


# What sage starts from: the UNet's V alone, edited as strongly for every concept, and so that edits of
# several concepts add up to little.
START = ClosedForm(
    keep_own=20.0,
    rounds=1,
    templates=12,
    retain=5e-5,
    everywhere=True,
    shared=1e6,
    reach=0.63,
    style_reach=1.3,
    keep_rank=True,
    styled=True,
    layers=VALUES,
)

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "sage",
            "SAGE",
            "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "finds the other words for the concept in the model, starts from a closed-form edit, learns names"
            " that still draw the concept and erases them all, keeps the relations between other concepts and"
            " their predicted noise, and checks every name until nothing of the concept is left",
            NameInversion(),
            NegativeGuidance(eta=1.5),
            (Relations(weight=0.5, batch=24), Noise(weight=12.0, batch=1)),
            "both",
            Training(
                steps=30,
                first=17,
                learning_rate=3e-3,
                trajectories=4,
                retain_trajectories=8,
                styled=0.67,
                dealt=True,
                refit=4.0,
            ),
            searches=True,
            checks=True,
            warm=START,
        ),
        Method(
            "sage-robust",
            "SAGE, little retained",
            "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "sage on the UNet alone, pushed further from the concept, with a fortieth of the local retention:"
            " harder to bring back, not for stacks of many",
            NameInversion(),
            NegativeGuidance(),
            (Noise(weight=0.5, batch=1),),
            "cross_attention",
            Training(steps=32, learning_rate=3e-3, trajectories=6, styled=0.67, dealt=True),
            warm=START,
        ),
        Method(
            "sage-text",
            "SAGE on the text encoder",
            "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "the cycle on the text encoder alone, as the paper has it, so that the file also works in other"
            " models that share the encoder",
            SelfCheck(),
            NegativeGuidance(eta=0.5),
            (Relations(weight=0.2), Noise(weight=10.0)),
            "text",
            Training(steps=90, enough=0.1, settle=15, **STEADY),
        ),
        Method(
            "sage-paper",
            "SAGE as the paper describes it",
            "arXiv 2506.09363 (our reading, before anything was measured)",
            "the same cycle on the search's finds alone, at full negative guidance and for a fixed number of"
            " steps",
            SelfCheck(plain=0.0),
            NegativeGuidance(),
            (Relations(), Noise()),
            "text",
            steady(120, 1e-3, rank=16, erase_batch=8),
        ),
        Method(
            "esd",
            "ESD",
            "arXiv 2303.07345",
            "pushes the bare word away from the concept by negative guidance; nothing is kept",
            Word(templates=False),
            NegativeGuidance(),
            (),
            "cross_attention",
            steady(100, 1e-3, retain_trajectories=0),
            published(200, 1e-3),
        ),
        Method(
            "leco",
            "LECO",
            "github.com/p1atdev/LECO",
            "the same as a LoRA on every linear layer of the UNet's transformer blocks",
            Word(templates=False),
            NegativeGuidance(),
            (),
            "unet",
            steady(100, 1e-3, rank=4, retain_trajectories=0),
            published(1000, 1e-4, rank=4, alpha=1.0),
        ),
        Method(
            "eap",
            "EAP",
            "arXiv 2410.15618",
            "keeps the word that the erasing hurts most, sought anew at every step",
            Word(templates=False),
            NegativeGuidance(clean=True),
            (Adversarial(),),
            "cross_attention",
            steady(100, 1e-3, erase_batch=2),
            published(1000, 1e-3),
        ),
        Method(
            "age",
            "AGE",
            "arXiv 2501.18950",
            "draws the concept as the nearby word at which erasing hurts most, and keeps that word",
            Word(templates=False),
            Adaptive(),
            (),
            "cross_attention",
            steady(100, 1e-3, erase_batch=2, retain_trajectories=0),
            published(1000, 1e-3),
        ),
        Method(
            "realera",
            "RealEra",
            "arXiv 2410.09140 (reconstructed: the authors published neither code nor values)",
            "erases random neighbours of the concept's embedding towards the empty prompt, keeps embeddings"
            " that lie beyond them",
            Neighbours(),
            Anchor(),
            (BeyondConcept(),),
            "cross_attention",
            steady(100, 1e-3, retain_trajectories=0),
        ),
        Method(
            "advunlearn",
            "AdvUnlearn",
            "arXiv 2405.15234",
            "searches a token before the concept through the UNet, erases it from the text encoder, keeps"
            " ordinary prompts",
            PrefixToken(),
            NegativeGuidance(),
            (Noise(weight=1.0, batch=5),),
            "text",
            steady(60, 1e-3, erase_batch=2),
            published(1000, 1e-3),
        ),
        Method(
            "receler",
            "Receler",
            "arXiv 2311.17717",
            "searches soft tokens behind the encoder through the UNet, erases them, keeps the picture where"
            " the concept is not attended to",
            SoftTokens(),
            NegativeGuidance(),
            (Region(),),
            "cross_attention",
            steady(60, 1e-3, rank=32, erase_batch=2, retain_trajectories=0),
            published(500, 3e-4, rank=128),
        ),
        Method(
            "hirm",
            "HiRM",
            "arXiv 2602.19631",
            "turns the concept's last text states in a random direction by training the encoder's first layer"
            " alone; seconds, no UNet pass",
            Word(),
            Misdirect(),
            (),
            "text",
            steady(40, 1e-3, trajectories=0, retain_trajectories=0),
            layers=("layers_0_",),
        ),
        Method(
            "uce",
            "UCE",
            "arXiv 2308.14761",
            "rewrites the UNet's K and V in closed form so that the word reads as nothing and retained words"
            " read as before",
            None,
            None,
            (),
            "cross_attention",
            Training(steps=1),
            closed=ClosedForm(rounds=1),
        ),
        Method(
            "rece",
            "RECE",
            "arXiv 2407.12383",
            "repeats UCE on the embeddings that still mean the concept afterwards; seconds, no UNet pass",
            None,
            None,
            (),
            "cross_attention",
            Training(steps=3),
            closed=ClosedForm(),
        ),
    )
}
