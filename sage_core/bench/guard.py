"""The guard on the small models, untouched and erased: `python -m sage_core.bench.guard --out DIR`.

Every cell of the hard suite with and without the guard, then two attacks under it: one that does not know of
it, and one that optimises through it. On untouched weights the guard's peers stand beside it (peers.py). One
JSON file a concept and method; what is there is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.cost import Cost
from ..diffusion.model import DiffusionModel
from ..diffusion.text import Conditioning
from ..evaluate.attacks.base import attack_images, concept_latents
from ..evaluate.attacks.inversion import CONCEPT, ConceptInversion
from ..evaluate.attacks.success import Sees, attacked, sees_concept
from ..evaluate.attacks.through_guard import ThroughGuard
from ..evaluate.further import HARD, Further
from ..evaluate.hard import COMPANION, EDITS, HARD_CELLS, INPAINT
from ..evaluate.measure import Baseline, evaluate, load_judge, measure_original, shares
from ..files import slug, write_text
from ..guard import PUSH, THRESHOLD, Guard
from ..models import load_model
from ..spec import ErasureSpec
from .attacks import UNTOUCHED, listed
from .peers import PEERS, drawn_by, make_peer

UNAWARE = ConceptInversion("inversion", steps=120, vectors=3, starts=("object", CONCEPT))
FREE, GUARDED = "free", "guarded"
HARDER = tuple(c for c in HARD_CELLS if c not in (*EDITS, INPAINT, COMPANION))  # prompts from noise


def measure(
    model: DiffusionModel,
    concept: str,
    method: str,
    images: int,
    settings: tuple[float, float],
    attacks: bool,
    peers: list[str],
) -> dict:
    """By way to draw, the shares of pictures in which the concept, or, of other cells, what was asked for, is
    seen; the seconds and UNet passes that they took.
    """
    spec = ErasureSpec(concept, method="sage" if method == UNTOUCHED else method)
    base = measure_original(model, spec, images, attack=None, further=Further(HARD))
    assert base.judge is not None
    latents = concept_latents(model, spec, UNAWARE.latents, 0)
    erasure = None if method == UNTOUCHED else erase(model, spec)
    row: dict = {"before": shares(base.prompts, base.seen), "without_prompt": base.without_prompt}
    sees = sees_concept(base.judge, concept, next(p for p in base.prompts if p.cell == "concept"))
    try:
        learnt = _learnt(model, spec, latents) if attacks else []
        for way in (FREE, GUARDED, *(peers if method == UNTOUCHED else ())):
            with drawn(model, way, concept, settings):
                row[way] = _measured(model, base, spec, images)
                if attacks:
                    row[way][UNAWARE.name] = max(_success(model, cond, images, sees) for cond in learnt)
                if attacks and way == GUARDED:
                    outcome = attacked(model, spec, ThroughGuard(), latents, sees, images, 0)
                    row[way][ThroughGuard.name] = outcome.success
    finally:
        if erasure is not None:
            erasure.adapter.remove()
    return row


@contextlib.contextmanager
def drawn(model: DiffusionModel, way: str, concept: str, settings: tuple[float, float]) -> Iterator[None]:
    """The model draws in one of the ways in the meantime: free, guarded, or by a peer."""
    if way not in (FREE, GUARDED):
        with drawn_by(model, make_peer(way, model, concept)):
            yield
        return
    model.guard = Guard(model, [concept], *settings) if way == GUARDED else None
    try:
        yield
    finally:
        model.guard = None


def _measured(model: DiffusionModel, base: Baseline, spec: ErasureSpec, images: int) -> dict:
    start, passes = time.monotonic(), model.cost.forwards
    report = evaluate(model, base, spec, Cost(), 0.0, {}, images, attack=None).report
    seconds = round(time.monotonic() - start, 2)
    return report["after"] | {"seconds": seconds, "passes": model.cost.forwards - passes}


def _learnt(model: DiffusionModel, spec: ErasureSpec, latents) -> list[Conditioning]:
    """What the attack finds that does not know how pictures are drawn; the same for every way."""
    found = []
    for start in UNAWARE.starts:
        found += [cond for _, cond, _ in UNAWARE.search(model, spec, latents, 0, start)]
    return found


def _success(model: DiffusionModel, cond: Conditioning, images: int, sees: Sees) -> float:
    return round(sum(sees(attack_images(model, cond, images))) / images, 4)


def as_markdown(rows: dict[str, dict]) -> str:
    """A table of measurements by their titles. Of the hard prompts the cell that shows the most stands in it.
    Passes are a share of those of drawing freely.
    """

    def cell(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    head = (
        "concept, other words, hard prompts, edits at 0.4 / 0.6 / 0.8, inpainted, attacked, near, far, passes"
    )
    lines = ["| | " + head.replace(", ", " | ") + " |", "|---" * 10 + "|"]
    for title, row in rows.items():
        for way in (way for way in (FREE, GUARDED, *PEERS) if way in row):
            own = row[way]
            hard = max((own[c] for c in HARDER if own.get(c) is not None), default=None)
            values = [own["concept"], own["synonyms"], hard, own[INPAINT], own.get(UNAWARE.name)]
            values += [own["near"], own["far"], own["passes"] / row[FREE]["passes"]]
            shown = [cell(value) for value in values]
            shown.insert(3, " / ".join(cell(own[edit]) for edit in EDITS))
            lines.append(f"| {title}, {way} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concepts", default="dog,owl")
    parser.add_argument("--methods", default=f"{UNTOUCHED},sage")
    parser.add_argument("--peers", default=",".join(PEERS), help="measured on untouched weights; empty: none")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    parser.add_argument("--push", type=float, default=PUSH)
    parser.add_argument("--no-attacks", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model = load_model(args.model)
    assert load_judge(model) is not None, "the guard is measured on the small models, which have a judge"
    settings, rows = (args.threshold, args.push), {}
    for concept in listed(args.concepts):
        for method in listed(args.methods):
            path = args.out / f"{slug(concept)}-{method}-{args.threshold:g}-{args.push:g}.json"
            if not path.exists():
                peers, attacks = listed(args.peers), not args.no_attacks
                row = measure(model, concept, method, args.images, settings, attacks, peers)
                write_text(path, json.dumps(row, indent=1))
            rows[f"{concept}, {method}"] = json.loads(path.read_text(encoding="utf-8"))
            print(concept, method, path.read_text(encoding="utf-8").replace("\n", ""), flush=True)
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
