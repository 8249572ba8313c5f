"""Before against after: draw every cell with the original and with the erased model, judge, attack, and put it in one report."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..adapters import Adapter
from ..diffusion.model import Cost, DiffusionModel
from ..spec import ErasureSpec
from .attack import ConceptInversion, attack_images, invert
from .cells import CELLS, Prompt, demo_prompts, plain_prompts


@dataclass
class Evaluation:
    """The report of the public contract (a JSON value), with the pictures it was made from."""

    report: dict
    prompts: list[Prompt]
    before: torch.Tensor
    after: torch.Tensor
    attacked: torch.Tensor | None = None


def load_judge(model: DiffusionModel):
    """The bundled model's probe, or None: no probe can say what an arbitrary model draws."""
    if not model.is_demo:
        return None
    from ..demo.probe import Judge
    from ..diffusion.load import DEMO

    return Judge.load(DEMO / "probe.safetensors")


def seen(judge, images: torch.Tensor, expected: list[str]) -> list[bool]:
    """For each picture: does the probe see what the prompt asked for?"""
    return [s.concept == e for s, e in zip(judge.look(images), expected)]


def fractions(judge, prompts: list[Prompt], images: torch.Tensor) -> dict[str, float | None]:
    """Per cell, the fraction of pictures in which the probe sees what was asked for (None without probe or pictures)."""
    if judge is None:
        return dict.fromkeys(CELLS)
    right = seen(judge, images, [p.expected for p in prompts])
    cells = {c: [r for r, p in zip(right, prompts) if p.cell == c] for c in CELLS}
    return {c: round(sum(r) / len(r), 4) if r else None for c, r in cells.items()}


def drift(prompts: list[Prompt], before: torch.Tensor, after: torch.Tensor) -> dict[str, float | None]:
    """Mean absolute distance of pictures from the same seed, in units of the full range [0, 1]."""
    distance = (before - after).abs().mean((1, 2, 3)) / 2
    cells = {c: [d for d, p in zip(distance.tolist(), prompts) if p.cell == c] for c in ("near", "far")}
    return {c: round(sum(d) / len(d), 4) if d else None for c, d in cells.items()}


def peak_memory_mb() -> float:
    """Peak resident memory of this process, or of the GPU where one is used."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def evaluate(model: DiffusionModel, adapter: Adapter, spec: ErasureSpec, cost: Cost, seconds: float, lora: dict, images: int = 16, seed: int = 0,
             attack: ConceptInversion | None = ConceptInversion(), on_event: Callable[[str], None] = lambda text: None) -> Evaluation:
    """Measure `adapter`, which hangs on `model`. `images`: pictures a cell; `lora`: path, bytes and rank for the report.

    `before.attacked` is the control: the same attack on the untouched model, without which a weak attack would flatter.
    """
    judge = load_judge(model)
    prompts = demo_prompts(spec, images, seed) if judge else plain_prompts(model, spec, images, seed)
    texts, seeds = [p.text for p in prompts], [p.seed for p in prompts]
    started = time.monotonic()
    on_event(f"drawing {len(prompts)} pictures with the original model")
    with adapter.off():
        before = model.generate(texts, seeds)
    on_event(f"drawing {len(prompts)} pictures with the erased model")
    after = model.generate(texts, seeds)
    report = {
        "spec": spec.resolved().to_json(), "before": fractions(judge, prompts, before) | {"attacked": None},
        "after": fractions(judge, prompts, after) | {"attacked": None}, "drift": drift(prompts, before, after),
        "cost": {"unet_forwards": cost.forwards, "unet_backwards": cost.backwards, "seconds": round(seconds, 2), "peak_memory_mb": 0.0},
        "lora": lora, "images": len(prompts),
    }
    pictures = None
    if attack is not None and judge is not None:
        on_event("attacking: learning words that bring the concept back")
        with adapter.off():
            report["before"]["attacked"], _ = strongest(model, adapter, judge, spec, attack, images, seed)
        report["after"]["attacked"], pictures = strongest(model, adapter, judge, spec, attack, images, seed)
        report["images"] += 2 * images
    report["cost"]["peak_memory_mb"] = round(peak_memory_mb(), 1)
    on_event(f"measured in {time.monotonic() - started:.0f} s")
    return Evaluation(report, prompts, before, after, pictures)


def strongest(model, adapter, judge, spec, attack, images: int, seed: int) -> tuple[float, torch.Tensor]:
    """The highest success over all starts of the attack, and its pictures."""
    best, pictures = -1.0, None
    for found in invert(model, adapter, spec.concept, attack, seed):
        drawn = attack_images(model, found, images, seed)
        right = seen(judge, drawn, [_canonical(spec.concept)] * images)
        if (rate := sum(right) / images) > best:
            best, pictures = rate, drawn
    return round(best, 4), pictures


def _canonical(word: str) -> str:
    from ..demo import vocabulary

    return vocabulary.find(word).name
