"""The pull of a word: where its guidance points, beside where the concept's points.

At a state (z, t) of the concept's own trajectory,

    pull(w) = eps0(z, w) - eps0(z, "")

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

    z [n, 4, h, w], t [n]; own: pull of the concept; empty: eps0 of the prompt without it; scenes: what is
    beside the concept (prompts.writer.Writer).
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
    stops = []
    for i, t in enumerate(solver.timesteps[: max(keep) + 1]):
        ts = t.expand(len(z)).to(model.device)
        with_it, without = model.predict_noise(torch.cat([z, z]), torch.cat([ts, ts]), both).chunk(2)
        if i in keep:
            stops.append((z, ts, with_it - without, without))
        z = solver.step(without + guidance * (with_it - without), t, z).prev_sample
    columns = [torch.cat(column) for column in zip(*stops)]
    return Stops(*columns, scenes * len(stops))


@torch.no_grad()
def cosines(model: DiffusionModel, writer: Writer, words: list[str], stops: Stops) -> torch.Tensor:
    """cos(pull(word), pull(concept)) at every stop; [words, stops]. Call it with every adapter off."""
    prompts = [writer.plain(word, scene) for word in words for scene in stops.scenes]
    cond = encoded(model, prompts)
    repeated = [x.repeat(len(words), *[1] * (x.ndim - 1)) for x in (stops.z, stops.t, stops.empty, stops.own)]
    z, t, empty, own = repeated
    pulls = []
    for i in range(0, len(z), TOGETHER):
        part = slice(i, i + TOGETHER)
        pulls.append(model.predict_noise(z[part], t[part], cond[part]) - empty[part])
    flat = torch.nn.functional.cosine_similarity(torch.cat(pulls).flatten(1), own.flatten(1))
    return flat.view(len(words), len(stops)).cpu()


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
