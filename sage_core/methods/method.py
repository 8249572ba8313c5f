"""A method as data: what is erased, what it becomes, what stays, what is trained, how, and its source."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ..diffusion.cost import ROW
from ..domain import check as checking
from ..domain.search import PASSES as SEARCH_PASSES
from ..prompts.kinds import THING
from .base import Choice, Domain, Retention, Target
from .closed_form.config import ClosedForm


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
    style. style_trajectories, style_batch: of a style, in place of trajectories and erase_batch (0: the same
    as of a thing): each trajectory shows it on one thing, and on few things it stays on others. dealt: the
    bank's states come in turn instead of at random. warmup: steps in which the learning rate rises, so that
    Adam's first steps, all of full size, do not shake a closed-form start; beta2: of Adam. refit: weight of
    the words that stay when the trained LoRA is refitted (see lora/refit.py); 0: it is not.
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
    style_trajectories: int = 0
    style_batch: int = 0
    dealt: bool = False
    solver_steps: int = 6
    guidance: float = 3.0
    fresh: bool = False
    refit: float = 0.0

    @property
    def checks(self) -> int:
        """Number of checks of a run that takes all steps."""
        return 1 + (math.ceil((self.steps - self.first) / self.again) if 0 < self.first < self.steps else 0)

    def on_many_things(self) -> Training:
        """As it is for a style that has to be shown on many."""
        return dataclasses.replace(
            self,
            trajectories=self.style_trajectories or self.trajectories,
            erase_batch=self.style_batch or self.erase_batch,
        )

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
            most = checking.passes(THING, checking.MOST_NAMES, training.checks, training.solver_steps)
            looking += most * self.checks
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
