"""Robustness against keeping, over one setting: `python -m sage_core.bench.frontier --out DIR`.

`sage-robust` with several weights of its local retention. Of each: what is seen of the concept and of its
neighbours, how far their pictures moved, and the success of the strongest attack that learns words
(inversion: three learnt tokens, three starts, 120 steps). One JSON file a concept and weight; what is there
is not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.model import DiffusionModel
from ..evaluate.attacks.inversion import STRONG
from ..evaluate.measure import evaluate, measure_original
from ..files import slug, write_text
from ..methods.table import METHODS
from ..models import load_model
from ..spec import ErasureSpec
from .attacks import listed

METHOD = "sage-robust"
CELLS = ("concept", "synonyms", "near", "far", "attacked")


def measure(model: DiffusionModel, concept: str, weight: float, images: int) -> dict:
    """Cells after erasing with that weight, those before, and the drift."""
    spec = ErasureSpec(concept, method=METHOD)
    recipe = spec.recipe(model.knowledge.styles)
    (noise,) = recipe.method.retention
    terms = () if weight == 0 else (dataclasses.replace(noise, weight=weight),)  # type: ignore[type-var]
    base = measure_original(model, spec, images, attack=STRONG)
    weighted = dataclasses.replace(recipe.method, retention=terms)
    erasure = erase(model, dataclasses.replace(recipe, method=weighted))
    try:
        report = evaluate(model, base, spec, erasure.cost, erasure.seconds, {}, images, attack=STRONG).report
    finally:
        erasure.adapter.remove()
    kept = {part: {cell: report[part].get(cell) for cell in CELLS} for part in ("before", "after")}
    return kept | {"drift": report["drift"], "curve": report.get("attack_curve")}


def markdown(rows: dict[tuple[str, float], dict]) -> str:
    head = "| | weight | concept | other words | near, of before | far, of before | drift near | attacked |"
    lines = [head, "|---" * 8 + "|"]
    for (concept, weight), row in rows.items():
        before, after = row["before"], row["after"]
        kept = [after[cell] / before[cell] if before[cell] else 0.0 for cell in ("near", "far")]
        values = [after["concept"], after["synonyms"], *kept]
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        lines.append(
            f"| {concept} | {weight:g} | {' | '.join(cells)} | {row['drift']['near']:.3f} |"
            f" {after['attacked']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    weight = next(term.weight for term in METHODS[METHOD].retention if hasattr(term, "weight"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concepts", default="dog,owl")
    parser.add_argument("--weights", default=f"0,0.1,{weight:g},2", help="of the local retention")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, rows = load_model(args.model), {}
    for concept in listed(args.concepts):
        for weight in map(float, listed(args.weights)):
            path = args.out / f"{slug(concept)}-{weight:g}.json"
            if not path.exists():
                write_text(path, json.dumps(measure(model, concept, weight, args.images), indent=1))
            rows[concept, weight] = json.loads(path.read_text(encoding="utf-8"))
            print(concept, weight, rows[concept, weight]["after"], flush=True)
    print(markdown(rows))


if __name__ == "__main__":
    main()
