"""The probe: a small convolutional network that names the concept and the style of a 64 x 64 picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..demo import judging
from ..diffusion.knowledge import Prompt
from ..evaluate.kept import digest
from .vocabulary import Vocabulary


class Probe(nn.Module):
    """Image [n, 3, 64, 64] in [-1, 1] to logits over concepts [n, concepts] and styles [n, styles]."""

    def __init__(self, concepts: int, styles: int, widths: tuple[int, ...] = (32, 64, 128, 160)):
        super().__init__()
        layers, previous = [], 3
        for width in widths:
            layers += [
                nn.Conv2d(previous, width, 3, stride=2, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            previous = width
        self.features = nn.Sequential(*layers)
        self.concept = nn.Linear(2 * previous, concepts)
        self.style = nn.Linear(2 * previous, styles)

    def pooled(self, image: torch.Tensor) -> torch.Tensor:
        """What both heads read, [n, 2 * the last width]."""
        features = self.features(image)
        return torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.pooled(image)
        return self.concept(pooled), self.style(pooled)


@dataclass(frozen=True)
class Seen:
    """What the probe says of one picture."""

    concept: str
    style: str
    probability: float


class Judge:
    """The trained probe with names put to its outputs."""

    name = "the model's own probe"
    cannot = ""

    def __init__(self, probe: Probe, vocabulary: Vocabulary):
        self.probe, self.vocabulary = probe.eval(), vocabulary
        weights = [value for _, value in sorted(probe.state_dict().items())]
        self.key = repr(("probe", digest(*weights), vocabulary.names, vocabulary.styles))

    @classmethod
    def load(cls, path: Path, vocabulary: Vocabulary) -> Judge:
        from safetensors.torch import load_file

        probe = Probe(len(vocabulary.names), len(vocabulary.styles))
        probe.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}
        )
        return cls(probe, vocabulary)

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell."""
        return judging.demo_prompts(self.vocabulary, concept, given, images, seed)

    def expected(self, concept: str) -> str:
        """The probe's name of the erased concept."""
        return judging.expected(self.vocabulary, concept)

    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> list[bool | None]:
        """Whether each picture shows the concept or style that is expected of it, whatever was asked; None
        where the probe has no such name.
        """
        known = {*self.vocabulary.names, *self.vocabulary.styles}
        seen = zip(self.look(images), expected)
        return [e in (s.concept, s.style) if e in known else None for s, e in seen]

    def shows(self, images: torch.Tensor, words: list[str], kind: str, rivals: list[str]) -> list[bool]:
        """Whether each picture shows its word, a concept or a style; the rivals are all that it knows."""
        return [word in (seen.concept, seen.style) for seen, word in zip(self.look(images), words)]

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What its heads read of `images` [n, 3, 64, 64], values in [-1, 1]; [n, 320]."""
        return self.probe.pooled(images.float().cpu())

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> list[Seen]:
        """Names what is in `images` [n, 3, 64, 64], values in [-1, 1]."""
        concept, style = self.probe(images.float().cpu())
        best = concept.softmax(-1).max(-1)
        return [
            Seen(self.vocabulary.names[i], self.vocabulary.styles[s], p)
            for i, s, p in zip(best.indices.tolist(), style.argmax(-1).tolist(), best.values.tolist())
        ]
