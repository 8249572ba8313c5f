"""One erasure from a spec to its files, as every command does it: room on the disk, one run a name, the
state, the LoRA, its picture.
"""

from __future__ import annotations

import json
from pathlib import Path

from ..cycle.run import Erasure
from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..files import check_room, claimed, write_picture
from ..lora.file import rewrite_metadata
from ..lora.metadata import RESULT_KEY
from ..lora.surfaces import surface_layers
from ..memory.plan import Plan, erase_as_planned
from ..progress import Progress
from ..spec import ErasureSpec

COPIES = 4  # of the adapter in a state: its weights, Adam's two moments, and a little for the bank


def make_lora(
    model: DiffusionModel,
    spec: ErasureSpec,
    path: Path,
    plan: Plan | None,
    progress: Progress,
    resume: bool = False,
    save_every: float = 10.0,
    preview: bool | None = None,
) -> dict:
    """Erase, save to `path`, and say what it took, as JSON values.

    `preview`: draw before and after beside the LoRA (None: where that is quick). Raises SageError; a state
    for `resume` is left then, if there was one.
    """
    check_room(path, room_for(model, spec))
    with claimed(path):
        erasure = erase_as_planned(
            model, spec, plan, progress, progress, path.with_suffix(".resume"), resume, save_every
        )
        try:
            quick = model.knowledge.quick or model.device.type != "cpu"
            if model.vae is None or not (quick if preview is None else preview):
                erasure.save(path, model)
            else:
                save_measured(model, erasure, path, 4, None, progress)
        finally:
            erasure.adapter.remove()
    return {
        "spec": erasure.spec.to_json(),
        "lora": {"path": str(path), "bytes": path.stat().st_size, "rank": erasure.spec.rank},
        "cost": {
            "unet_forwards": erasure.cost.forwards,
            "unet_backwards": erasure.cost.backwards,
            "seconds": round(erasure.seconds, 2),
        },
    }


def passes_of(made: dict) -> int:
    """UNet passes in what `make_lora` returned."""
    return Cost(made["cost"]["unet_forwards"], made["cost"]["unet_backwards"]).passes


def room_for(model: DiffusionModel, spec: ErasureSpec) -> int:
    """Bytes on the disk that a run takes: its state is the largest of what it writes."""
    spec = spec.resolved()
    return COPIES * sum(
        4 * spec.rank * (layer.in_features + layer.out_features)
        for layer in surface_layers(model, spec.surface).values()
    )


def save_measured(
    model: DiffusionModel, erasure: Erasure, path: Path, images: int, attack, progress: Progress
):
    """Save the LoRA, then measure it, put the result into its metadata and a preview picture beside it.

    Returns the Evaluation.
    """
    erasure.save(path, model)  # first: whatever goes wrong below, the training is not lost
    from ..evaluate.measure import evaluate, measure_original
    from ..evaluate.report import picture

    spec, lora = erasure.spec, {"path": str(path), "bytes": path.stat().st_size, "rank": erasure.spec.rank}
    with erasure.adapter.off():
        base = measure_original(model, spec, images, spec.seed % 1000, attack, progress)
    evaluation = evaluate(
        model, base, spec, erasure.cost, erasure.seconds, lora, images, spec.seed % 1000, attack, progress
    )
    rewrite_metadata(
        path, {RESULT_KEY: json.dumps({k: evaluation.report[k] for k in ("before", "after", "drift")})}
    )
    write_picture(picture(evaluation, columns=4), path.with_suffix(".png"))
    return evaluation
