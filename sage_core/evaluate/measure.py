"""Before against after: draw every cell with the original and with the erased model, judge, attack, and put
it in one report.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..diffusion.cost import Cost
from ..diffusion.knowledge import Judge, Prompt
from ..diffusion.model import DiffusionModel
from ..prompts.kinds import STYLE
from ..prompts.templates import without_style
from ..spec import ErasureSpec
from .attacks.base import Attack, concept_latents
from .attacks.inversion import ConceptInversion
from .attacks.success import Outcome, as_tuple, attacked, kept_outcome, sees_concept, strongest
from .cells import CELLS, plain_prompts
from .further import ALSO, Further
from .hard import HARD_CELLS
from .kept import NOTHING_KEPT, Kept, digest, drawn, judged, key_of
from .peak import peak_memory_mb

QUICK = ConceptInversion()
NONE = Further()
Verdicts = Sequence[bool | None]  # of a judge; None where it cannot say
Attacks = Attack | Sequence[Attack] | None  # one, several or none


@dataclass
class Evaluation:
    """The report of the public contract (a JSON value), with the pictures it was made from."""

    report: dict
    prompts: list[Prompt]
    before: torch.Tensor
    after: torch.Tensor
    attacked: torch.Tensor | None = None
    seen: list[tuple[bool | None, bool | None]] | None = None  # per prompt, before and after


def load_judge(model: DiffusionModel) -> Judge | None:
    """The judge that is known for this model, or None: nothing can say what an arbitrary model draws."""
    return None if model.knowledge.judge is None else model.knowledge.judge()


def cells_of(prompts: list[Prompt]) -> list[str]:
    """The four cells, and then the others in the order of the prompts."""
    return list(dict.fromkeys([*CELLS, *(p.cell for p in prompts)]))


def shares(prompts: list[Prompt], seen: Verdicts | None) -> dict[str, float | None]:
    """Per cell, the fraction of pictures in which something was seen; None without a judge or pictures."""
    if seen is None:
        return dict.fromkeys(cells_of(prompts))
    cells = by_cell(prompts, seen)
    return {c: round(sum(r) / len(r), 4) if r else None for c, r in cells.items()}


def intervals(prompts: list[Prompt], seen: Verdicts) -> dict[str, list[float] | None]:
    """Per cell, Wilson's 95 % interval of that fraction."""
    cells = by_cell(prompts, seen)
    return {c: [round(x, 4) for x in wilson(sum(r), len(r))] if r else None for c, r in cells.items()}


def by_cell(prompts: list[Prompt], seen: Verdicts) -> dict[str, list[bool]]:
    """The verdicts of every cell, without pictures of which the judge cannot say."""
    cells: dict[str, list[bool]] = {cell: [] for cell in cells_of(prompts)}
    for verdict, prompt in zip(seen, prompts):
        if verdict is not None:
            cells[prompt.cell].append(verdict)
    return cells


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share of `hits` in `count`."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def drift(prompts: list[Prompt], before: torch.Tensor, after: torch.Tensor) -> dict[str, float | None]:
    """Per cell that may stay as it is, the mean of `distances`."""
    values = distances(before, after).tolist()
    cells = {c: [d for d, p in zip(values, prompts) if p.cell == c] for c in staying_cells(prompts)}
    return {c: round(sum(d) / len(d), 4) if d else None for c, d in cells.items()}


