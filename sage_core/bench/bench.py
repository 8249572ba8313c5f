"""Every method on the same work, in one run that resumes where it stopped.

It writes one report.json a row, then a table, a CSV and plots.

Rows of one concept and seed share the original model's pictures, the attack's control and the order of their
seeds, so that methods are compared on the same prompts, noise and attack.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..cycle.run import erase
from ..diffusion.model import DiffusionModel
from ..diffusion.weights import opened
from ..errors import SageError
from ..evaluate.attacks.inversion import ConceptInversion
from ..evaluate.keeping.ripple import Point, distances_of, in_bins
from ..evaluate.measure import Baseline, evaluate, load_judge, measure_original
from ..evaluate.report import write_report
from ..files import write_atomically, write_text
from ..jobs.make import about_file
from ..methods.table import METHODS
from ..spec import ErasureSpec
from .plots import draw_all
from .published import counted_up
from .spread import spread
from .study import mean
from .study import summary as cells_and_cost

Task = list[ErasureSpec] | str  # rows that share an original, or a method whose published cost is measured
CONCEPTS = (
    "lion",
    "turtle",
    "castle",
    "robot",
    "hamburger",
    "penguin",
    "pixel art",
)  # not one of them was tuned on


@dataclass(frozen=True)
class Plan:
    """What to run.

    `second`: methods that get all `seeds`; the others get the first alone. `cost_steps`: steps of each
    published training that are run to measure its cost.
    """

    methods: tuple[str, ...]
    concepts: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1)
    second: tuple[str, ...] = ("sage",)
    images: int = 8
    attack: ConceptInversion = ConceptInversion(steps=100, marks=(10, 30))
    cost_steps: int = 3

    def rows(self) -> list[ErasureSpec]:
        """Seed by seed and concept by concept, so that rows that share an original follow each other."""
        rows = []
        for seed in self.seeds:
            methods = [m for m in self.methods if seed == self.seeds[0] or m in self.second]
            for concept in self.concepts:
                rows += [ErasureSpec(concept, method=method, seed=seed) for method in methods]
        return rows


def name_of(spec: ErasureSpec) -> str:
    return f"{spec.concept.replace(' ', '-')}-{spec.seed}-{spec.method}"


def run(
    model: DiffusionModel,
    plan: Plan,
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    jobs: int = 1,
) -> dict:
    """Make the rows and published costs that are missing in `out`, then write table, CSV and plots; the
    summary.

    jobs: processes that share the work (see `jobs.spread`); with one it is done here.
    """
    tasks = missing(plan, out)
    if jobs > 1 and len(tasks) > 1:
        part = functools.partial(work, plan=plan, out=out)
        spread(tasks, part, min(jobs, len(tasks)), getattr(say, "quiet", False))
    for task in missing(plan, out):
        work(model, task, say, plan, out)
    costs = {m: published_cost(model, m, plan, out) for m in plan.methods if METHODS[m].published is not None}
    result = summary(model, out, plan, costs)
    write_text(out / "bench.json", json.dumps(result, indent=1))
    write_text(out / "bench.csv", as_csv(result))
    write_text(out / "bench.md", as_markdown(result))
    try:
        draw_all(result, out)
    except SageError as error:
        say(str(error))
    return result


def missing(plan: Plan, out: Path) -> list[Task]:
    """What is still to do: the rows of one concept and seed together, since they share an original, then a
    published cost each.
    """
    groups: dict[tuple, list[ErasureSpec]] = {}
    for spec in plan.rows():
        if not (out / name_of(spec) / "report.json").exists():
            groups.setdefault((spec.concept, spec.seed), []).append(spec)
    costs = [
        m for m in plan.methods if METHODS[m].published is not None and not cost_file(m, plan, out).exists()
    ]
    return [*groups.values(), *costs]


def work(model: DiffusionModel, task: Task, say: Callable[[str], None], plan: Plan, out: Path) -> None:
    """Do one of the `missing`."""
    if isinstance(task, str):
        say(
            f"measuring what {METHODS[task].title} costs as published ({plan.cost_steps} of"
            f" {METHODS[task].published.steps} steps)"
        )
        published_cost(model, task, plan, out)
        return
    base = original(model, task[0], plan, out)
    for spec in task:
        done = sum((out / name_of(s) / "report.json").exists() for s in plan.rows())
        say(f"{done + 1}/{len(plan.rows())} {spec.method} erases {spec.concept!r}, seed {spec.seed}")
        one_row(model, spec, plan, base, out / name_of(spec))


def original(model: DiffusionModel, spec: ErasureSpec, plan: Plan, out: Path) -> Baseline:
    """The original model's pictures, latents and control, made once a concept and seed and kept as a file."""
    from safetensors.torch import save_file

    path = (
        out
        / "originals"
        / f"{spec.concept.replace(' ', '-')}-{spec.seed}-{plan.images}-{plan.attack.steps}.safetensors"
    )
    if path.exists():
        with opened(path) as f:
            judge = load_judge(model)
            prompts = judge.prompts(spec.concept, spec.synonyms, plan.images, spec.seed)
            attacked = {plan.attack.steps: float(f.metadata()["attacked"])}
            tensors = f.get_tensor("pictures"), f.get_tensor("latents")
            return Baseline(judge, prompts, *tensors, {plan.attack.name: attacked})
    whole = dataclasses.replace(plan.attack, marks=())  # of the control only the end is kept
    base = measure_original(model, spec, plan.images, spec.seed, whole)
    attacked = base.untouched[whole.name][whole.steps]
    tensors = {"pictures": base.pictures.contiguous(), "latents": base.latents.contiguous()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"attacked": str(attacked)}))
    return base


