"""What was kept: each measure against a closed form or an independent implementation."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
import torch

from sage_core.cycle.run import erase
from sage_core.diffusion.knowledge import Prompt
from sage_core.errors import SageError
from sage_core.evaluate.file import Measuring, measure_file
from sage_core.evaluate.judges.choose import own_or_model
from sage_core.evaluate.keeping import bootstrap, columns, features, natural, ripple, section
from sage_core.evaluate.keeping.keep import Keeping
from sage_core.evaluate.keeping.lpips import Lpips
from sage_core.evaluate.report import page, table
from sage_core.evaluate.require import parse_requirements
from sage_core.spec import ErasureSpec

NEEDS = pytest.mark.skipif(bool(features.missing()), reason=features.missing() or "torchmetrics is there")


def gaussians(seed: int, mean: float, spread: float, n: int = 400, width: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(n, width, generator=generator, dtype=torch.float64)


@NEEDS
def test_fid_is_the_closed_form_of_two_gaussians():
    """|mu1 - mu2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), by numpy's eigenvalues."""
    first, second = gaussians(0, 0.0, 1.0), gaussians(1, 0.5, 2.0)
    means = [x.numpy().mean(0) for x in (first, second)]
    covariances = [np.cov(x.numpy(), rowvar=False) for x in (first, second)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    wanted = np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1]) - 2 * roots
    assert features.fid(first, second) == pytest.approx(wanted, rel=1e-3)
    assert features.fid(first, first) == pytest.approx(0.0, abs=1e-6)


@NEEDS
def test_kid_is_the_unbiased_estimate_written_out():
    first, second = gaussians(2, 0.0, 1.0, 60), gaussians(3, 0.7, 1.0, 60)
    n, width = first.shape

    def kernel(a, b):
        return (a @ b.T / width + 1) ** 3

    own = sum((k.sum() - k.trace()) / (n * (n - 1)) for k in (kernel(first, first), kernel(second, second)))
    wanted = (own - 2 * kernel(first, second).mean()).item()
    assert features.kid(first, second) == pytest.approx(wanted, rel=1e-4)


def test_the_bootstrap_agrees_with_the_normal_interval_of_many_values():
    values = np.random.default_rng(0).normal(2.0, 1.0, 400)
    low, high = bootstrap.interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2 * half)


def test_pictures_of_one_prompt_are_no_independent_values():
    values = [float(i % 4) for i in range(40)]
    groups = [i % 4 for i in range(40)]  # ten like pictures of each of four prompts
    alone, grouped = bootstrap.interval(values), bootstrap.interval(values, groups)
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])
    assert bootstrap.interval([1.0]) is None and bootstrap.interval([1.0, 2.0], ["a", "a"]) is None


def test_a_ripple_shows_where_the_harm_ends():
    words = [f"word {i}" for i in range(20)]
    away = {word: i / 20 for i, word in enumerate(words)}
    prompts = [Prompt("ripple", word, word, i) for i, word in enumerate(words)]
    before = [True] * 19 + [False]  # the last was never drawn, so it cannot be lost
    after = [i >= 8 for i in range(20)]
    bins = ripple.in_bins(ripple.points_of(prompts, before, after, away), 4)
    assert [part["prompts"] for part in bins] == [4, 5, 5, 5]
    assert [part["kept"] for part in bins] == [0.0, 0.2, 1.0, 1.0]
    assert bins[0]["from"] == 0.0 and bins[-1]["to"] == 0.9
    assert all(part["interval"][0] <= part["kept"] <= part["interval"][1] for part in bins)


def test_pictures_at_one_distance_stay_in_one_bin():
    bins = ripple.in_bins([ripple.Point(0.1, True)] * 5 + [ripple.Point(0.9, False)], 3)
    assert [(part["distance"], part["prompts"]) for part in bins] == [(0.1, 5), (0.9, 1)]


