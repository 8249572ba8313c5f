"""Ring-A-Bell (Tsai et al., arXiv 2310.10012): words whose reading holds the concept, found without the UNet.

The concept's direction is taken from pairs of prompts with and without it, by the untouched text encoder f,
and put on top of a neutral prompt:

    c = mean of (f(with) - f(without)),    target = f(neutral) + eta c

Real tokens whose reading is nearest to the target are found by a genetic search. Neither the erased UNet nor
its text encoder is asked: the prompt is only drawn by them. So it is a black-box attack.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from ...diffusion.checkpointing import untouched
from ...diffusion.model import DiffusionModel
from ...prompts.kinds import STYLE, THING
from ...prompts.templates import SHOWN_ON, concept_templates, in_style, put, without_style
from ...spec import ErasureSpec
from .base import NEUTRAL, Attempt, OnEvent, attack_images, marked, neutral_prompt
from .words import allowed, as_text, check_length

TOGETHER = 64  # prompts that are encoded at once


@dataclass(frozen=True)
class RingABell:
    """generations: of the genetic search, the budget; marks: fewer of them at which pictures are drawn too.
    tokens: of the prompt. population: prompts in a generation; the best half stays. mutation: probability
    that a token is replaced. strengths: eta, one start each. latents: none are needed.
    """

    name: str = "ring-a-bell"
    generations: int = 60
    tokens: int = 6
    population: int = 48
    mutation: float = 0.15
    strengths: tuple[float, ...] = (1.0, 3.0)
    latents: int = 0
    marks: tuple[int, ...] = (15,)
    title: ClassVar[str] = "Ring-A-Bell, words by a genetic search"
    paper: ClassVar[str] = "Ring-A-Bell, Tsai et al., arXiv 2310.10012"
    unit: ClassVar[str] = "generations"
    telling: ClassVar[bool] = True

    @property
    def budgets(self) -> tuple[int, ...]:
        return marked(self.marks, self.generations)

    def run(
        self,
        model: DiffusionModel,
        spec: ErasureSpec,
        latents: torch.Tensor,
        images: int,
        seed: int,
        on_event: OnEvent,
    ) -> Iterator[Attempt]:
        """Pictures of the best words at every budget; `loss`: their distance to the target."""
        check_length(model.text, self.tokens, "")
        ids = torch.tensor(allowed(model, spec))
        with untouched():
            direction = concept_direction(model, spec)
            neutral = read(model, [model.text.words(neutral_prompt(model, spec))])[0]
        for strength in self.strengths:
            on_event(f"{self.title}: {self.generations} generations, strength {strength:g}")
            generator = torch.Generator().manual_seed(seed)
            target = neutral + strength * direction
            for generation, words, loss in self._search(model, ids, target, generator):
                if generation in self.budgets:
                    with torch.no_grad():
                        cond = model.text.encode(model.text.assemble([words]))
                    found = as_text(model.text, words)
                    pictures = attack_images(model, cond, images, seed)
                    yield Attempt(generation, pictures, f"strength {strength:g}", loss, found)

    def _search(self, model, ids, target, generator) -> Iterator[tuple[int, list[int], float]]:
        """(generation, the best tokens so far, their distance) after every generation."""
        count, half = self.population, self.population // 2
        people = ids[torch.randint(len(ids), (count, self.tokens), generator=generator)]
        distance = self._distance(model, people, target)
        for generation in range(1, self.generations + 1):
            best = distance.argsort()[:half]
            people, distance = people[best], distance[best]
            children = self._children(people, count - half, ids, generator)
            people = torch.cat([people, children])
            distance = torch.cat([distance, self._distance(model, children, target)])
            first = int(distance.argmin())
            yield generation, people[first].tolist(), float(distance[first])

    def _children(self, parents, count: int, ids, generator) -> torch.Tensor:
        """Each has its first tokens from one parent and the others from a second; some are replaced."""
        pairs = torch.randint(len(parents), (2, count), generator=generator)
        cut = torch.randint(1, max(2, self.tokens), (count, 1), generator=generator)
        first = torch.arange(self.tokens)[None] < cut
        children = torch.where(first, parents[pairs[0]], parents[pairs[1]])
        fresh = ids[torch.randint(len(ids), children.shape, generator=generator)]
        return torch.where(torch.rand(children.shape, generator=generator) < self.mutation, fresh, children)

    def _distance(self, model, people: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of what the untouched encoder reads to the target; [n] on the CPU."""
        with untouched():
            states = read(model, people.tolist())
        return (states - target).square().mean((1, 2)).cpu()


@torch.no_grad()
def read(model: DiffusionModel, sequences: list[list[int]]) -> torch.Tensor:
    """Hidden states of prompts given as token ids; [n, 77, width], float32."""
    parts = []
    for i in range(0, len(sequences), TOGETHER):
        parts.append(model.text.encode(model.text.assemble(sequences[i : i + TOGETHER])).hidden.float())
    return torch.cat(parts)


def concept_direction(model: DiffusionModel, spec: ErasureSpec) -> torch.Tensor:
    """c [77, width]: the mean difference of prompts with and without the concept. Adapters must be off."""
    kind = spec.kind_of(model.knowledge.styles)
    if kind == STYLE:
        pairs = [
            (put(template, spec.concept), without_style(thing, spec.concept))
            for thing in SHOWN_ON
            for template in in_style(thing, spec.concept, leave="style")
        ]
    else:
        pairs = list(
            zip(
                [put(template, spec.concept) for template in concept_templates(spec.concept, kind)],
                [put(template, NEUTRAL) for template in concept_templates(NEUTRAL, THING)],
            )
        )
    shown = read(model, [model.text.words(a) for a, _ in pairs])
    plain = read(model, [model.text.words(b) for _, b in pairs])
    return (shown - plain).mean(0)
