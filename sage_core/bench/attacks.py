"""Every attack on the untouched model and on several erasures of it: `python -m sage_core.bench.attacks`.

One JSON file a concept and a method, written after every attack, so that a run that was stopped resumes.

With --pictures the pictures of the concept, and their judge, are another model's. So a model is attacked that
never knew the concept: what an attack brings there, it has brought along.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.knowledge import Prompt
from ..diffusion.model import DiffusionModel
from ..evaluate.attacks.base import Attack, concept_latents, concept_prompt
from ..evaluate.attacks.success import attacked, sees_concept
from ..evaluate.attacks.table import ALL, named
from ..evaluate.measure import load_judge, wilson
from ..files import slug, write_text
from ..models import load_model
from ..spec import ErasureSpec

UNTOUCHED = "untouched"


def listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def measure(
    model: DiffusionModel,
    teacher: DiffusionModel,
    concept: str,
    method: str,
    attacks: tuple[Attack, ...],
    images: int,
    out: Path,
) -> None:
    """What is missing in this method's file: erase, run the attacks, and write after each. teacher: the model
    that draws and judges the concept.
    """
    path = out / f"{slug(concept)}-{method}.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [attack for attack in attacks if attack.name not in done]
    if not missing:
        return
    spec = ErasureSpec(concept) if method == UNTOUCHED else ErasureSpec(concept, method=method)
    judge = load_judge(teacher)
    assert judge is not None, "the attacks are measured on the small models, which have a judge"
    asked = Prompt("concept", concept_prompt(model, spec), judge.expected(concept), 0)
    sees = sees_concept(judge, concept, asked)
    latents = concept_latents(teacher, spec, max(1, *(a.latents for a in attacks)), 0)
    if teacher is not model:
        latents = model.encode_images(teacher.decode(latents))
    erasure = None if method == UNTOUCHED else erase(model, spec)
    try:
        for attack in missing:
            start = time.monotonic()
            outcome = attacked(model, spec, attack, latents, sees, images, 0)
            low, high = wilson(round(outcome.success * images), images)
            done[attack.name] = {
                "budget": list(attack.budgets),
                "success": [outcome.curve[b] for b in attack.budgets],
                "interval": [round(low, 3), round(high, 3)],
                "start": outcome.start,
                "found": outcome.found,
                "seconds": round(time.monotonic() - start, 1),
            }
            write_text(path, json.dumps(done, indent=1))
            print(f"{concept} {method} {attack.name}: {done[attack.name]}", flush=True)
    finally:
        if erasure is not None:
            erasure.adapter.remove()


def markdown(out: Path, concept: str, methods: list[str]) -> str:
    """A table of one concept: attacks by methods, success at every budget."""
    found = {}
    for method in methods:
        path = out / f"{slug(concept)}-{method}.json"
        found[method] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lines = [f"| {concept} | budget | {' | '.join(methods)} |", "|---" * (len(methods) + 2) + "|"]
    for attack in ALL:
        cells = [found[m].get(attack.name) for m in methods]
        if any(cells):
            budget = ", ".join(str(b) for b in attack.budgets)
            shown = ["-" if c is None else ", ".join(f"{s:.2f}" for s in c["success"]) for c in cells]
            lines.append(f"| {attack.name} | {budget} {attack.unit} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pictures", metavar="MODEL", help="who draws and judges (default: the model)")
    parser.add_argument("--concepts", default="dog,owl")
    parser.add_argument("--methods", default=f"{UNTOUCHED},sage,sage-robust,rece")
    parser.add_argument("--attacks", default="all")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, attacks = load_model(args.model), named(listed(args.attacks))
    teacher = load_model(args.pictures) if args.pictures else model
    for concept in listed(args.concepts):
        for method in listed(args.methods):
            measure(model, teacher, concept, method, attacks, args.images, args.out)
    for concept in listed(args.concepts):
        print(f"\n{markdown(args.out, concept, listed(args.methods))}")


if __name__ == "__main__":
    main()
