"""Pictures that a server has saved, and what the bundled model's probe sees in them."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image


def pictures(comfy, outcome, node: str) -> torch.Tensor:
    """Saved pictures of a node as [n, 3, H, W] in [-1, 1]."""
    images = [
        Image.open(io.BytesIO(comfy.image(entry))).convert("RGB") for entry in outcome.outputs[node]["images"]
    ]
    return torch.stack(
        [torch.from_numpy(np.asarray(i, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1 for i in images]
    )


def seen(images: torch.Tensor, concept: str) -> float:
    from sage_core.demo import PROBE
    from sage_core.demo.probe import Judge
    from sage_core.demo.vocabulary import BUNDLED

    return sum(s.concept == concept for s in Judge.load(PROBE, BUNDLED).look(images)) / len(images)
