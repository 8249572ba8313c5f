"""What each part of an erasure costs here: search, start, bank, steps, checks, refit; and the judge.

    python -m sage_core.bench.phases --family sd1 --size full --pixels 256 --steps 2 --out DIR

Seconds and peak memory of each part of `sage` on a model with random weights, and its UNet passes. All in one
run, so that the ratios hold on a noisy machine. The steps are counted up to those of a run that ends at its
first check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..cycle import run as cycle
from ..cycle.checking import Checks
from ..cycle.refitting import Refit
from ..cycle.run import Run, erase
from ..diffusion.model import DiffusionModel
from ..evaluate.judge import ModelJudge
from ..files import write_text
from ..memory.plan import fit
from ..methods.table import METHODS
from ..spec import ErasureSpec
from .cost import Peak
from .random_models import random_model

# (part, where its function lives, the function's name)
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("search", cycle, "searched"),
    ("start", Run, "warm_start"),
    ("bank", cycle, "latent_bank"),
    ("steps", Run, "step"),
    ("checks", Checks, "_left"),
    ("refit", Refit, "apply"),
)
MEGABYTE = 2**20


@dataclass
class Part:
    """Sums over all calls, and the highest memory of one of them beyond the weights."""

    calls: int = 0
    passes: int = 0
    seconds: float = 0.0
    peak: int = 0

    def time(self, model: DiffusionModel, call: Callable[[], Any]) -> Any:
        """Do it, and note what it took."""
        passes, began = model.cost.passes, time.monotonic()
        with Peak(model.device) as peak:
            result = call()
            if model.device.type == "cuda":
                torch.cuda.synchronize()
        self.calls += 1
        self.passes += model.cost.passes - passes
        self.seconds += time.monotonic() - began
        self.peak = max(self.peak, peak.bytes)
        return result


@contextlib.contextmanager
def timed(model: DiffusionModel) -> Iterator[dict[str, Part]]:
    """Inside, every part of an erasure is measured."""
    parts = {name: Part() for name, _, _ in PARTS}
    before = [(owner, attribute, getattr(owner, attribute)) for _, owner, attribute in PARTS]

    def wrapped(part: Part, function: Callable) -> Callable:
        return lambda *args, **options: part.time(model, lambda: function(*args, **options))

    for (name, owner, attribute), (_, _, function) in zip(PARTS, before):
        setattr(owner, attribute, wrapped(parts[name], function))
    try:
        yield parts
    finally:
        for owner, attribute, function in before:
            setattr(owner, attribute, function)


def measure(model: DiffusionModel, device: torch.device, steps: int | None, pictures: int) -> dict:
    """Parts of one erasure, and the model's own judgement of some pictures."""
    spec = ErasureSpec("castle", steps=steps)
    plan = fit(model, spec.recipe_for(model), device)
    assert plan is not None  # a model with random weights is none that is known to fit
    with timed(model) as parts:
        erasure = erase(model, spec)
    judged = parts["judge of one picture"] = Part()
    judge = ModelJudge(model, spec)
    asked = judge.prompts(spec.concept, (), 1)[:1] * pictures
    latents = torch.randn(pictures, *model.latent_shape, device=device)
    judged.time(model, lambda: judge.sees_latents(latents, [judge.expected(spec.concept)] * pictures, asked))
    erasure.adapter.remove()
    whole = METHODS[spec.method].training.first / max(1, parts["steps"].calls)
    rows = {name: counted(part, whole if name == "steps" else 1.0) for name, part in parts.items()}
    rows["judge of one picture"] = counted(judged, 1 / pictures)
    return {"plan": str(plan), "predicted_step_bytes": plan.step, "parts": rows}


def counted(part: Part, times: float) -> dict:
    """A part, counted up."""
    return {
        "calls": part.calls,
        "passes": round(times * part.passes, 1),
        "seconds": round(times * part.seconds, 2),
        "peak_bytes": part.peak,
    }


def markdown(result: dict) -> str:
    """Passes, seconds in units of the steps', and peak memory in units of a step's."""
    parts = result["parts"]
    step = parts["steps"]
    lines = ["| part | UNet passes | time, of the steps' | peak memory, of a step's |", "|---|---|---|---|"]
    for name, part in parts.items():
        time_ratio = part["seconds"] / max(step["seconds"], 1e-9)
        memory = part["peak_bytes"] / max(1, step["peak_bytes"])
        lines.append(f"| {name} | {part['passes']:,.0f} | {time_ratio:.2f} | {memory:.2f} |")
    lines.append(
        f"\nA step's peak beyond the weights: {step['peak_bytes'] / MEGABYTE:,.0f} MB, predicted"
        f" {result['predicted_step_bytes'] / MEGABYTE:,.0f} MB."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=("sd1", "sdxl", "sd3"), default="sd1")
    parser.add_argument("--size", choices=("thin", "full"), default="thin")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--pixels", type=int, help="side of the pictures (default: the model's own)")
    parser.add_argument("--steps", type=int, help="that are timed (default: all)")
    parser.add_argument("--pictures", type=int, default=2, help="that the judge looks at")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    model = random_model(args.family, args.size, getattr(torch, args.dtype), args.pixels)
    result = measure(model, torch.device(args.device), args.steps, args.pictures)
    result |= {"family": args.family, "size": args.size, "pixels": model.pixels, "dtype": args.dtype}
    write_text(args.out / f"phases-{args.family}-{args.size}.json", json.dumps(result, indent=1))
    print(markdown(result))


if __name__ == "__main__":
    main()
