"""An evaluation that was stopped resumes with what was measured, and with nothing else."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from sage_core.cli import main as cli
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate.kept import (
    Kept,
    Measured,
    about_model,
    digest,
    drawn,
    from_bytes,
    judged,
    to_bytes,
)

ROOT = Path(__file__).parent.parent
ONE, TWO = torch.ones(2), torch.zeros(2)


def measured(kept: Kept, what: dict, tensor: torch.Tensor) -> tuple[Measured, bool]:
    """The measurement, and whether it was made now."""
    made = []

    def make() -> Measured:
        made.append(True)
        return Measured({"value": 1}, {"a": tensor})

    return kept.get(what, make), bool(made)


def test_a_measurement_is_made_once_and_shared_only_by_what_depends_on_the_same(tmp_path):
    kept = Kept(tmp_path, {"model": "x"})
    assert measured(kept, {"seed": 1}, ONE)[1]
    again, made = measured(kept, {"seed": 1}, TWO)
    assert not made and again.value == {"value": 1} and torch.equal(again.tensors["a"], ONE)
    assert measured(kept, {"seed": 2}, ONE)[1]
    assert measured(kept.also(lora="y"), {"seed": 1}, ONE)[1]
    assert measured(Kept(tmp_path, {"model": "z"}), {"seed": 1}, ONE)[1]
    assert measured(Kept(), {"seed": 1}, ONE)[1] and measured(Kept(), {"seed": 1}, ONE)[1]


def test_a_file_that_is_damaged_or_about_something_else_is_made_again(tmp_path):
    kept = Kept(tmp_path)
    measured(kept, {"seed": 1}, ONE)
    (first,) = tmp_path.iterdir()
    measured(kept, {"seed": 2}, TWO)
    second = next(path for path in tmp_path.iterdir() if path != first)
    second.write_bytes(first.read_bytes())
    found, made = measured(kept, {"seed": 2}, TWO)
    assert made and torch.equal(found.tensors["a"], TWO)
    first.write_bytes(first.read_bytes()[:40])
    assert measured(kept, {"seed": 1}, ONE)[1]


def test_pictures_are_measured_as_they_are_saved():
    images = torch.linspace(-1.1, 1.1, 48).reshape(1, 3, 4, 4)
    once = from_bytes(to_bytes(images))
    assert torch.equal(from_bytes(to_bytes(once)), once)
    assert (once - images.clamp(-1, 1)).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("part", ["unet", "vae", "text", "config", "alphas", "pixels"])
def test_a_change_anywhere_in_the_model_is_another_model(thin, tmp_path, part):
    from sage_core import load_model

    model = load_model(tiny.folder(tiny.make("sd1"), tmp_path / "m"))
    assert about_model(model) == about_model(thin)
    if part == "config":
        model.vae.register_to_config(scaling_factor=0.5)
    elif part == "alphas":
        model.alphas = model.alphas * 0.999
    elif part == "pixels":
        model.pixels *= 2
    else:
        module = {"unet": model.unet, "vae": model.vae, "text": model.text.encoders[0]}[part]
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] += 1e-6
    assert about_model(model) != about_model(thin)


def test_every_bit_and_the_kind_of_a_tensor_count():
    assert digest(ONE) == digest(ONE.clone()) != digest(ONE.half()) != digest(ONE.double())
    assert digest(ONE) != digest(ONE.nextafter(TWO)) and digest(ONE, TWO) != digest(TWO, ONE)


class Yes:
    name, cannot = "yes", ""

    def __init__(self, key: str):
        self.key, self.asked = key, 0

    def sees(self, images, expected, prompts):
        self.asked += len(images)
        return [True] * len(images)


def test_verdicts_are_kept_by_picture_prompt_and_judge_and_not_where_the_judge_has_no_key(tmp_path):
    kept, images = Kept(tmp_path), torch.rand(3, 3, 4, 4)
    prompts = [Prompt("concept", "a dog", "dog", i) for i in range(3)]
    for key, asked in (("one", 3), ("one", 0), ("two", 3), ("", 3), ("", 3)):
        judge = Yes(key)
        assert judged(judge, images, ["dog"] * 3, prompts, kept) == [True] * 3
        assert judge.asked == asked, key
    for other in (
        (images.flip(0), ["dog"] * 3, prompts),
        (images, ["cat"] * 3, prompts),
        (images, ["dog"] * 3, prompts[::-1]),
    ):
        judge = Yes("one")
        judged(judge, *other, kept)
        assert judge.asked == 3


def test_edits_depend_on_the_pictures_that_they_start_from(thin, tmp_path, monkeypatch):
    from sage_core.evaluate import kept as module

    passes = []
    real = module.draw
    monkeypatch.setattr(module, "draw", lambda m, p, o: passes.append(len(p)) or real(m, p, o))
    prompts = [Prompt("concept", "a dog", "dog", 1)]
    prompts += [Prompt("edit-0.4", "a dog", "dog", 1, strength=0.4, edits=0)]
    kept = Kept(tmp_path)
    first = drawn(thin, prompts, None, kept)
    assert torch.equal(drawn(thin, prompts, None, kept), first) and passes == [1, 1]
    drawn(thin, prompts, first * 0.5, kept)
    assert passes == [1, 1, 1], "only the edit is drawn again"


def start(folder: Path, out: str) -> subprocess.Popen:
    command = [
        "evaluate",
        "demo",
        "--lora",
        "d.safetensors",
        "--images",
        "2",
        "--attack",
        "none",
        "--out",
        out,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sage_core", *command], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )


@pytest.mark.slow
def test_a_killed_evaluation_resumes_and_ends_with_the_same_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    erase = ["erase", "demo", "--concept", "dog", "--method", "uce", "--no-preview", "--out", "d.safetensors"]
    assert cli.main(erase) == 0
    state = tmp_path / "killed" / "state"
    running, began = start(tmp_path, "killed"), time.monotonic()
    while not list(state.glob("*.safetensors")):
        assert running.poll() is None and time.monotonic() - began < 300
        time.sleep(0.02)
    running.kill()
    assert running.wait() != 0 and not (tmp_path / "killed" / "report.html").exists()
    there = {path.name: path.stat().st_mtime_ns for path in state.glob("*.safetensors")}
    assert start(tmp_path, "killed").wait() == 0
    after = {path.name: path.stat().st_mtime_ns for path in state.glob("*.safetensors")}
    assert there.items() <= after.items() and len(after) > len(there), "what was there is not made again"
    assert start(tmp_path, "whole").wait() == 0
    one, two = (json.loads(Path(out, "report.json").read_text("utf-8")) for out in ("killed", "whole"))
    for report in (one, two):
        del report["cost"]["peak_memory_mb"]
    assert one == two
    assert {p.name for p in Path("whole/state").iterdir()} == set(after)
