"""The table of presets. A method is data: what is erased, what it becomes, what stays, what is trained, and its source."""

from __future__ import annotations

from dataclasses import dataclass

from .domain.self_check import SelfCheck
from .retention.noise import Noise
from .retention.relations import Relations
from .target.negative_guidance import NegativeGuidance


@dataclass(frozen=True)
class Training:
    """How the cycle runs. Batches count samples a step; trajectories and solver steps size the latent bank.

    steps: at most so many. enough: the cycle ends `settle` steps (in which the learning rate falls) after the residual, the share of
    the concept's pull that is left, was below it on average over `window` steps; 0 never ends early.
    """

    steps: int = 90
    enough: float = 0.1
    settle: int = 15
    window: int = 5
    learning_rate: float = 2e-3
    rank: int = 8
    erase_batch: int = 4
    trajectories: int = 12
    retain_trajectories: int = 12
    solver_steps: int = 8
    guidance: float = 3.0


@dataclass(frozen=True)
class Method:
    """One paper as a setting of the cycle's three choices."""

    name: str
    title: str
    citation: str
    summary: str
    domain: object
    target: NegativeGuidance
    retention: tuple[object, ...]
    surface: str
    training: Training


METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "sage", "SAGE", "arXiv 2506.09363 (equations reconstructed: the authors published no code)",
            "searches prompts that still mean the concept, erases them, keeps the relations between other concepts and their predicted noise",
            SelfCheck(), NegativeGuidance(eta=0.5), (Relations(weight=0.2), Noise(weight=10.0)), "text", Training(),
        ),
    )
}
