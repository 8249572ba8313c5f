"""Any image classifier of transformers as a judge, from a local folder.

The concept is seen where the likeliest of all labels is one of the concept's. A label is the concept's where
it is its name, or, if none is, ends with it: "dog" finds "Eskimo dog". Of what has no label the classifier
cannot say anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...diffusion.knowledge import Prompt
from ...diffusion.model import DiffusionModel
from ...errors import SageError, shown
from ...prompts.kinds import bare_words
from ...spec import ErasureSpec
from ..cells import plain_prompts
from .folder import Preparation, config_of, in_parts, key_of_folder, load

MOST_SHOWN = 8  # labels in a sentence


@dataclass(frozen=True)
class Classifier:
    """The network, its labels in the order of its outputs, and what it wants of a picture; its files' key."""

    network: Any
    labels: tuple[str, ...]
    prepare: Preparation
    title: str
    key: str = ""

    @classmethod
    def load(cls, folder: Path) -> Classifier:
        """Raises SageError where the folder holds no image classifier with labels."""
        from transformers import AutoModelForImageClassification

        config_of(folder)
        prepare = Preparation.read(folder)
        network = load(folder, AutoModelForImageClassification.from_pretrained)
        names = network.config.id2label
        labels = tuple(str(names[i]) for i in sorted(names))
        return cls(network, labels, prepare, folder.resolve().name, key_of_folder(folder))

    def named(self, names: list[str]) -> set[int]:
        """The numbers of the labels for these names."""
        wanted = {_plain(name) for name in names}
        spelt = [[_plain(part) for part in label.split(",")] for label in self.labels]
        exact = {i for i, parts in enumerate(spelt) if wanted & set(parts)}
        if exact:
            return exact
        ends = tuple(f" {name}" for name in wanted)
        return {i for i, parts in enumerate(spelt) if any(part.endswith(ends) for part in parts)}

    @torch.no_grad()
    def likeliest(self, images: torch.Tensor, device: torch.device) -> list[int]:
        """The number of each picture's label."""
        if not len(images):
            return []
        logits = in_parts(images, self.prepare, device, lambda pixels: self.network(pixels).logits)
        return logits.argmax(-1).tolist()


def _plain(name: str) -> str:
    """A name or label as it is compared: "Golden_Retriever" is "golden retriever"."""
    text = name.replace("_", " ").strip()
    return " ".join(bare_words(text)) if text else ""


class ClassifierJudge:
    """A classifier as the judge of one erasure.

    labels: those that mean the concept; none: found by its names. Raises SageError where there are none.
    """

    def __init__(
        self, network: Classifier, model: DiffusionModel, spec: ErasureSpec, labels: tuple[str, ...] = ()
    ):
        self.network, self.model, self.spec = network, model, spec
        self.name = f"the classifier {network.title}"
        self.own = self._given(labels) if labels else network.named([spec.concept])
        self.own = self.own or network.named(list(spec.synonyms))
        if not self.own:
            raise SageError(
                f"The classifier {network.title} has no label for {spec.concept!r}; name one of its"
                f" {len(network.labels)} with --label ({self._some(range(len(network.labels)))})."
            )
        self.key = network.key and repr((network.key, spec.concept, sorted(self.own)))
        network.network.to(model.device)
        self.cannot = f"it takes {self._some(sorted(self.own))} for the concept, and knows its labels alone"

    def _given(self, labels: tuple[str, ...]) -> set[int]:
        """Numbers of the labels that the user named."""
        own = set()
        for label in labels:
            found = {i for i, known in enumerate(self.network.labels) if _plain(known) == _plain(label)}
            if not found:
                raise SageError(
                    f"The classifier {self.network.title} has no label {shown(label)}; it has"
                    f" {self._some(range(len(self.network.labels)))}."
                )
            own |= found
        return own

    def _some(self, numbers: Iterable[int]) -> str:
        """Labels by their numbers, as many as a sentence holds."""
        names = [self.network.labels[i] for i in numbers]
        return ", ".join(names[:MOST_SHOWN]) + (", ..." if len(names) > MOST_SHOWN else "")

    def prompts(self, concept: str, given: tuple[str, ...], images: int, seed: int = 0) -> list[Prompt]:
        """`images` prompts for every cell that has words."""
        return plain_prompts(self.model, self.spec, images, seed)

    def expected(self, concept: str) -> str:
        """What `sees` is asked for: the concept itself."""
        return concept

    def sees(self, images: torch.Tensor, expected: list[str], prompts: list[Prompt]) -> list[bool | None]:
        """Whether the likeliest label of each picture is one for what is expected; None where none is."""
        labels = {w: self.own if w == self.spec.concept else self.network.named([w]) for w in set(expected)}
        best = self.network.likeliest(images, self.model.device)
        return [number in labels[w] if labels[w] else None for number, w in zip(best, expected)]