def one_row(model: DiffusionModel, spec: ErasureSpec, plan: Plan, base: Baseline, folder: Path) -> None:
    """Erase, save, measure, report; the adapter comes off whatever happens."""
    erasure = erase(model, spec)
    try:
        lora = erasure.save(folder / f"{folder.name}.safetensors", model)
        about = about_file(lora, erasure.recipe.rank, lora.name)
        evaluation = evaluate(
            model,
            base,
            erasure.spec,
            erasure.cost,
            erasure.seconds,
            about,
            plan.images,
            spec.seed,
            plan.attack,
        )
        prompts = [
            {"cell": p.cell, "expected": p.expected, "before": b, "after": a}
            for p, (b, a) in zip(evaluation.prompts, evaluation.seen)
        ]
        write_text(folder / "prompts.json", json.dumps(prompts))
        write_report(evaluation, folder)
    finally:
        erasure.adapter.remove()


def cost_file(method: str, plan: Plan, out: Path) -> Path:
    return out / "published" / f"{method}-{plan.cost_steps}.json"


def published_cost(model: DiffusionModel, method: str, plan: Plan, out: Path) -> dict:
    """UNet passes and seconds of the paper's own training:

    `cost_steps` steps measured and counted up to all of them.
    """
    path = cost_file(method, plan, out)
    if not path.exists():
        write_text(path, json.dumps(counted_up(model, method, plan.concepts[0], plan.cost_steps)))
    return json.loads(path.read_text(encoding="utf-8"))


def ripple(model: DiffusionModel, folders: list[tuple[str, Path]], bins: int = 5) -> list[dict]:
    """How much is kept of words near and far, in `bins` equal parts by their distance from the erased
    concept (EraseBench).
    """
    points = []
    for concept, folder in folders:
        prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
        prompts = [p for p in prompts if p["cell"] in ("near", "far") and p["before"]]
        words = sorted({p["expected"] for p in prompts})
        away = distances_of(model, [concept], words)
        points += [Point(away[p["expected"]], bool(p["after"])) for p in prompts]
    return in_bins(points, bins)


def attack_curve(reports: list[dict]) -> dict[int, float]:
    """Success of the attack by the number of its steps, mean over the rows that have it."""
    curves = [r["attack_curve"] for r in reports if "attack_curve" in r]
    return {int(step): round(mean(c[step] for c in curves), 4) for step in (curves[0] if curves else {})}


def summary(model: DiffusionModel, out: Path, plan: Plan, costs: dict[str, dict]) -> dict:
    """Per method: the cells after erasing (near and far relative to before), cost, and the single rows."""
    result = {"plan": {**dataclasses.asdict(plan)}, "methods": {}}
    for m in plan.methods:
        specs = [s for s in plan.rows() if s.method == m]
        reports = [json.loads((out / name_of(s) / "report.json").read_text(encoding="utf-8")) for s in specs]
        row = {k: v if v is None else round(v, 4) for k, v in cells_and_cost(reports).items()}
        row["published"] = costs.get(m)
        row["attack_curve"] = attack_curve(reports)
        row["ripple"] = ripple(model, [(s.concept, out / name_of(s)) for s in specs])
        row["rows"] = {
            name_of(s): {"before": r["before"], "after": r["after"], "cost": r["cost"]}
            for s, r in zip(specs, reports)
        }
        result["methods"][m] = row
    return result


COLUMNS = ("concept", "synonyms", "near", "far", "attacked", "control", "passes", "seconds")


def as_csv(result: dict) -> str:
    """One line a method."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", *COLUMNS, "published_passes"])
    for m, row in result["methods"].items():
        writer.writerow([m, *(row[c] for c in COLUMNS), (row["published"] or {}).get("passes")])
    return text.getvalue()


def as_markdown(result: dict) -> str:
    """The table of docs/benchmarks.md."""

    def shown(value, digits=2) -> str:
        return "-" if value is None else f"{value:,.{digits}f}"

    lines = [
        (
            "| method | concept | synonyms | near | far | attacked | UNet passes | seconds | passes as"
            " published |"
        ),
        "|---" * 9 + "|",
    ]
    for m, row in result["methods"].items():
        cells = [shown(row[c]) for c in ("concept", "synonyms", "near", "far", "attacked")]
        published = row["published"]
        lines.append(
            f"| {m} | {' | '.join(cells)} | {shown(row['passes'], 0)} | {shown(row['seconds'], 1)} |"
            f" {shown(published and published['passes'], 0)} |"
        )
    return "\n".join(lines) + "\n"