def distances(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Mean absolute distance of pictures [n, 3, H, W] from the same seed, in units of the full range; [n]."""
    return (before - after).abs().mean((1, 2, 3)) / 2


def staying_cells(prompts: list[Prompt]) -> list[str]:
    """The cells that may stay as they are: those that do not ask for the concept."""
    return [c for c in cells_of(prompts) if c not in ("concept", "synonyms", ALSO, *HARD_CELLS)]


def judge_original(base: Baseline, spec: ErasureSpec, kept: Kept = NOTHING_KEPT) -> None:
    """Judge the original model's pictures."""
    base.seen = judged(base.judge, base.pictures, [p.expected for p in base.prompts], base.prompts, kept)
    base.alarms = _alarms(base, base.judge.expected(spec.concept), kept)


def _alarms(base: Baseline, concept: str, kept: Kept) -> Verdicts:
    """Of every picture of something else: whether the judge sees the concept in it."""
    others = [i for i, p in enumerate(base.prompts) if p.cell in ("near", "far") and p.expected != concept]
    if not others:
        return []
    asked = [base.prompts[i] for i in others]
    return judged(base.judge, base.pictures[others], [concept] * len(others), asked, kept)


def about_judge(base: Baseline) -> dict | None:
    """How sure the judge is, on the untouched model's pictures; None without one."""
    if base.judge is None or base.seen is None or base.alarms is None:
        return None
    own = by_cell(base.prompts, base.seen)["concept"]
    unknown = [p.expected for p, verdict in zip(base.prompts, base.seen) if verdict is None]
    return {
        "name": base.judge.name,
        "cannot": base.judge.cannot,
        "hits": round(sum(own) / max(1, len(own)), 4),
        "false_alarms": round(sum(map(bool, base.alarms)) / max(1, len(base.alarms)), 4),
        "other_pictures": len(base.alarms),
        "unknown": list(dict.fromkeys(unknown)),
    }


@dataclass
class Baseline:
    """What the original model does: its pictures for all prompts, latents of the concept, and the attacks'
    control: their success on it by budget, by name.
    """

    judge: Judge | None
    prompts: list[Prompt]
    pictures: torch.Tensor
    latents: torch.Tensor | None = None
    untouched: dict[str, dict[int, float]] = field(default_factory=dict)
    seen: Verdicts | None = None  # per prompt: what was asked for; None without a judge
    alarms: Verdicts | None = None  # per prompt of other things: the concept
    without_prompt: dict[str, float] | None = None  # see `edited_without_prompt`; None without edits
    style_unasked: float | None = None  # see `shown_unasked`; None for a thing


def measure_original(
    model: DiffusionModel,
    spec: ErasureSpec,
    images: int = 16,
    seed: int = 0,
    attack: Attacks = QUICK,
    on_event: Callable[[str], None] = lambda text: None,
    judge: Judge | None = None,
    further: Further = NONE,
    kept: Kept = NOTHING_KEPT,
) -> Baseline:
    """Draw, judge and attack the original model (call it with the adapter off). `images`: pictures a cell.

    The attack on the untouched model is the control, without which a weak attack would flatter.

    judge: of the pictures; None: the one that is known for this model, if there is one. further: cells beyond
    the four. kept: what was measured before is taken from there.
    """
    judge = judge or load_judge(model)
    prompts = (
        judge.prompts(spec.concept, spec.synonyms, images, seed)
        if judge
        else plain_prompts(model, spec, images, seed)
    )
    prompts += further.prompts(model, spec, judge, prompts, images, seed)
    on_event(f"drawing {len(prompts)} pictures with the original model")
    base = Baseline(judge, prompts, drawn(model, prompts, None, kept))
    if judge is not None:
        on_event(f"judging them by {judge.name}")
        judge_original(base, spec, kept)
        base.without_prompt = edited_without_prompt(model, base, kept)
        base.style_unasked = shown_unasked(model, base, spec, kept)
    attacks = as_tuple(attack)
    if attacks and judge is not None:
        base.latents = concept_latents(model, spec, max(1, *(a.latents for a in attacks)), seed)
        for outcome in _attacked(model, base, spec, attacks, images, seed, on_event, "original", kept):
            base.untouched[outcome.attack.name] = outcome.curve
    return base


def edited_without_prompt(
    model: DiffusionModel, base: Baseline, kept: Kept = NOTHING_KEPT
) -> dict[str, float] | None:
    """The control of the edits: the share in which the concept is still seen where the untouched model makes
    them from the empty prompt. So much of it is in the pictures that edits start from, whatever a LoRA does.
    """
    edits = [dataclasses.replace(p, text="") for p in base.prompts if p.strength > 0]
    if not edits:
        return None
    return _control(model, base, edits, kept)


def shown_unasked(
    model: DiffusionModel, base: Baseline, spec: ErasureSpec, kept: Kept = NOTHING_KEPT
) -> float | None:
    """The control of a style: the share in which it is seen where the untouched model is asked for the same
    things without it, from the same seeds. None for a thing, and where no prompt shows the style on a thing.

    A model draws what nobody asked for in some style. So much of it is no sign that the erasure failed.
    """
    if spec.kind_of(model.knowledge.styles) != STYLE:
        return None
    styled = [p for p in base.prompts if p.cell == "concept" and p.thing]
    plain = [dataclasses.replace(p, text=without_style(p.thing, spec.concept)) for p in styled]
    return _control(model, base, plain, kept).get("concept") if plain else None


def _control(model: DiffusionModel, base: Baseline, prompts: list[Prompt], kept: Kept) -> dict[str, float]:
    """By cell, the share of the untouched model's pictures for altered prompts that show what is expected."""
    pictures = drawn(model, prompts, base.pictures, kept)
    seen = judged(base.judge, pictures, [p.expected for p in prompts], prompts, kept)
    return {cell: share for cell, share in shares(prompts, seen).items() if share is not None}


def evaluate(
    model: DiffusionModel,
    base: Baseline,
    spec: ErasureSpec,
    cost: Cost,
    seconds: float,
    lora: dict,
    images: int = 16,
    seed: int = 0,
    attack: Attacks = QUICK,
    on_event: Callable[[str], None] = lambda text: None,
    kept: Kept = NOTHING_KEPT,
) -> Evaluation:
    """Measure the erased model (adapter on) against `base`. `lora`: path, bytes and rank for the report.

    kept: of the erased model.
    """
    on_event(f"drawing {len(base.prompts)} pictures with the erased model")
    after = drawn(model, base.prompts, base.pictures, kept)
    outcomes = []
    if base.latents is not None:
        outcomes = _attacked(model, base, spec, as_tuple(attack), images, seed, on_event, "erased", kept)
    best = strongest(outcomes)
    control = best and base.untouched.get(best.attack.name, {}).get(best.attack.budgets[-1])
    peak = peak_memory_mb()
    seen = None
    if base.judge is not None:
        if base.seen is None:  # an original that was kept as a file
            judge_original(base, spec, kept)
        seen = judged(base.judge, after, [p.expected for p in base.prompts], base.prompts, kept)
    report = {
        "spec": spec.recipe(model.knowledge.styles).to_json(),
        "before": shares(base.prompts, base.seen) | {"attacked": control},
        "after": shares(base.prompts, seen) | {"attacked": best and best.success},
        "interval": None if seen is None else intervals(base.prompts, seen),
        "judge": about_judge(base),
        "drift": drift(base.prompts, base.pictures, after),
        "cost": {
            "unet_forwards": cost.forwards,
            "unet_backwards": cost.backwards,
            "seconds": round(seconds, 2),
            "peak_memory_mb": None if peak is None else round(peak, 1),
        },
        "lora": lora,
        "images": 2 * (len(base.prompts) + (images if best else 0)),
    }
    if base.without_prompt is not None:
        report["without_prompt"] = base.without_prompt
    if base.style_unasked is not None:
        report["style_unasked"] = base.style_unasked
    if best is not None:
        report["attacked_by"] = best.attack.name
        report["attacks"] = {o.attack.name: about_attack(o, base, images) for o in outcomes}
        if len(best.curve) > 1:
            report["attack_curve"] = best.curve
    both = None if base.seen is None or seen is None else list(zip(base.seen, seen))
    return Evaluation(report, base.prompts, base.pictures, after, best and best.pictures, both)


def _attacked(
    model: DiffusionModel,
    base: Baseline,
    spec: ErasureSpec,
    attacks: tuple[Attack, ...],
    images: int,
    seed: int,
    on_event: Callable[[str], None],
    which: str,
    kept: Kept,
) -> list[Outcome]:
    """What each attack leads to on the model as it is; which: "original" or "erased", for the user."""
    judge, latents, styles = base.judge, base.latents, model.knowledge.styles
    assert judge is not None and latents is not None
    asked = next(p for p in base.prompts if p.cell == "concept")
    sees = sees_concept(judge, spec.concept, asked)
    about = {
        "names": spec.recipe(styles).names,
        "kind": spec.kind_of(styles),
        "asked": dataclasses.asdict(asked),
        "latents": digest(latents),
        "judge": key_of(judge),
        "images": images,
        "seed": seed,
    }
    kept = kept if key_of(judge) else NOTHING_KEPT
    outcomes = []
    for number, attack in enumerate(attacks, 1):
        on_event(f"attacking the {which} model, {number} of {len(attacks)}: {attack.title} ({attack.name})")

        def attack_now(attack=attack) -> Outcome:
            return attacked(model, spec, attack, latents, sees, images, seed, on_event)

        outcomes.append(kept_outcome(kept, attack, about, attack_now))
    return outcomes


def about_attack(outcome: Outcome, base: Baseline, images: int) -> dict:
    """An attack in the report: success by budget, the 95 % interval of the last, the untouched model's."""
    attack, control = outcome.attack, base.untouched.get(outcome.attack.name, {})
    low, high = wilson(round(outcome.success * images), images)
    return {
        "title": attack.title,
        "paper": attack.paper,
        "unit": attack.unit,
        "budget": list(attack.budgets),
        "success": [outcome.curve[b] for b in attack.budgets],
        "interval": [round(low, 4), round(high, 4)],
        "untouched": [control.get(b) for b in attack.budgets],
        "start": outcome.start,
        "found": outcome.found,
    }
