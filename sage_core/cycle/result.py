"""What an erasure returns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..domain.check import Checked
from ..files import remove
from ..lora.adapter import Adapter
from ..lora.file import write_lora
from ..lora.metadata import CHECK_KEY, COST_KEY, LEFT_KEY, LOSSES_KEY, metadata_for
from ..lora.surfaces import file_names
from ..methods.recipe import Recipe
from ..spec import ErasureSpec


@dataclass
class Erasure:
    """The result of `erase`.

    Args:
        recipe: what was done, every choice made.
        adapter: attached to the model; `.remove()` takes it off.
        losses: one dict a step, by the name of the term.
        cost: UNet passes of the erasure.
        seconds: of the erasure, with those before it was resumed.
        state: the finished run's saved state, which `save` deletes.
        dtype: of the file.
        left: (steps done, share of the concept that was left) of every look. The first is the untouched
            model's, (0, 1.0).
        looked: UNet passes of the looks, which `cost` does not count.
        checked: what the last check found; None where nothing was checked.
    """

    recipe: Recipe
    adapter: Adapter
    losses: list[dict[str, float]]
    cost: Cost
    seconds: float
    state: Path | None = None
    dtype: torch.dtype = torch.float16
    left: list[tuple[int, float]] = field(default_factory=list)
    looked: Cost = field(default_factory=Cost)
    checked: Checked | None = None

    @property
    def spec(self) -> ErasureSpec:
        """The recipe as a spec with every field filled in: what repeats this erasure."""
        return ErasureSpec.from_json(self.recipe.to_json())

    def save(
        self,
        path: Path,
        model: DiffusionModel,
        title: str | None = None,
        result: dict[str, Any] | None = None,
    ) -> Path:
        """Write the LoRA file, atomically and with the whole recipe in its metadata."""
        metadata = metadata_for(model, self.recipe.to_json(), title or path.stem, result)
        losses = []
        for step in self.losses:
            losses.append({name: float(f"{value:.4g}") for name, value in step.items()})
        metadata[LOSSES_KEY] = json.dumps(losses)
        if self.left:
            metadata[LEFT_KEY] = json.dumps([[step, round(share, 4)] for step, share in self.left])
        cost = {"unet_forwards": self.cost.forwards, "unet_backwards": self.cost.backwards}
        metadata[COST_KEY] = json.dumps(cost | {"seconds": round(self.seconds, 2)})
        if self.checked is not None:
            metadata[CHECK_KEY] = json.dumps(self.checked.to_json())
        write_lora(path, self.adapter, metadata, self.dtype, file_names(model))
        if self.state is not None:
            remove(self.state)
        return path
