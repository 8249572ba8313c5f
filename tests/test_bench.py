"""The comparison: rows that resume where they stopped, one original for all, a table, a CSV and plots."""

import dataclasses
import functools
import json

import pytest

from sage_core.bench.bench import Plan, as_markdown, missing, name_of, run, work
from sage_core.bench.published import counted_up
from sage_core.bench.spread import spread
from sage_core.errors import SageError
from sage_core.evaluate.attacks.inversion import ConceptInversion
from sage_core.methods.table import METHODS

ATTACK = ConceptInversion(steps=2, latents=2, starts=("concept",), marks=(1,))
PLAN = Plan(("uce", "rece"), ("guitar",), (0,), images=1, attack=ATTACK, cost_steps=1)


def test_rows_of_one_concept_stand_together_and_only_some_methods_run_twice():
    rows = Plan(("sage", "uce"), ("dog", "castle"), (0, 1)).rows()
    assert [(r.concept, r.seed, r.method) for r in rows] == [
        ("dog", 0, "sage"),
        ("dog", 0, "uce"),
        ("castle", 0, "sage"),
        ("castle", 0, "uce"),
        ("dog", 1, "sage"),
        ("castle", 1, "sage"),
    ]


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    from sage_core import load_model

    out, said = tmp_path_factory.mktemp("bench"), []
    model = load_model("demo")
    return model, out, run(model, PLAN, out, said.append), said


def test_a_bench_writes_rows_a_table_a_csv_and_plots(benched):
    _, out, result, _ = benched
    assert set(result["methods"]) == {"uce", "rece"}
    for m, row in result["methods"].items():
        assert (
            row["passes"] == 0 and row["seconds"] > 0 and 0 <= row["near"] <= 1 and row["published"] is None
        )
        assert (out / f"guitar-0-{m}" / f"guitar-0-{m}.safetensors").exists() and (
            out / f"guitar-0-{m}" / "report.html"
        ).exists()
        assert list(row["attack_curve"]) == [1, 2] and row["attack_curve"][2] == row["attacked"]
        assert [b["prompts"] for b in row["ripple"]] and all(0 <= b["kept"] <= 1 for b in row["ripple"])
    assert json.loads((out / "bench.json").read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    lines = (out / "bench.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("method,concept,synonyms") and len(lines) == 3
    assert as_markdown(result).count("\n") == 4
    pytest.importorskip("matplotlib")
    for name in ("pareto.png", "ripple.png", "cost.png", "attack.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_bench_goes_on_where_it_stopped(benched):
    model, out, result, _ = benched
    before = model.cost.forwards
    row = out / name_of(PLAN.rows()[1])
    (row / "report.json").unlink()
    said = []
    again = run(model, PLAN, out, said.append)
    assert "rece" in said[0] and not any("uce erases" in line for line in said if " rece " not in line)
    assert model.cost.forwards > before and again["methods"]["uce"] == result["methods"]["uce"]
    assert {k: again["methods"]["rece"][k] for k in ("concept", "near", "far")} == {
        k: result["methods"]["rece"][k] for k in ("concept", "near", "far")
    }


def test_a_bench_spread_over_processes_makes_the_same_rows(benched, tmp_path):
    """Each in a process of its own; only the last bits may differ, since sums over fewer threads round
    otherwise.
    """
    model, out, result, _ = benched
    plan = dataclasses.replace(PLAN, concepts=("guitar", "dog"), methods=("uce",))
    spread_out = run(model, plan, tmp_path, jobs=2)
    assert {
        name: row["after"] for name, row in spread_out["methods"]["uce"]["rows"].items() if "guitar" in name
    } == {name: row["after"] for name, row in result["methods"]["uce"]["rows"].items()}
    assert (tmp_path / "dog-0-uce" / "report.json").exists()
    assert missing(plan, tmp_path) == [] and len(missing(PLAN, tmp_path)) == 1


def test_what_fails_in_a_process_is_reported_in_a_sentence(tmp_path):
    (tmp_path / "originals").mkdir()
    (tmp_path / "originals" / "guitar-0-1-2.safetensors").write_text("damaged")
    with pytest.raises(
        SageError,
        match="1 of 1 parts of the bench failed, the first with: guitar-0-1-2.safetensors cannot be read",
    ):
        spread([PLAN.rows()], functools.partial(work, plan=PLAN, out=tmp_path), 1, quiet=True)


def test_a_published_training_is_counted_up_from_a_few_steps_or_within_one(thin):
    expected = METHODS["esd"].passes(faithful=True)
    few = counted_up(thin, "esd", "castle", steps=1)
    assert (
        few["steps"] == METHODS["esd"].published.steps
        and few["measured_steps"] == 1
        and few["expected_passes"] == expected
    )
    assert few["passes"] == few["steps"] * few["measured_passes"]
    assert few["expected_seconds"] == pytest.approx(few["seconds"] * expected / few["passes"], abs=0.1)
    within = counted_up(thin, "esd", "castle", steps=1, most=0)
    assert (
        within["measured_steps"] == 0
        and 0 < within["measured_passes"] < few["passes"]
        and within["expected_seconds"] > 0
    )
    assert "passes" not in within and thin.on_pass is None
