"""A step's gradients are the same from one UNet batch and from parts of it."""

import pytest
import tiny
import torch

from sage_core import ErasureSpec, erase, load_model
from sage_core.cycle.descent import descend
from sage_core.cycle.run import HALF_SCALE
from sage_core.diffusion.checkpointing import checkpoint_blocks
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.states import Rows


def terms_on(model, adapter):
    """Two terms of three and two samples, weighted in both ways, and a loss in text space."""
    g = torch.Generator().manual_seed(1)

    def rows(prompts, weight):
        z, target = (torch.randn(len(prompts), *model.latent_shape, generator=g) for _ in range(2))
        return Rows(z, torch.tensor([100, 500, 900])[: len(prompts)], model.encode(prompts), target, weight)

    weights = torch.rand(3, 1, 1, 1, generator=g)
    return {
        "erase": rows(["castle", "a castle", "the castle"], weights),
        "noise": rows(["dog", "cat"], 20.0),
        "relations": model.encode(["a lion"]).hidden.square().mean(),
    }


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def any_thin(request, tmp_path_factory):
    """One encoder, and two with a pooled state that the UNet reads as well."""
    return load_model(tiny.folder(tiny.make(request.param), tmp_path_factory.mktemp("thin") / "m"))


@pytest.mark.parametrize("surface", ["both", "cross_attention", "text"])
@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_parts_add_up_to_the_whole_batch(any_thin, surface, at_once):
    thin = any_thin
    found = {}
    for limit in (None, at_once):
        adapter = Adapter.create(surface_layers(thin, surface), 2, 2.0, torch.Generator().manual_seed(0))
        for up in adapter.up.values():
            torch.nn.init.normal_(up, std=0.1, generator=torch.Generator().manual_seed(2))
        thin.at_once, before = limit, thin.cost.passes
        try:
            losses, predicted = descend(thin, terms_on(thin, adapter))
        finally:
            thin.at_once = None
            adapter.remove()
        found[limit] = [p.grad for p in adapter.parameters()], losses, predicted, thin.cost.passes - before
    (one, losses, predicted, cost), (many, own, parts, same) = found[None], found[at_once]
    assert cost == same == 15
    assert [g is None for g in one] == [
        g is None for g in many
    ]  # SDXL does not read the last layer of its first encoder
    one, many = ([g for g in grads if g is not None] for grads in (one, many))
    assert all(g.abs().sum() > 0 for g in one)
    for a, b in zip(one, many):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=1e-5 * float(max(g.abs().max() for g in one)))
    for k, loss in losses.items():
        assert own[k].item() == pytest.approx(loss.item(), rel=1e-4) and not own[k].requires_grad
    assert predicted.keys() == parts.keys() == {"erase", "noise"}
    torch.testing.assert_close(predicted["erase"], parts["erase"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["sage", "age"])
def test_an_erasure_with_checkpointing_ends_like_one_without(thin, method):
    """AGE differentiates a frozen prediction after the adapter is on again: computed again, it has to be the
    frozen one.
    """
    ends = []
    for on in (False, True):
        checkpoint_blocks(thin.unet, on)
        try:
            erasure = erase(thin, ErasureSpec("castle", method=method, steps=3, rank=2, search=False))
        finally:
            checkpoint_blocks(thin.unet, False)
        erasure.adapter.remove()
        ends.append((erasure.losses, erasure.cost))
    assert ends[0][1] == ends[1][1]
    for a, b in zip(ends[0][0], ends[1][0]):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-7)


def test_checkpointing_keeps_less_for_the_backward_pass(thin):
    def kept():
        bytes_ = 0

        def pack(t):
            nonlocal bytes_
            bytes_ += t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            z = torch.randn(1, *thin.latent_shape).requires_grad_(True)
            thin.predict_noise(z, torch.tensor([5]), thin.encode(["dog"])).sum()
        return bytes_

    whole = kept()
    checkpoint_blocks(thin.unet, True)
    try:
        assert kept() < whole / 3
    finally:
        checkpoint_blocks(thin.unet, False)
    assert kept() == whole


@pytest.mark.parametrize("method", ["sage", "age", "eap", "hirm"])
def test_an_erasure_in_parts_ends_like_one_in_whole_batches(thin, method):
    ends = []
    for limit in (None, 1):
        thin.at_once = limit
        try:
            erasure = erase(thin, ErasureSpec("castle", method=method, steps=2, rank=2, search=False))
        finally:
            thin.at_once = None
        erasure.adapter.remove()
        ends.append((erasure.losses, erasure.cost))
    (whole, cost), (parts, same) = ends
    assert cost == same
    for a, b in zip(whole, parts):
        assert a == pytest.approx(b, rel=0.02, abs=1e-6)


def gradients(dtype: torch.dtype, scale: float) -> torch.Tensor:
    """Of small errors, as they are near a run's end, with the bundled model in that precision."""
    model, g = load_model("demo", dtype=dtype), torch.Generator().manual_seed(1)
    adapter = Adapter.create(surface_layers(model, "both"), 4, 4.0, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for up in adapter.up.values():
            up.copy_(0.05 * torch.randn(up.shape, generator=g))
    z = torch.randn(2, 4, 8, 8, generator=g)
    descend(
        model,
        {
            "erase": Rows(
                z, torch.tensor([300, 800]), model.encode(["a dog", "a house"]), torch.zeros_like(z), 1e-3
            )
        },
        torch.amp.GradScaler("cpu", scale),
    )
    adapter.remove()
    return torch.cat([p.grad.flatten() for p in adapter.parameters()]) / scale


def test_half_precision_needs_a_scale_and_with_it_the_gradients_are_right():
    whole = gradients(torch.float32, 1.0)
    alike = [
        torch.nn.functional.cosine_similarity(whole, gradients(torch.float16, scale), dim=0)
        for scale in (1.0, HALF_SCALE)
    ]
    assert alike[0] < 0.9 and alike[1] > 0.999


def test_a_scale_that_is_too_large_for_half_precision_falls_until_it_fits(sd1, monkeypatch):
    from sage_core.cycle import run as cycle

    monkeypatch.setattr(cycle, "HALF_SCALE", 2.0**31)
    model = load_model(tiny.original(sd1), dtype=torch.float16)
    erasure = cycle.erase(model, ErasureSpec("dog", steps=8, rank=2, resolution=64, search=False))
    erasure.adapter.remove()
    assert all(p.isfinite().all() for p in erasure.adapter.parameters())
    assert len({round(step["total"], 6) for step in erasure.losses}) > 3, "it moved"
