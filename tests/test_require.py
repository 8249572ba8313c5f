"""Claims that an erasure must bear out: read, checked against the report, and on the command line."""

import json
from pathlib import Path

import pytest
import tiny

from sage_core import SageError
from sage_core.cli import main as cli
from sage_core.evaluate.require import check_columns, check_report, parse_requirements

REPORT = {
    "before": {"concept": 1.0, "synonyms": None, "near": 0.8, "far": 0.0, "attacked": None},
    "after": {"concept": 0.0625, "synonyms": None, "near": 0.6, "far": 0.0, "attacked": None},
    "interval": {"concept": [0.0111, 0.2833], "near": [0.3, 0.8]},
    "drift": {"near": 0.02, "far": None},
}


def checked(*claims: str) -> list[dict]:
    requirements = parse_requirements(claims)
    check_columns(requirements)
    return check_report(requirements, REPORT)


@pytest.mark.parametrize(
    "claim, value, holds",
    [
        ("concept<=0.0625", 0.0625, True),
        ("concept < 0.0625", 0.0625, False),
        ("concept<=2%", 0.0625, False),
        ("near>=0.75", 0.75, True),  # of before
        ("near>0.75", 0.75, False),
        ("drift.near<=0.05", 0.02, True),
        ("synonyms<=1", None, False),
        ("attacked<=1", None, False),
        ("far>=0", None, False),  # a share of nothing
        ("drift.far<=1", None, False),
    ],
)
def test_a_claim_holds_or_fails_by_what_was_measured(claim, value, holds):
    (result,) = checked(claim)
    assert result["measured"] == value and result["holds"] is holds
    assert result["sentence"].startswith("holds: " if holds else "failed: ")


def test_a_failed_claim_says_what_was_measured_and_how_sure_that_is():
    concept, near, attacked = (r["sentence"] for r in checked("concept<=0.02", "near>=0.95", "attacked<=0.3"))
    assert concept == "failed: concept<=0.02 (measured 0.0625, 95 % interval 0.01 to 0.28; 1 before)"
    assert near == "failed: near>=0.95 of before (measured 0.75: 0.6 after, 0.8 before)"
    assert attacked == "failed: attacked<=0.3 (not measured: no attack was run)"


@pytest.mark.parametrize(
    "claim, words",
    [
        ("concept", "cannot be read"),
        ("concept=0.1", "cannot be read"),
        ("<=0.1", "cannot be read"),
        ("concept<=", "cannot be read"),
        ("concept<=nan", "cannot be read"),
        ("concept<=1.2.3", "cannot be read"),
        ("concept<=-0.1", "cannot be read"),
        ("concept<=0.1 and near>=0.9", "cannot be read"),
        ("concept<=2", "above 1"),
        ("concept<=" + "9" * 5000, "above 1"),
        ("conept<=0.1", "no column 'conept'.*concept, synonyms, near, far, attacked"),
    ],
)
def test_what_is_no_claim_is_refused_in_a_sentence(claim, words):
    with pytest.raises(SageError, match=words):
        checked(claim)


def test_a_judge_that_is_blind_to_the_concept_bears_nothing_out():
    blind = REPORT | {"before": REPORT["before"] | {"concept": 0.0}}
    blind["before"] |= {"long": 0.0, "mine": 0.5}
    blind["after"] = REPORT["after"] | {"long": 0.0, "mine": 0.0}
    *unseen, seen = check_report(parse_requirements(["concept<=1", "long<=1", "mine<=0.1"]), blind)
    assert not any(r["holds"] for r in unseen) and seen["holds"]
    assert all("in no picture of the untouched model" in r["sentence"] for r in unseen)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path: Path) -> Path:
    command = ["erase", "demo", "--concept", "dog", "--method", "uce", "--no-preview", "--out", path.name]
    assert cli.main(command) == 0
    return path


def test_evaluate_ends_with_status_1_where_a_claim_fails(here, capsys):
    made(here / "dog.safetensors")
    quick = ["evaluate", "demo", "--lora", "dog.safetensors", "--images", "2", "--attack", "none"]
    capsys.readouterr()
    assert cli.main([*quick, "--require", "concept>=0", "--require", "drift.far<=1"]) == 0
    assert "holds: concept>=0 (measured" in capsys.readouterr().out
    page = ["--html", "r.html", "--json"]
    assert cli.main([*quick, "--require", "concept>=0", "--require", "attacked<=1", *page]) == 1
    assert "<li>failed: attacked&lt;=1 (not" in (here / "r.html").read_text(encoding="utf-8")
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert [r["holds"] for r in report["requirements"]] == [True, False] and report["holds"] is False
    assert "failed: attacked<=1 (not measured: no attack was run)" in err and "holds:" not in err


@pytest.mark.parametrize(
    "claim, words", [("concept", "cannot be read"), ("conept<=0.1", "no column 'conept'")]
)
@pytest.mark.parametrize("command", [["evaluate", "none", "--lora", "none"], ["batch", "none", "none"]])
def test_a_claim_that_cannot_be_checked_is_refused_before_anything_is_read(
    here, capsys, command, claim, words
):
    assert cli.main([*command, "--require", claim]) == 1
    assert words in capsys.readouterr().err and list(here.iterdir()) == []


def test_a_lora_of_another_model_bears_nothing_out(here, capsys):
    made(here / "dog.safetensors")
    tiny.folder(tiny.make("sdxl"), here / "other")
    command = ["evaluate", "other", "--lora", "dog.safetensors", "--require", "concept<=1"]
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert "the LoRA was made for" in err and "holds" not in err


def test_a_batch_measures_every_lora_and_names_the_one_that_fails(here, capsys):
    (here / "jobs.txt").write_text("dog\nowl\n", encoding="utf-8")
    batch = ["batch", "demo", "jobs.txt", "--method", "uce", "--out", "out", "--images", "2"]
    assert cli.main([*batch, "--require", "concept<=1"]) == 0
    rows = json.loads((here / "out" / "summary.json").read_text(encoding="utf-8"))
    assert all(row["holds"] and row["after"]["concept"] is not None for row in rows)
    assert (here / "out" / "erased-owl.png").exists()
    capsys.readouterr()
    assert cli.main([*batch, "--require", "concept>=0", "--require", "attacked<=1", "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["holds"] is False and [row["note"] for row in result["erasures"]] == ["was there"] * 2
    assert "owl: failed: attacked<=1 (not measured" in err
    summary = (here / "out" / "summary.md").read_text(encoding="utf-8")
    assert summary.count("failed: attacked<=1") == 2
