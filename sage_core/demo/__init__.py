"""The bundled models: where their files are, and how they are recognised."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..diffusion.model import DiffusionModel

DEMO = Path(__file__).parent / "model"
FLOW = Path(__file__).parent / "flow"  # a flow transformer that reads text with DEMO's encoder
TOKENIZER = DEMO / "tokenizer"
PROBE = Path(__file__).parent / "probe.safetensors"


@lru_cache(maxsize=1)
def fingerprint() -> str:
    """The fingerprint of the bundled model's token embeddings (see `TextStack.fingerprint`)."""
    from ..diffusion.text import embedding_fingerprint
    from ..diffusion.weights import opened

    with opened(DEMO / "text_encoder" / "model.safetensors") as file:
        name = next(k for k in file.keys() if k.endswith("token_embedding.weight"))  # noqa: SIM118
        return embedding_fingerprint([file.get_tensor(name)])


def recognise(model: DiffusionModel) -> DiffusionModel:
    """Give a loaded model what is known about it, if it is the bundled one; returns the same object.

    Only the token embeddings are compared. LoRAs do not touch them, so the bundled model is still recognised
    behind another erasure; a model of the same shape that was trained separately has other embeddings.
    """
    if model.text.fingerprint == fingerprint():
        from .known import KNOWN

        model.knowledge, model.pixels = KNOWN, KNOWN.pixels
    elif Path(model.source).is_dir():
        from .known import carried

        model.knowledge = carried(Path(model.source)) or model.knowledge
    return model
