"""What an erasure costs on this machine: seconds and peak memory of `sage` and of ESD, LECO and AdvUnlearn at
their published cost.

    python -m sage_core.bench.cost --family sd1 --size thin --out DIR     # a CPU; minutes
    python -m sage_core.bench.cost --family sdxl --size full --out DIR    # a GPU

One model with random weights, one device, one run, so that the ratios hold on a noisy machine. Ours is run to
its end; of the others a few steps are timed, each with its own fresh trajectory, and counted up to all that
their papers' code takes in expectation.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..cycle.run import erase
from ..files import write_text
from ..memory.plan import fit
from ..methods.table import METHODS
from ..progress import Event
from ..spec import ErasureSpec
from . import measured_plots
from .plots import draw
from .published import counted_up
from .random_models import random_model

RIVALS = ("esd", "leco", "advunlearn")


class Peak:
    """Memory taken inside, beyond what there was before: of the GPU, or of this process."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"

    def __enter__(self) -> Peak:
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back, or it would be taken again unseen
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the highest so far is now
            self.before = _status("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else _status("VmHWM")) - self.before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def whole(model, spec: ErasureSpec, device: torch.device) -> dict:
    """Seconds, in all and by phase, and peak memory of an erasure; its first step, which warms up, is in it.

    Of one with fewer steps, `expected_seconds` are those of all: the start as it is, the bank and the steps
    counted up.
    """
    marks: dict[
        str, tuple[float, int]
    ] = {}  # seconds and passes at the bank's first pass, its end, and the last step's

    def note(event: Event) -> None:
        now = time.monotonic(), model.cost.passes
        marks.setdefault("start", now)
        marks[event.phase] = now

    with Peak(device) as peak:
        began, training = time.monotonic(), METHODS[spec.method].training
        erasure = erase(model, spec, note)
        erasure.adapter.remove()
    start, (bank, drawn), step = (
        marks["start"][0] - began,
        _since(marks, "bank", "start"),
        _since(marks, "erase", "bank")[0] / len(erasure.losses),
    )
    expected = (
        erasure.seconds
        if spec.steps is None
        else start + bank / drawn * training.bank_passes + step * training.steps
    )
    return {
        "seconds": erasure.seconds,
        "expected_seconds": expected,
        "passes": erasure.cost.passes,
        "step_bytes": peak.bytes,
        "start_seconds": start,
        "bank_seconds": bank,
        "seconds_a_step": step,
        "steps": len(erasure.losses),
    }


def _since(marks: dict[str, tuple[float, int]], end: str, start: str) -> tuple[float, int]:
    return marks[end][0] - marks[start][0], marks[end][1] - marks[start][1]


def floor(model, samples: int, repeat: int = 3) -> float:
    """Seconds of the UNet alone, forward and backward to its input, on as many samples."""
    z = torch.randn(samples, *model.latent_shape, device=model.device)
    t, cond, best = (
        torch.full((samples,), 500, device=model.device),
        model.encode(["a castle"] * samples).detach(),
        float("inf"),
    )
    for _ in range(repeat):
        start = time.monotonic()
        model.predict_noise(z.requires_grad_(True), t, cond).square().mean().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.monotonic() - start)
    return best


def compiled(model, samples: int) -> dict:
    """The same with the UNet compiled: seconds that the first call takes longer, and a later call's."""
    plain, model.unet = model.unet, torch.compile(model.unet)
    try:
        first, later = floor(model, samples, 1), floor(model, samples)
    finally:
        model.unet = plain
    return {"compile_seconds": first - later, "compiled_floor_seconds": later}


def measure(
    family: str,
    size: str,
    device: torch.device,
    dtype: torch.dtype,
    rivals: tuple[str, ...],
    steps: int,
    own_steps: int | None,
    pixels: int | None = None,
    longest: int | None = None,
    compile_too: bool = False,
) -> Iterator[dict]:
    """The result so far, after every part of it."""
    model, spec = random_model(family, size, dtype, pixels), ErasureSpec("castle", steps=own_steps)
    plan = fit(model, spec.recipe_for(model), device)
    assert plan is not None  # a model with random weights is none that is known to fit
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    result = {
        "family": family,
        "size": size,
        "device": where,
        "dtype": str(dtype).removeprefix("torch."),
        "pixels": model.pixels,
        "plan": str(plan),
        "predicted_step_bytes": plan.step,
        "weights_bytes": plan.weights,
    }
    result["sage"] = whole(model, spec, device)
    result["floor_seconds"] = floor(model, 3)
    yield result
    if compile_too:
        result |= compiled(model, 3)
        yield result
    for method in rivals:
        result[method] = counted_up(model, method, "castle", steps, longest)
        result[method]["times_ours"] = result[method]["expected_seconds"] / result["sage"]["expected_seconds"]
        yield result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=("sd1", "sdxl", "sd3"), default="sd1")
    parser.add_argument("--size", choices=("thin", "full"), default="thin")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16" if torch.cuda.is_available() else "float32",
    )
    parser.add_argument("--rivals", default=",".join(RIVALS))
    parser.add_argument("--pixels", type=int, help="side of the pictures (default: the model's own)")
    parser.add_argument("--steps", type=int, default=2, help="of a rival's training that are timed")
    parser.add_argument("--own-steps", type=int, help="of ours (default: all; fewer are counted up as well)")
    parser.add_argument(
        "--longest",
        type=int,
        default=400,
        help="UNet passes of a rival's step that is timed whole; of a longer one, a pass",
    )
    parser.add_argument("--compile", action="store_true", help="time the UNet alone compiled as well")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rivals = tuple(r for r in args.rivals.split(",") if r)
    for result in measure(
        args.family,
        args.size,
        torch.device(args.device),
        getattr(torch, args.dtype),
        rivals,
        args.steps,
        args.own_steps,
        args.pixels,
        args.longest,
        args.compile,
    ):
        write_text(args.out / f"cost-{args.family}-{args.size}.json", json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    print(draw(measured_plots.cost, result, args.out / f"cost-{args.family}-{args.size}.png"))


if __name__ == "__main__":
    main()
