"""Pictures of the concept while it is erased: the first, a few on the way, the last; from the same seeds."""

from __future__ import annotations

import torch

from ..sage_core.prompts.templates import picture_of
from . import bridge
from .pictures import row_to_pil

SEEDS = (1, 2, 3, 4)
ON_THE_WAY = 5  # how often between first and last
STEPS = 8


class Camera:
    """Draws with the core's model as it stands and ComfyUI's VAE; without a VAE it does nothing. Its UNet passes are not counted as cost."""

    def __init__(self, core, model, vae, spec):
        self.core, self.model, self.vae = core, model, vae
        self.prompt = picture_of(spec.concept, spec.kind_of(core.knowledge.styles))
        self.first: torch.Tensor | None = None
        self.last: torch.Tensor | None = None

    def draw(self, seeds: tuple[int, ...]) -> torch.Tensor:
        """Images [n, H, W, 3] in [0, 1]."""
        cost = (self.core.cost.forwards, self.core.cost.backwards)
        with torch.no_grad():
            cond = self.core.text.encode(self.core.text.tokenize([self.prompt] * len(seeds), truncate=True))
            latents = self.core.sample(cond, list(seeds), STEPS)
        self.core.cost.forwards, self.core.cost.backwards = cost
        with torch.inference_mode():
            scaled = self.model.model.process_latent_out(latents.to(torch.float32))
        return bridge.decode(self.vae, scaled)

    def before(self, messages) -> None:
        if self.vae is not None:
            self.first = self.draw(SEEDS)
            messages("before", 0, 1, "before", row_to_pil(self.first))

    def look(self, event):
        """A preview (PIL image) on a few of the erasing steps, else None."""
        if self.vae is None or event.phase != "erase" or event.step % max(1, event.total // (ON_THE_WAY + 1)) or event.step == event.total:
            return None
        return row_to_pil(self.draw(SEEDS[:2]))

    def after(self) -> None:
        if self.vae is not None:
            self.last = self.draw(SEEDS)
