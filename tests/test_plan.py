"""Memory predicted without taking any, and the way of training that fits into what is free."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import tiny
import torch

from sage_core import ErasureSpec, SageError, load_model
from sage_core.memory.plan import fit, frozen_dtype, gigabytes, make_plan, seconds_a_pass
from sage_core.memory.rehearsal import Meter, samples, skeleton, step_bytes, weights_bytes
from sage_core.methods.table import METHODS

SPEC = ErasureSpec("castle")
RECIPE = SPEC.recipe()


def test_the_meter_counts_what_is_there_and_forgets_what_is_gone():
    with Meter() as meter:
        a = torch.zeros(1000)  # 4,000 bytes
        view, same = a[:10], a.add_(1)
        b = torch.zeros(500, dtype=torch.float16)
        assert meter.live == 5000
        del b
        c = a * 2
        del a, view, same
        assert meter.live == 4000 and meter.peak == 8000
    assert c.sum() == 2000


def test_a_view_of_what_was_there_before_takes_nothing():
    """A layer's transposed weight is one: counted, it made SDXL look five gigabytes larger."""
    weight = torch.zeros(100, 100)
    with Meter() as meter:
        kept = [weight.t() for _ in range(3)]
        assert meter.peak == 0 and len(kept) == 3


def test_what_autograd_keeps_is_counted_until_the_backward_pass():
    w = torch.zeros(100, 100, requires_grad=True)
    with Meter() as meter:
        out = (torch.zeros(10, 100) @ w).sin().cos().sum()
        assert meter.live == 3 * 4000 + 4  # what goes into the product, the sine and the cosine, and the sum
        out.backward()
        assert meter.live == w.grad.nbytes + 4


@pytest.fixture(scope="module", params=tiny.FAMILY_NAMES)
def model(request, tmp_path_factory):
    return load_model(tiny.folder(tiny.make(request.param), tmp_path_factory.mktemp("m") / "m"))


def test_every_way_that_takes_longer_takes_less_memory(model):
    ways = [
        step_bytes(skeleton(model), RECIPE, checkpointing, at_once)
        for checkpointing, at_once in ((False, 3), (True, 3), (True, 1))
    ]
    assert ways[0] > ways[1] > ways[2] > 0
    assert not any(
        "forward" in module.__dict__ for module in model.unet.modules()
    )  # only the skeleton is changed


def test_the_quickest_way_that_fits_is_taken_and_else_the_numbers_are_told(model):
    rich = make_plan(model, RECIPE, None)
    assert (
        not rich.checkpointing
        and rich.whole
        and rich.weights == weights_bytes([model.unet, *model.text.encoders])
    )
    lean = make_plan(model, RECIPE, int(rich.peak / 0.9) - 2**18)
    assert lean.checkpointing and lean.peak < rich.peak and "computed twice" in str(lean)
    with pytest.raises(
        SageError, match=f"{gigabytes(lean.weights)}.*one of|smaller resolution than {model.pixels}"
    ):
        make_plan(model, RECIPE, rich.weights)


def test_a_model_that_is_loaded_already_does_not_count_its_weights_twice(model):
    rich = make_plan(model, RECIPE, None)
    tight = int(rich.step / 0.9) + 2**20
    assert make_plan(model, RECIPE, tight, loaded=rich.weights).whole
    assert make_plan(model, RECIPE, rich.peak * 2).whole


def test_a_larger_picture_takes_more(model):
    small, large = (
        step_bytes(skeleton(model), dataclasses.replace(RECIPE, resolution=r), False, 3) for r in (64, 128)
    )
    assert large > 1.3 * small


def test_every_method_says_how_many_samples_a_step_has():
    counts = {
        name: samples(ErasureSpec("castle", method=name).recipe())
        for name, m in METHODS.items()
        if m.closed is None
    }
    assert (
        counts["sage"] == 3  # two erased, one kept
        and counts["esd"] == 4
        and counts["age"] == 4  # two erased, and their word kept
    )


def test_a_plan_sets_the_model_up_and_an_erasure_runs_in_it(thin, monkeypatch):
    from sage_core import erase
    from sage_core.memory import plan

    monkeypatch.setattr(
        plan, "free_bytes", lambda device: int(make_plan(thin, RECIPE, None).step / 0.9) - 2**18
    )
    try:
        assert fit(thin, RECIPE, torch.device("cpu")).checkpointing and thin.at_once == 3
        erase(thin, dataclasses.replace(SPEC, steps=2)).adapter.remove()
        assert seconds_a_pass(thin, RECIPE) > 0
    finally:
        monkeypatch.setattr(plan, "free_bytes", lambda device: None)
        assert not fit(thin, RECIPE, torch.device("cpu")).checkpointing
        thin.at_once = None


def test_the_bundled_model_needs_no_plan_and_a_closed_form_neither(demo, thin):
    assert fit(demo, RECIPE, torch.device("cpu")) is None
    assert fit(thin, ErasureSpec("castle", method="uce").recipe(), torch.device("cpu")) is None


@pytest.mark.parametrize(
    "name,capability,wanted",
    [
        ("NVIDIA GeForce RTX 4060", (8, 9), torch.bfloat16),
        ("NVIDIA GeForce RTX 2070", (7, 5), torch.float16),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), torch.float32),
        ("NVIDIA GeForce GTX 1080", (6, 1), torch.float32),
    ],
)
def test_weights_are_in_the_precision_that_a_card_is_quick_and_sound_in(
    monkeypatch, name, capability, wanted
):
    """torch says of all of them that they have bfloat16, the older ones by going through float32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *args: True)
    assert frozen_dtype(torch.device("cuda")) == wanted
    assert frozen_dtype(torch.device("cpu")) == frozen_dtype(torch.device("mps")) == torch.float32


@pytest.mark.skipif(
    "SAGE_LONG" not in os.environ or sys.platform != "linux",
    reason="minutes, and on Linux alone: set SAGE_LONG=1",
)
@pytest.mark.parametrize("family", ["sd1", "sdxl", "sd3"])
def test_the_predicted_peak_is_the_measured_one(family, tmp_path):
    """In a process of its own, since only the highest memory of a process can be read."""
    command = [
        sys.executable,
        "-m",
        "sage_core.bench.cost",
        "--family",
        family,
        "--rivals",
        "",
        "--own-steps",
        "2",
        "--out",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / f"cost-{family}-thin.json").read_text(encoding="utf-8"))
    assert result["sage"]["step_bytes"] == pytest.approx(result["predicted_step_bytes"], rel=0.25)
    both = result["weights_bytes"]
    assert both + result["sage"]["step_bytes"] == pytest.approx(
        both + result["predicted_step_bytes"], rel=0.15
    )
