"""What passes cost. Counted per sample, a backward as two forwards."""

from __future__ import annotations

from dataclasses import dataclass

FORWARD, BACKWARD = 1, 2
ROW = FORWARD + BACKWARD  # a trained sample


@dataclass
class Cost:
    """UNet passes, per sample. A backward pass is about as expensive as two forwards."""

    forwards: int = 0
    backwards: int = 0

    @property
    def passes(self) -> int:
        return self.forwards + BACKWARD * self.backwards

    def since(self, before: Cost) -> Cost:
        """What was spent after `before`."""
        return Cost(self.forwards - before.forwards, self.backwards - before.backwards)
