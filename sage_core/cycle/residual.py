"""How much of the erasing is still to do: when the cycle ends, and how fast it learns until then."""

from __future__ import annotations

from ..methods.method import Training


class Residual:
    """The erasing loss over the last steps, in units of the frozen model's.

    A ratio of sums: single steps near the end of a trajectory, where the concept pulls little, would drown a
    mean of ratios.
    """

    def __init__(self, training: Training, checked: bool = False):
        self.training = training
        self.pulls: list[tuple[float, float]] = []  # of each step: the erasing loss, and the frozen model's
        self.goal = training.steps  # until the next check, or in all
        if checked and training.first:
            self.goal = min(training.first, training.steps)
        self.erased_at: int | None = None  # the first step after which the residual was low enough

    def note(self, loss: float, pull: float) -> None:
        """Take in one step."""
        self.pulls.append((loss, pull))
        known = len(self.pulls) >= self.training.window
        if self.erased_at is None and known and self.value() < self.training.enough:
            self.erased_at = len(self.pulls)

    def value(self) -> float:
        last = self.pulls[-self.training.window :]
        return sum(loss for loss, _ in last) / sum(pull for _, pull in last)

    def total(self) -> int:
        """Number of steps in the whole run, as far as is known now."""
        if self.erased_at is None:
            return self.goal
        return min(self.goal, self.erased_at + self.training.settle)

    def go_on(self) -> None:
        """Another round of steps, up to the most."""
        self.goal = min(self.training.steps, self.goal + self.training.again)

    def rate(self, done: int) -> float:
        """Learning rate of the step after `done` steps.

        It rises linearly over the first `warmup` steps, and falls to a tenth over the last `settle`.
        """
        rise = (1 + done) / max(1, self.training.warmup)
        fall = 0.1 + 0.9 * (self.total() - done) / max(1, self.training.settle)
        return self.training.learning_rate * min(1.0, rise, fall)
