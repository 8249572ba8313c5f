"""The pull of a word: where its guidance points, beside where the concept's points.

At a state (z, t) of the concept's own trajectory,

    pull(w) = eps0(z, w) - eps0(z, "")

(or what replaces the concept, in the place of the empty prompt).

A word means the concept as far as cos(pull(w), pull(concept)) is near 1: guidance is all that a sampler takes
from a prompt. One UNet pass a word and state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..prompts.writer import Writer

TOGETHER = 16  # samples in one UNet batch


@dataclass
class Stops:
    """States on the concept's trajectories.

    z [n, 4, h, w], t [n]; own: pull of the concept; empty: eps0 of the prompt without it, or of its
    replacement; scenes: what is beside the concept (prompts.writer.Writer).
    """

    z: torch.Tensor
    t: torch.Tensor
    own: torch.Tensor
    empty: torch.Tensor
    scenes: list[str | None]

    def __len__(self) -> int:
        return len(self.z)

    def some(self, index: list[int]) -> Stops:
        """The states of these places."""
        return Stops(
            self.z[index], self.t[index], self.own[index], self.empty[index], [self.scenes[i] for i in index]
        )


@torch.no_grad()
def walk(
    model: DiffusionModel,
    writer: Writer,
    name: str,
    scenes: list[str | None],
    seeds: list[int],
    steps: int,
    keep: tuple[int, ...],
    guidance: float,
) -> Stops:
    """Guided trajectories of a name, one for each scene, of which the states at the solver steps `keep` are
    kept; it ends behind the last of them. Call it with every adapter off.
    """
    solver, z = model.scheduler(steps), model.noise(seeds)
    cond = model.encode([writer.plain(name, scene) for scene in scenes])
    both = Conditioning.cat([cond, model.encode([writer.neutral(scene, name) for scene in scenes])])
    aim = model.encode([writer.aim(scene, name) for scene in scenes]) if writer.becomes else None
    stops = []
    for i, t in enumerate(solver.timesteps[: max(keep) + 1]):
        ts = t.expand(len(z)).to(model.device)
        with_it, without = model.predict_noise(torch.cat([z, z]), torch.cat([ts, ts]), both).chunk(2)
        if i in keep:
            goal = without if aim is None else model.predict_noise(z, ts, aim)
            stops.append((z, ts, with_it - goal, goal))
        z = solver.step(without + guidance * (with_it - without), t, z).prev_sample
    columns = [torch.cat(column) for column in zip(*stops)]
    return Stops(*columns, scenes * len(stops))


@torch.no_grad()
def cosines(model: DiffusionModel, writer: Writer, words: list[str], stops: Stops) -> torch.Tensor:
    """cos(pull(word), pull(concept)) at every stop; [words, stops]. Call it with every adapter off."""
    found = pulls(model, writer, words, stops, stops.empty).flatten(2)
    return torch.nn.functional.cosine_similarity(found, stops.own.flatten(1)[None], dim=2).cpu()


@torch.no_grad()
def pulls(
    model: DiffusionModel, writer: Writer, words: list[str], stops: Stops, empty: torch.Tensor | None = None
) -> torch.Tensor:
    """eps(z, word) - eps(z, "") at every stop, with whatever adapters are on; [words, stops, 4, h, w].

    empty: eps(z, "") [stops, 4, h, w]; None: predicted, one pass a stop.
    """
    if empty is None:
        without = [writer.aim(scene, writer.names[0]) for scene in stops.scenes]
        empty = model.predict_noise(stops.z, stops.t, encoded(model, without))
    cond = encoded(model, [writer.plain(word, scene) for word in words for scene in stops.scenes])
    z, t = (x.repeat(len(words), *[1] * (x.ndim - 1)) for x in (stops.z, stops.t))
    return predicted(model, z, t, cond).view(len(words), *stops.z.shape) - empty


def predicted(model: DiffusionModel, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
    """eps of any number of samples, in batches; [n, 4, h, w]."""
    found = []
    for i in range(0, len(z), TOGETHER):
        part = slice(i, i + TOGETHER)
        found.append(model.predict_noise(z[part], t[part], cond[part]))
    return torch.cat(found)


def encoded(model: DiffusionModel, prompts: list[str]) -> Conditioning:
    """Conditionings of any number of prompts, each encoded once."""
    different = list(dict.fromkeys(prompts))
    rows = Conditioning.cat(
        [
            model.text.encode(model.text.tokenize(different[i : i + TOGETHER], truncate=True))
            for i in range(0, len(different), TOGETHER)
        ]
    )
    place = {prompt: i for i, prompt in enumerate(different)}
    return rows[[place[prompt] for prompt in prompts]]
