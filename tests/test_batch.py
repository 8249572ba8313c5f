"""Job files: many concepts, one summary; alone, again, and shared between processes by an engine that is not
ours.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sage_core import SageError
from sage_core.cli import main as cli
from sage_core.jobs.batch import read_jobs
from sage_core.jobs.names import stems
from sage_core.lora.file import read_lora

ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary(folder: Path) -> dict:
    return {row["concept"]: row for row in json.loads((folder / "summary.json").read_text(encoding="utf-8"))}


def test_lines_and_json_are_read_and_settings_are_defaults(here):
    (here / "a.txt").write_text("dog | puppy, hound\n\nin the style of X\n", encoding="utf-8")
    (here / "a.json").write_text(
        json.dumps(["owl", {"concept": "cat", "seed": 3, "method": "uce"}]), encoding="utf-8"
    )
    dog, style = read_jobs(here / "a.txt", {"method": "sage", "seed": 7})
    assert (dog.synonyms, dog.seed, style.concept) == (("puppy", "hound"), 7, "in the style of X")
    owl, cat = read_jobs(here / "a.json", {"method": "sage", "seed": 7})
    assert (owl.method, owl.seed, cat.method, cat.seed) == ("sage", 7, "uce", 3)
    assert stems([spec.concept for spec in (dog, dog, style)]) == [
        "erased-dog",
        "erased-dog-2",
        "erased-in-the-style-of-X",
    ]


@pytest.mark.parametrize(
    "content, words",
    [
        ("{}", "a list of 1 to"),
        ("[]", "a list of 1 to"),
        ("[", "cannot be read"),
        ('["dog", {"concept": "", "seed": 0}]', "erasure 2: .*empty"),
        ('[{"colour": 1}]', "erasure 1: .*colour"),
        ("[3]", "erasure 1: .*concept"),
    ],
)
def test_a_wrong_job_file_is_a_sentence_that_says_where(here, content, words):
    (here / "a.json").write_text(content, encoding="utf-8")
    with pytest.raises(SageError, match=words):
        read_jobs(here / "a.json", {})
    with pytest.raises(SageError, match="cannot be read"):
        read_jobs(here / "none.txt", {})


def test_a_job_may_say_what_its_concept_is(here, capsys):
    (here / "a.json").write_text('["dog", {"concept": "ink", "kind": "thing"}]', encoding="utf-8")
    assert [s.kind for s in read_jobs(here / "a.json", {"kind": None})] == [None, "thing"]
    (here / "b.txt").write_text("ink\nglossy\n", encoding="utf-8")
    command = ["batch", "demo", "b.txt", "--method", "uce", "--no-preview", "--out", "out"]
    assert cli.main(command) == 0 and "1/2 'ink': taken as a style" in capsys.readouterr().err
    kinds = [read_lora(here / "out" / f"erased-{c}.safetensors").spec()["kind"] for c in ("ink", "glossy")]
    assert kinds == ["style", "style"]
    assert cli.main(command) == 0, "the same erasures are found again"
    assert [row["note"] for row in summary(here / "out").values()] == ["was there", "was there"]
    assert cli.main([*command, "--kind", "thing"]) == 1 and "another erasure" in capsys.readouterr().err


def test_one_that_fails_does_not_stop_the_others_and_a_second_run_makes_only_what_is_missing(here, capsys):
    jobs = here / "jobs.txt"
    jobs.write_text("castle\nxylophone\n", encoding="utf-8")
    command = ["batch", "demo", str(jobs), "--method", "uce", "--out", "out"]
    assert cli.main(command) == 1
    assert "1 of 2 erasures failed (first 'xylophone'" in capsys.readouterr().err
    rows = summary(here / "out")
    assert "cannot draw" in rows["xylophone"]["error"]
    assert {"erased-castle.png", "summary.md", "summary.png"} <= {p.name for p in (here / "out").iterdir()}
    made = (here / "out" / "erased-castle.safetensors").stat().st_mtime_ns
    jobs.write_text("castle\npuppy | dog\nowl\n", encoding="utf-8")
    assert cli.main([*command, "--no-preview"]) == 0
    rows = summary(here / "out")
    assert (rows["castle"]["note"], "note" in rows["owl"]) == ("was there", False)
    assert read_lora(here / "out" / rows["puppy"]["lora"]).spec()["synonyms"] == ["dog"]
    assert (here / "out" / "erased-castle.safetensors").stat().st_mtime_ns == made
    assert (
        cli.main([*command, "--no-preview", "--seed", "5"]) == 1
        and "is another erasure" in capsys.readouterr().err
    )
    assert (here / "out" / "erased-castle.safetensors").stat().st_mtime_ns == made


def test_processes_of_accelerate_share_the_work_and_make_the_same_files(here):
    (here / "jobs.txt").write_text("dog\nowl\ncastle\n", encoding="utf-8")
    batch = ["batch", "demo", "jobs.txt", "--method", "uce", "--no-preview", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
    ]
    run = subprocess.run(
        [*launch, "-m", "sage_core", *batch, "--out", "two"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert cli.main([*batch, "--out", "one"]) == 0
    assert list(summary(here / "two")) == list(summary(here / "one")) == ["dog", "owl", "castle"]
    assert run.stdout.count("summary in") == 1, "the first process speaks for all"
    for row in summary(here / "one").values():
        one, two = (read_lora(here / folder / row["lora"]).layers for folder in ("one", "two"))
        assert all(torch.allclose(one[k][i], two[k][i], atol=1e-5) for k in one for i in (0, 1))


def test_several_processes_without_accelerate_are_a_sentence(here, capsys, monkeypatch):
    (here / "jobs.txt").write_text("dog\n", encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert cli.main(["batch", "demo", "jobs.txt", "--method", "uce"]) == 1
    assert "WORLD_SIZE is 2" in capsys.readouterr().err and not (here / "erased").exists()


def test_one_process_needs_neither_peft_nor_accelerate_nor_psutil(here):
    code = (
        "import sys; sys.modules |= dict.fromkeys(('accelerate', 'peft', 'psutil')); from sage_core.cli.main"
        " import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        "erase",
        "demo",
        "--concept",
        "dog",
        "--no-search",
        "--steps",
        "1",
        "--rank",
        "2",
        "--device",
        "cpu",
        "--no-preview",
    ]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and (here / "erased-dog.safetensors").exists(), run.stderr
