"""The tables of docs/lab/results.md:

`python -m sage_core.bench.study --out DIR`. Stop it at any time; it resumes where it was.

Every row is one JSON file, the report of the public contract, made by one method on the bundled model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

from ..cycle.run import erase
from ..evaluate.measure import Baseline, evaluate, measure_original
from ..evaluate.report import write_report
from ..files import write_text
from ..jobs.make import about_file
from ..methods.domains.word import Word
from ..methods.method import Method
from ..methods.table import METHODS
from ..models import load_model
from ..progress import escape_unprintable
from ..spec import ErasureSpec

TUNED_ON = (
    "dog",
    "owl",
    "guitar",
    "rabbit",
    "horse",
    "car",
    "ghost",
    "apple",
    "cat",
    "frog",
    "cactus",
    "pizza",
    "house",
)
CONCEPTS = ("lion", "turtle", "banana", "hamburger", "train", "palm", "castle", "robot")
ABLATED = ("lion", "turtle", "train", "robot")


def variants(sage: Method) -> dict[str, Method]:
    """The method with one part taken out or exchanged."""

    def without(term: str) -> tuple:
        return tuple(t for t in sage.retention if type(t).__name__ != term)

    return {
        "word": dataclasses.replace(sage, name="word", domain=Word()),
        "random": dataclasses.replace(
            sage, name="random", domain=dataclasses.replace(sage.domain, random=True)
        ),
        "no-global": dataclasses.replace(sage, name="no-global", retention=without("Relations")),
        "no-local": dataclasses.replace(sage, name="no-local", retention=without("Noise")),
    }


def rows(
    method: str, concepts: tuple[str, ...], seeds: int, ablated: tuple[str, ...], attacked: tuple[str, ...]
) -> list[tuple[str, ErasureSpec, bool]]:
    """(name, spec, attack it?) of every row: the plain ones first, then both surfaces under attack, then the
    ablation.
    """
    own = METHODS[method].surface
    plain = [
        (f"{c}-{s}-{own}", ErasureSpec(c, method=method, seed=s), False)
        for s in range(seeds)
        for c in concepts
        if s or c not in attacked
    ]
    strong = [
        (f"{c}-0-{surface}", ErasureSpec(c, method=method, surface=surface), True)
        for c in concepts
        if c in attacked
        for surface in ("text", "both")
    ]
    return (
        plain
        + strong
        + [
            (f"{c}-0-{v}", ErasureSpec(c, method=v), False)
            for c in concepts
            if c in ablated
            for v in variants(METHODS[method])
        ]
    )


def run(
    out: Path,
    method: str,
    concepts: tuple[str, ...],
    seeds: int,
    ablated: tuple[str, ...],
    attacked_ones: tuple[str, ...],
    images: int,
) -> None:
    METHODS.update(variants(METHODS[method]))  # for this process only
    model = load_model("demo")
    kept: tuple[tuple, Baseline] | None = None
    for name, spec, attacked in rows(method, concepts, seeds, ablated, attacked_ones):
        path = out / name / "report.json"
        if path.exists():
            continue
        options = {} if attacked else {"attack": None}
        if kept is None or kept[0] != (
            spec.concept,
            spec.seed,
            attacked,
        ):  # neighbouring rows share the original's pictures
            kept = (
                (spec.concept, spec.seed, attacked),
                measure_original(model, spec, images, spec.seed, **options),
            )
        erasure = erase(model, spec)
        lora = erasure.save(out / name / f"{name}.safetensors", model)
        about = about_file(lora, erasure.recipe.rank, lora.name)
        evaluation = evaluate(
            model, kept[1], erasure.spec, erasure.cost, erasure.seconds, about, images, spec.seed, **options
        )
        write_report(evaluation, out / name)
        erasure.adapter.remove()
        r = evaluation.report
        print(
            f"{name:24} "
            + "  ".join(f"{k} {_number(r['before'][k])} to {_number(r['after'][k])}" for k in r["after"]),
            flush=True,
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def mean(values) -> float | None:
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def summary(reports: list[dict]) -> dict[str, float | None]:
    """The bars: concept, synonyms and attacked as they are after; near and far relative to before."""
    out = {k: mean(r["after"][k] for r in reports) for k in ("concept", "synonyms", "attacked")}
    out |= {
        k: mean(r["after"][k] / r["before"][k] for r in reports if r["before"][k]) for k in ("near", "far")
    }
    out["control"] = mean(r["before"]["attacked"] for r in reports)
    out["passes"] = mean(r["cost"]["unet_forwards"] + 2 * r["cost"]["unet_backwards"] for r in reports)
    out["seconds"] = mean(r["cost"]["seconds"] for r in reports)
    return out


def markdown(out: Path) -> str:
    """All finished rows as Markdown tables."""
    reports = {
        p.parent.name: json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*/report.json"))
    }
    lines = []
    for surface, title in (("text", "Text-encoder surface (the default)"), ("both", "Both surfaces")):
        own = {n: r for n, r in reports.items() if n.endswith(f"-{surface}")}
        lines += [
            f"### {title}",
            "",
            "| concept, seed | concept | synonyms | near | far | attacked (control) |",
            "|---|---|---|---|---|---|",
        ]
        for name, r in own.items():
            b, a = r["before"], r["after"]
            cells = [f"{_number(b[k])} → {_number(a[k])}" for k in ("concept", "synonyms", "near", "far")]
            label = name.removesuffix("-" + surface).replace("-", ", ")
            lines.append(
                f"| {label} | {' | '.join(cells)} | {_number(a['attacked'])} ({_number(b['attacked'])}) |"
            )
        lines += [_mean_row("**mean** (near, far: relative to before)", list(own.values())), ""]
    lines += [
        "### Ablation, seed 0",
        "",
        "| variant | concept | synonyms | near | far |",
        "|---|---|---|---|---|",
    ]
    concepts = {n.split("-")[0] for n in reports if n.endswith("-word")}
    for variant, title in (
        ("text", "sage"),
        ("word", "fixed word instead of self-check"),
        ("random", "random perturbation instead of the search"),
        ("no-global", "no global term"),
        ("no-local", "no local term"),
    ):
        own = [
            r
            for n, r in reports.items()
            if n.split("-", 2)[1:] == ["0", variant] and n.split("-")[0] in concepts
        ]
        s = summary(own)
        lines.append(
            f"| {title} | " + " | ".join(_number(s[k]) for k in ("concept", "synonyms", "near", "far")) + " |"
        )
    return "\n".join(lines) + "\n"


def _mean_row(title: str, reports: list[dict]) -> str:
    s = summary(reports)
    cells = [
        *(_number(s[k]) for k in ("concept", "synonyms", "near", "far")),
        f"{_number(s['attacked'])} ({_number(s['control'])})",
    ]
    return f"| {title} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the rows; what is there is not made again"
    )
    parser.add_argument(
        "--method",
        default="sage-text",
        choices=list(METHODS),
        help="whose surfaces, terms and attacks are studied",
    )
    parser.add_argument("--concepts", default=",".join(CONCEPTS))
    parser.add_argument("--ablate", default=",".join(ABLATED))
    parser.add_argument("--attack", default=",".join(CONCEPTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--images", type=int, default=24, help="pictures a cell")
    args = parser.parse_args()
    escape_unprintable()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    concepts, ablated, attacked = (
        tuple(filter(None, names.split(","))) for names in (args.concepts, args.ablate, args.attack)
    )
    run(args.out, args.method, concepts, args.seeds, ablated, attacked, args.images)
    table = markdown(args.out)
    write_text(args.out / "tables.md", table)
    print(table)


if __name__ == "__main__":
    main()
