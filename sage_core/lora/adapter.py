"""Low-rank adapters (LoRA, Hu et al. 2021) hung on frozen linear layers by hooks: the model itself is never
changed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from ..diffusion.checkpointing import SWITCHES


class Adapter:
    """down [rank, in] and up [out, rank] per layer, added to the layer's output times alpha / rank times
    `strength`.
    """

    def __init__(
        self,
        layers: dict[str, nn.Linear],
        weights: dict[str, tuple[torch.Tensor, torch.Tensor, float]],
        strength: float = 1.0,
    ):
        self.layers = layers
        self.down = {k: w[0] for k, w in weights.items()}
        self.up = {k: w[1] for k, w in weights.items()}
        self.alpha = {k: w[2] for k, w in weights.items()}
        self.strength, self.enabled = strength, True
        SWITCHES.add(self)
        self._handles = [layer.register_forward_hook(self._hook(name)) for name, layer in layers.items()]

    @classmethod
    def create(
        cls,
        layers: dict[str, nn.Linear],
        rank: int,
        alpha: float,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> Adapter:
        """A new adapter that changes nothing yet: `down` is random, `up` is zero. Trained in float32.

        device: where it computes; None: where each layer's weights are, which a host may keep elsewhere.
        """
        weights = {}
        for name, layer in layers.items():
            r = min(rank, layer.in_features, layer.out_features)
            down = torch.randn(r, layer.in_features, generator=generator) / layer.in_features**0.5
            down, up = (
                down.to(device or layer.weight.device),
                torch.zeros(layer.out_features, r, device=device or layer.weight.device),
            )
            weights[name] = (down.requires_grad_(True), up.requires_grad_(True), alpha * r / rank)
        return cls(layers, weights)

    def _hook(self, name: str):
        def add(module, args, out):
            if not self.enabled or self.strength == 0:
                return out
            scale = self.strength * self.alpha[name] / self.down[name].shape[0]
            # In the layer's own precision: a float32 copy of every input would be kept for the backward pass.
            down, up = self.down[name].to(out.dtype), self.up[name].to(out.dtype)
            return out + scale * F.linear(F.linear(args[0].to(out.dtype), down), up)

        return add

    def parameters(self) -> list[torch.Tensor]:
        return [*self.down.values(), *self.up.values()]

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is the frozen one."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def remove(self) -> None:
        """Take the hooks off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles, self.enabled = [], False

    @torch.no_grad()
    def round_(self, dtype: torch.dtype) -> None:
        """Round the weights as a file in `dtype` will hold them, so that what was measured is what is
        saved.
        """
        for p in self.parameters():
            p.copy_(p.to(dtype).to(p.dtype))

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply what it adds by `factor`, in the weights themselves."""
        for up in self.up.values():
            up.mul_(factor)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state of a LoRA file in the names that every host reads."""
        out = {}
        for name in self.down:
            out[f"{name}.lora_down.weight"] = self.down[name].detach().cpu().contiguous()
            out[f"{name}.lora_up.weight"] = self.up[name].detach().cpu().contiguous()
            out[f"{name}.alpha"] = torch.tensor(float(self.alpha[name]))
        return out

    @torch.no_grad()
    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over weights of the same shapes (a saved state of this adapter)."""
        for name in self.layers:
            self.down[name].copy_(tensors[f"{name}.lora_down.weight"])
            self.up[name].copy_(tensors[f"{name}.lora_up.weight"])
