"""How much of a concept is left: what the untouched model sees of it in pictures that the model draws now.

A picture shows a concept as far as the prompt with the concept explains it better than the same prompt
without it. For a clean latent z0, noised to z_t with the same noise e for both prompts:

    margin(z0) = mean over t of |eps0(z_t, without) - e|^2 - |eps0(z_t, with) - e|^2

This is the diffusion classifier of Li et al. (arXiv 2303.16203), with the untouched model as the classifier.
With margin_0 of the untouched model's pictures from the same noise:

    left = sum of clamp(margin, 0, margin_0) / sum of max(margin_0, 0)

1 is the untouched model; 0 is a model in whose pictures nothing of the concept is seen. It works for every
model and every method, since it looks at pictures and not at what was trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from ..prompts.kinds import PERSON
from ..prompts.templates import SHOWN_ON, picture_of

if TYPE_CHECKING:
    from ..diffusion.text import Conditioning
    from ..methods.context import Context

PICTURES = 6
STEPS = 6  # of the solver
TIMES = (500, 700)  # noise levels at which a picture is judged
SMALLEST = 1e-6  # sum of margins; less is a model that never drew the concept
SEED = 20_000  # of the noise, away from the seeds that training draws


def on_the_way(steps: int) -> int:
    """How many looks a run of that many steps has between the first and the last; a closed form (0 steps) has
    none.
    """
    return 0 if steps == 0 else 1 + min(3, steps // 100)


def passes(steps: int) -> int:
    """UNet passes of all looks of a run, without gradients."""
    return (2 + on_the_way(steps)) * PICTURES * 2 * (STEPS + len(TIMES))


class Watch:
    """Draws the concept now and then, and notes how much of it is left.

    Its random numbers are its own and nothing that is trained depends on it. Its UNet passes are counted in
    `cost`, not in the model's: they erase nothing. `curve`: (steps done, share that was left) of every look,
    the untouched model first. `on_look(step, total, share, latents)` is called after each; latents:
    [PICTURES, 4, h, w].
    """

    def __init__(self, context: Context, on_look: Callable[[int, int, float, torch.Tensor], None]):
        self.context, self.model, self.on_look = context, context.model, on_look
        self.curve: list[tuple[int, float]] = []
        self.cost = dataclasses.replace(self.model.cost, forwards=0, backwards=0)
        pairs = [self._prompts(i) for i in range(PICTURES)]
        self.prompts, self.without = [with_it for with_it, _ in pairs], [without for _, without in pairs]
        self.whole = torch.zeros(PICTURES)  # margins of the untouched model's pictures

    @torch.no_grad()
    def begin(self) -> None:
        """Look at the untouched model: what is left is measured against its pictures."""
        with self._counted(), self.context.adapter.off():
            latents = self._draw()
            self.whole = self._margins(latents).clamp(min=0)
        self._note(0, 1, 1.0, latents)

    @torch.no_grad()
    def look(self, step: int, total: int) -> None:
        """Look at the model with the adapter as it is after `step` of `total` steps."""
        with self._counted():
            latents = self._draw()
            with self.context.adapter.off():
                seen = self._margins(latents).clamp(min=0).minimum(self.whole)
        self._note(step, total, (seen.sum() / self.whole.sum().clamp(min=SMALLEST)).item(), latents)

    def _note(self, step: int, total: int, share: float, latents: torch.Tensor) -> None:
        self.curve.append((step, share))
        self.on_look(step, total, share, latents)

    def _prompts(self, number: int) -> tuple[str, str]:
        """A prompt of the concept, and the same without it: alone and in other styles in turn, a style on
        things.
        """
        context = self.context
        name = context.names[number % len(context.names)]
        scenes = SHOWN_ON if context.style else context.other_styles
        if not scenes or not context.style and number % 2 == 0:
            without = "a photo" if context.kind == PERSON else "a picture"
            if context.becomes:
                without = picture_of(context.becomes, context.kind)
            return picture_of(name, context.kind), without
        scene = scenes[(number if context.style else number // 2) % len(scenes)]
        return context.plain(name, scene), context.aim(scene, name)

    def _draw(self) -> torch.Tensor:
        seeds = [SEED + i for i in range(PICTURES)]
        return self.model.sample(self._encoded(self.prompts), seeds, STEPS)

    def _encoded(self, prompts: list[str]) -> Conditioning:
        return self.model.text.encode(self.model.text.tokenize(prompts, truncate=True))

    def _margins(self, latents: torch.Tensor) -> torch.Tensor:
        """margin(z0) of each picture, by the untouched model (the adapter is off); [PICTURES]."""
        cond = [self._encoded(self.prompts), self._encoded(self.without)]
        return torch.stack([self._margin(latents, time, *cond) for time in TIMES]).mean(0)

    def _margin(
        self, latents: torch.Tensor, time: int, with_it: Conditioning, without: Conditioning
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(SEED + time)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        abar = self.model.alphas[time]
        z, t = (
            abar.sqrt() * latents + (1 - abar).sqrt() * noise,
            torch.full((len(latents),), time, device=latents.device),
        )
        errors = [
            (self.model.predict_noise(z, t, c) - noise).square().mean((1, 2, 3)) for c in (with_it, without)
        ]
        return errors[1] - errors[0]

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Inside, the model's passes are counted as the watch's own."""
        cost = self.model.cost
        before = cost.forwards, cost.backwards
        try:
            yield
        finally:
            self.cost.forwards += cost.forwards - before[0]
            cost.forwards, cost.backwards = before
