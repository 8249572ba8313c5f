"""Pictures of the concept while it is erased, from the looks of the core (sage_core/cycle/watch.py)."""

from __future__ import annotations

import torch

from . import bridge
from .pictures import row_to_pil


class Camera:
    """Decodes the looks with ComfyUI's VAE, so that what is shown is what is judged.

    Without a VAE it does nothing.

    `first`: the untouched model's pictures [n, H, W, 3] in [0, 1]; `last`: those of the latest look.
    """

    def __init__(self, model, vae):
        self.model, self.vae = model, vae
        self.first: torch.Tensor | None = None
        self.last: torch.Tensor | None = None

    def picture(self, event):
        """A PIL image of a look; None for other events."""
        if self.vae is None or event.latents is None:
            return None
        with torch.inference_mode():
            scaled = bridge.as_sampled(self.model, event.latents.to(torch.float32).cpu())
        self.last = bridge.decode(self.vae, scaled)
        if self.first is None:
            self.first = self.last
        return row_to_pil(self.last)
