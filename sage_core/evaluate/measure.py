"""Before against after: draw every cell with the original and with the erased model, judge, attack, and put
it in one report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..diffusion.cost import Cost
from ..diffusion.knowledge import Judge, Prompt
from ..diffusion.model import DiffusionModel
from ..spec import ErasureSpec
from .attack import ConceptInversion, attack_images, concept_latents, invert
from .cells import CELLS, plain_prompts
from .peak import peak_memory_mb

INVERSION = ConceptInversion()


@dataclass
class Evaluation:
    """The report of the public contract (a JSON value), with the pictures it was made from."""

    report: dict
    prompts: list[Prompt]
    before: torch.Tensor
    after: torch.Tensor
    attacked: torch.Tensor | None = None
    seen: list[tuple[bool, bool]] | None = None  # per prompt, before and after; None without a probe


def load_judge(model: DiffusionModel) -> Judge | None:
    """The judge that is known for this model, or None: nothing can say what an arbitrary model draws."""
    return None if model.knowledge.judge is None else model.knowledge.judge()


def seen(judge, images: torch.Tensor, expected: list[str]) -> list[bool]:
    """For each picture: does the probe see what the prompt asked for?"""
    return [e in (s.concept, s.style) for s, e in zip(judge.look(images), expected)]


def fractions(judge, prompts: list[Prompt], images: torch.Tensor) -> dict[str, float | None]:
    """Per cell, the fraction of pictures in which the probe sees what was asked for (None without probe or
    pictures).
    """
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


@dataclass
class Baseline:
    """What the original model does: its pictures for all prompts, latents of the concept, the attack's
    control.
    """

    judge: Judge | None
    prompts: list[Prompt]
    pictures: torch.Tensor
    latents: torch.Tensor | None = None
    attacked: float | None = None


def measure_original(
    model: DiffusionModel,
    spec: ErasureSpec,
    images: int = 16,
    seed: int = 0,
    attack: ConceptInversion | None = INVERSION,
    on_event: Callable[[str], None] = lambda text: None,
) -> Baseline:
    """Draw and attack the original model (call it with the adapter off). `images`: pictures a cell.

    The attack on the untouched model is the control, without which a weak attack would flatter.
    """
    judge = load_judge(model)
    prompts = (
        judge.prompts(spec.concept, spec.synonyms, images, seed)
        if judge
        else plain_prompts(model, spec, images, seed)
    )
    on_event(f"drawing {len(prompts)} pictures with the original model")
    base = Baseline(judge, prompts, model.generate([p.text for p in prompts], [p.seed for p in prompts]))
    if attack is not None and judge is not None:
        on_event("attacking the original model, as a control")
        base.latents = concept_latents(model, spec, attack, seed)
        base.attacked, *_ = strongest(model, base, spec, dataclasses.replace(attack, marks=()), images, seed)
    return base


def evaluate(
    model: DiffusionModel,
    base: Baseline,
    spec: ErasureSpec,
    cost: Cost,
    seconds: float,
    lora: dict,
    images: int = 16,
    seed: int = 0,
    attack: ConceptInversion | None = INVERSION,
    on_event: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Measure the erased model (adapter on) against `base`. `lora`: path, bytes and rank for the report."""
    on_event(f"drawing {len(base.prompts)} pictures with the erased model")
    after = model.generate([p.text for p in base.prompts], [p.seed for p in base.prompts])
    attacked, pictures, curve = None, None, {}
    if attack is not None and base.latents is not None:
        on_event("attacking: learning words that bring the concept back")
        attacked, pictures, curve = strongest(model, base, spec, attack, images, seed)
    peak = peak_memory_mb()
    report = {
        "spec": spec.recipe(model.knowledge.styles).to_json(),
        "before": fractions(base.judge, base.prompts, base.pictures) | {"attacked": base.attacked},
        "after": fractions(base.judge, base.prompts, after) | {"attacked": attacked},
        "drift": drift(base.prompts, base.pictures, after),
        "cost": {
            "unet_forwards": cost.forwards,
            "unet_backwards": cost.backwards,
            "seconds": round(seconds, 2),
            "peak_memory_mb": None if peak is None else round(peak, 1),
        },
        "lora": lora,
        "images": 2 * (len(base.prompts) + (images if pictures is not None else 0)),
    }
    if len(curve) > 1:
        report["attack_curve"] = curve
    return Evaluation(report, base.prompts, base.pictures, after, pictures, both_seen(base, after))


def both_seen(base: Baseline, after: torch.Tensor) -> list[tuple[bool, bool]] | None:
    """Per prompt: is what was asked for seen before, and after?"""
    if base.judge is None:
        return None
    expected = [p.expected for p in base.prompts]
    return list(zip(seen(base.judge, base.pictures, expected), seen(base.judge, after, expected)))


def strongest(
    model: DiffusionModel, base: Baseline, spec: ErasureSpec, attack: ConceptInversion, images: int, seed: int
) -> tuple[float, torch.Tensor, dict[int, float]]:
    """The highest success over all starts of the attack, its pictures, and the highest after each of the
    attack's marks.
    """
    wanted, best, pictures, curve = base.judge.expected(spec.concept), -1.0, None, {}
    for found in invert(model, base.latents, spec, attack, seed):
        for mark, cond in (found.marks | {attack.steps: found.cond}).items():
            drawn = attack_images(model, cond, images, seed)
            rate = round(sum(seen(base.judge, drawn, [wanted] * images)) / images, 4)
            curve[mark] = max(rate, curve.get(mark, 0.0))
            if mark == attack.steps and rate > best:
                best, pictures = rate, drawn
    return best, pictures, curve