def test_the_linear_denoiser_is_the_best_one_for_gaussian_latents():
    """Its error is the mean of (w x - e)^2 at the best w, over drawn x = sqrt(abar) z + sqrt(1 - abar) e."""
    random, abar, variance = np.random.default_rng(1), 0.6, 0.4
    z = np.sqrt(variance) * random.normal(size=200_000)
    e = random.normal(size=200_000)
    x = np.sqrt(abar) * z + np.sqrt(1 - abar) * e
    best = (x * e).mean() / (x * x).mean()
    wanted = np.square(best * x - e).mean()
    found = natural.linear(np.array([variance]), np.array([abar]))[0, 0]
    assert found == pytest.approx(wanted, rel=0.02)


def test_percentiles_count_ties_half():
    reference = np.array([[1.0], [2.0], [3.0], [4.0]])
    own = np.array([[0.5], [2.0], [9.0]])
    assert natural.percentiles(reference, own).tolist() == [0.0, 37.5, 100.0]


def test_noise_and_nothing_are_told_from_pictures(demo):
    words = ["a cat", "a castle", "a pizza", "a train", "a lion", "an owl", "a car", "a tree"]
    pictures = demo.generate(words * 2, list(range(16)), steps=8)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(4, *pictures.shape[1:], generator=generator) * 2 - 1
    nothing = torch.full((4, *pictures.shape[1:]), 0.5)
    reference = natural.denoised(demo, pictures)
    noisy = natural.about(reference, natural.denoised(demo, noise), ["a"] * 4)
    empty = natural.about(reference, natural.denoised(demo, nothing), ["a"] * 4)
    usual = natural.about(reference, reference, words * 2)
    assert noisy["noisy"] == 1.0 and empty["empty"] == 1.0 and usual["usual"] > 0.8


@NEEDS
def test_lpips_of_a_picture_with_itself_is_zero_and_grows_with_the_change(tmp_path):
    """Over a backbone of random weights: what is tested is the road from the file to the number."""
    models = pytest.importorskip("torchvision.models", reason="LPIPS needs torchvision")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(models.alexnet(weights=None).state_dict(), tmp_path / "alexnet.safetensors")
    lpips = Lpips.read(tmp_path / "alexnet.safetensors")
    picture = torch.rand(2, 3, 64, 64) * 2 - 1
    change = torch.randn_like(picture)
    same, little, much = (lpips(picture, picture + k * change) for k in (0.0, 0.1, 1.0))
    assert lpips.name == "AlexNet" and same == [0.0, 0.0]
    assert all(0 < a < b for a, b in zip(little, much))


def test_a_file_that_is_no_backbone_gets_a_sentence(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(SageError, match="no LPIPS backbone"):
        Lpips.read(tmp_path / "x.safetensors")


def test_an_evaluation_says_what_was_kept(demo, tmp_path):
    lora = tmp_path / "dog.safetensors"
    erasure = erase(demo, ErasureSpec("dog", method="rece"))
    erasure.save(lora, demo)
    erasure.adapter.remove()
    claims = tuple(parse_requirements(["keeping.ripple>=0", "keeping.natural>=0", "keeping.lpips.near<=1"]))
    how = Measuring(4, 0, (), judges=(own_or_model,), requirements=claims, keeping=Keeping(words=6))
    how.check()
    evaluation = measure_file(demo, lora, how, {"path": str(lora)})
    kept = evaluation.report["keeping"]
    assert set(kept["drift"]) == {"near", "far"} and kept["ripple"]["bins"] and "lpips" in kept["absent"]
    assert 0 <= kept["natural"]["after"]["usual"] <= 1 and kept["content"]["kept"] is not None
    results = [claim["holds"] for claim in evaluation.report["requirements"]]
    assert results == [True, True, False]  # what was not measured bears nothing out
    assert "kept:" in table(evaluation.report)
    whole = page(evaluation)
    assert "What was kept" in whole and "share kept over distance" in whole
    rows = list(csv.DictReader(io.StringIO(columns.as_csv(["one"], [kept]))))
    assert {row["lora"] for row in rows} == {"one"}
    assert any(row["measure"] == "ripple.1.kept" for row in rows)
    assert section.section({}) == "" and section.lines({}) == []
