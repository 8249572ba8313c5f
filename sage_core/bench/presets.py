"""Presets on any model that has a judge, without attacks: `python -m sage_core.bench.presets`.

    python -m sage_core.bench.presets --model demo --concepts owl,robot --out DIR

One JSON file a row, so that a run that was stopped resumes. Rows of one concept and seed share the untouched
model's pictures. The table pools the pictures of all rows; its intervals are Wilson's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.model import DiffusionModel
from ..evaluate.measure import Baseline, evaluate, measure_original, wilson
from ..files import slug, write_text
from ..methods.table import METHODS
from ..models import load_model
from ..spec import ErasureSpec
from .attacks import listed

SLOW = ("sage-text", "sage-paper", "advunlearn", "receler")  # a minute and more a row
CELLS = ("concept", "synonyms", "near", "far")
ERASED = ("concept", "synonyms")


def path_of(out: Path, spec: ErasureSpec) -> Path:
    return out / f"{slug(spec.concept)}-{spec.seed}-{spec.method}.json"


def run(model: DiffusionModel, specs: list[ErasureSpec], images: int, out: Path) -> None:
    """Make the rows that are missing. Those of one concept and seed follow each other."""
    base: tuple[tuple, Baseline] | None = None
    for spec in specs:
        path = path_of(out, spec)
        if path.exists():
            continue
        shared = spec.concept, spec.seed
        if base is None or base[0] != shared:
            base = shared, measure_original(model, spec, images, spec.seed, None)
        row = one_row(model, spec, base[1], images)
        write_text(path, json.dumps(row, indent=1))
        cells = " ".join(f"{cell} {sum(row['after'][cell])}/{len(row['after'][cell])}" for cell in CELLS)
        print(f"{path.stem}: {cells}, {row['passes']} passes", flush=True)


def one_row(model: DiffusionModel, spec: ErasureSpec, base: Baseline, images: int) -> dict:
    """Erase and judge: what was seen of each cell's prompts, before and after."""
    erasure = erase(model, spec)
    try:
        found = evaluate(
            model, base, erasure.spec, erasure.cost, erasure.seconds, {}, images, spec.seed, None
        )
    finally:
        erasure.adapter.remove()
    row: dict = {"passes": erasure.cost.passes, "seconds": round(erasure.seconds, 1)}
    for number, when in enumerate(("before", "after")):
        row[when] = {cell: [] for cell in CELLS}
        for prompt, seen in zip(found.prompts, found.seen):
            row[when].setdefault(prompt.cell, []).append(bool(seen[number]))
    return row | {"drift": found.report["drift"]}


def share_and_interval(hits: int, count: int) -> str:
    if not count:
        return "-"
    low, high = wilson(hits, count)
    return f"{hits / count:.3f} ({low:.3f} to {high:.3f})"


def of_before(row: dict, cell: str) -> float | None:
    """Share of a cell that is seen after, of that before."""
    before = sum(row["before"][cell])
    return sum(row["after"][cell]) / before if before else None


def line(method: str, rows: list[dict]) -> str:
    """A row of the table: erased cells pooled with their interval and the worst run, kept ones of before."""
    cells = [method, str(len(rows))]
    for cell in ERASED:
        seen = [row["after"][cell] for row in rows if row["after"][cell]]
        cells.append(share_and_interval(sum(map(sum, seen)), sum(map(len, seen))))
        cells.append(f"{max((sum(s) / len(s) for s in seen), default=0):.2f}")
    for cell in ("near", "far"):
        shares = [share for row in rows if (share := of_before(row, cell)) is not None]
        cells.append(f"{sum(shares) / len(shares):.3f}" if shares else "-")
        cells.append(f"{min(shares):.2f}" if shares else "-")
    cells.append(f"{sum(row['passes'] for row in rows) / len(rows):,.0f}")
    return f"| {' | '.join(cells)} |"


def markdown(specs: list[ErasureSpec], out: Path) -> str:
    """The table of the rows that are there."""
    rows: dict[str, list[dict]] = {}
    for spec in specs:
        path = path_of(out, spec)
        if path.exists():
            rows.setdefault(spec.method, []).append(json.loads(path.read_text(encoding="utf-8")))
    head = "| method | runs | concept | worst | other words | worst | near | worst | far | worst | passes |"
    return "\n".join([head, "|---" * 11 + "|", *(line(m, found) for m, found in rows.items())])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m not in SLOW))
    parser.add_argument("--concepts", default="lion,turtle,castle,robot,hamburger,penguin,pixel art")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--images", type=int, default=8, help="pictures a cell")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    specs = []
    for seed in listed(args.seeds):
        for concept in listed(args.concepts):
            specs += [ErasureSpec(concept, method=m, seed=int(seed)) for m in listed(args.methods)]
    run(model, specs, args.images, args.out)
    print(f"\n{markdown(specs, args.out)}")


if __name__ == "__main__":
    main()
