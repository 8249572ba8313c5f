"""The guard on the small models, untouched and erased: `python -m sage_core.bench.guard --out DIR`.

Every cell of the hard suite with and without the guard, then two attacks under it: one that does not know of
it, and one that optimises through it. One JSON file a concept and method; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..evaluate.attacks.base import concept_latents
from ..evaluate.attacks.inversion import CONCEPT, ConceptInversion
from ..evaluate.attacks.success import attacked, sees_concept
from ..evaluate.attacks.through_guard import ThroughGuard
from ..evaluate.further import HARD, Further
from ..evaluate.measure import evaluate, load_judge, measure_original, shares
from ..files import slug, write_text
from ..guard import PUSH, THRESHOLD, Guard
from ..models import load_model
from ..spec import ErasureSpec
from .attacks import UNTOUCHED, listed

UNAWARE = ConceptInversion("inversion", steps=120, vectors=3, starts=("object", CONCEPT))


def measure(model: DiffusionModel, concept: str, method: str, images: int, settings, attacks: bool) -> dict:
    """Shares of pictures in which the concept, or, of other cells, what was asked for, is seen."""
    spec = ErasureSpec(concept, method="sage" if method == UNTOUCHED else method)
    base = measure_original(model, spec, images, attack=None, further=Further(HARD))
    assert base.judge is not None
    latents = concept_latents(model, spec, UNAWARE.latents, 0)
    erasure = None if method == UNTOUCHED else erase(model, spec)
    row: dict = {"before": shares(base.prompts, base.seen)}
    sees = sees_concept(base.judge, concept, next(p for p in base.prompts if p.cell == "concept"))
    try:
        for guarded in (False, True):
            model.guard = Guard(model, [concept], *settings) if guarded else None
            start = time.monotonic()
            report = evaluate(model, base, spec, Cost(), 0.0, {}, images, attack=None).report
            seconds = time.monotonic() - start
            row["guarded" if guarded else "free"] = report["after"] | {"seconds": round(seconds, 2)}
        for attack in (UNAWARE, ThroughGuard()) if attacks else ():
            outcome = attacked(model, spec, attack, latents, sees, images, 0)
            row["guarded"][attack.name] = outcome.success
    finally:
        model.guard = None
        if erasure is not None:
            erasure.adapter.remove()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concepts", default="dog,owl")
    parser.add_argument("--methods", default=f"{UNTOUCHED},sage")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--push", type=float, default=PUSH)
    parser.add_argument("--no-attacks", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    assert load_judge(model) is not None, "the guard is measured on the small models, which have a judge"
    for concept in listed(args.concepts):
        for method in listed(args.methods):
            path = args.out / f"{slug(concept)}-{method}-{args.threshold:g}-{args.push:g}.json"
            if not path.exists():
                settings = (args.threshold, args.push)
                row = measure(model, concept, method, args.images, settings, not args.no_attacks)
                write_text(path, json.dumps(row, indent=1))
            print(concept, method, path.read_text(encoding="utf-8").replace("\n", ""), flush=True)


if __name__ == "__main__":
    main()
