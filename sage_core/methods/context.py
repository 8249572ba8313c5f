"""What the three choices of a method may see: the model, its adapter, the latents, and the writer of
prompts.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import torch

from ..diffusion.model import DiffusionModel
from ..diffusion.schedule import flow_time
from ..diffusion.text import Conditioning
from ..lora.adapter import Adapter
from ..prompts.compose import compose, meaning
from ..prompts.words import likeness_to
from ..prompts.writer import Writer
from .states import LatentSource, NoLatents

ADJACENT = 12  # retained words that count as the concept's neighbourhood


@dataclass(kw_only=True)
class Context(Writer):
    """A Writer with the model. What the frozen model says is computed once.

    Args:
        model: the model, with `adapter` attached.
        adapter: what is trained; the model without it is the frozen one.
        source: where noisy latents come from.
        close: retained words that are nearest to the concept, found by their pull; nearest first.
    """

    model: DiffusionModel
    adapter: Adapter
    source: LatentSource = field(default_factory=NoLatents)
    close: list[str] = field(default_factory=list)
    _meanings: dict[str, torch.Tensor] = field(default_factory=dict)
    _frozen: dict[str, Conditioning] = field(default_factory=dict)
    _nearest: list[str] = field(default_factory=list)

    def drawing_from(self, source: LatentSource) -> Context:
        """The same context, with latents; what was computed is shared."""
        return dataclasses.replace(self, source=source)

    @property
    def empty_end(self) -> torch.Tensor:
        """The frozen encoder's end state of the empty prompt, the origin from which meanings are measured;
        [width].
        """
        return self.frozen("").hidden[0, 1].float()

    def frozen(self, prompt: str) -> Conditioning:
        """T0(prompt), computed once; one row."""
        if prompt not in self._frozen:
            with torch.no_grad(), self.adapter.off():
                self._frozen[prompt] = self.model.encode([prompt])
        return self._frozen[prompt]

    def frozen_rows(self, prompts: list[str]) -> Conditioning:
        """T0 of each prompt, a row each."""
        return Conditioning.cat([self.frozen(p) for p in prompts])

    def meaning_of(self, name: str) -> torch.Tensor:
        """What the frozen encoder says of the bare name: [1, positions, width]."""
        if name not in self._meanings:
            with torch.no_grad(), self.adapter.off():
                prompts = compose(self.model.text, name, ["{}"])
                self._meanings[name] = meaning(
                    self.model.text.encode_clip(prompts.tokens).hidden, prompts.read, self.empty_end
                )
        return self._meanings[name]

    def nearest(self, count: int = ADJACENT) -> list[str]:
        """The retained words nearest to the concept: by their pull, then by what the UNet reads."""
        if not self.model.text.open:  # likeness is not known; what the caller draws instead is random
            return self.close[:count]
        if not self._nearest:
            with self.adapter.off():
                like = likeness_to(self.model, self.names, self.retained)
            ranked = sorted(zip(like, self.retained), key=lambda pair: -pair[0])
            close = [word for word in self.close if word in self.retained]
            self._nearest.extend(dict.fromkeys([*close, *(word for _, word in ranked)]))
        return self._nearest[:count]

    def predict_frozen(self, z: torch.Tensor, t: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        """eps0(z, h): the original UNet's prediction, differentiable with respect to the conditioning."""
        with self.adapter.off():
            return self.model.predict_noise(z, t, cond)

    def unit(self, t: torch.Tensor) -> float | torch.Tensor:
        """What turns a squared error of noise into one of what the network predicts: 1, or, of a rectified
        flow, whose noise differs from noise by (1 - s) times the velocity, (1 - s)^-2; [n, 1, 1, 1].

        Without it the first, noisiest steps, in which a flow decides what it draws, would weigh nothing.
        """
        if not self.model.family.flow:
            return 1.0
        s = flow_time(self.model.alphas[t]).view(-1, 1, 1, 1)
        return (1 - s) ** -2

    def z0_weight(self, t: torch.Tensor) -> torch.Tensor:
        """What turns a squared error of noise into one of predicted clean latents, (1 - abar) / abar; [n, 1,
        1, 1].

        z0_hat = (z_t - sqrt(1 - abar) eps) / sqrt(abar), so that noisy steps weigh more (EAP, AGE).
        """
        a = self.model.alphas[t].view(-1, 1, 1, 1)
        return (1 - a) / a
