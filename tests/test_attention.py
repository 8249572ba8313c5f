"""Attention maps: what is read is what the network does, and what EraseAnything and Receler make of them."""

from __future__ import annotations

import dataclasses
import random

import pytest
import tiny_flow
import torch

from sage_core import ErasureSpec, erase, load_model
from sage_core.cycle.run import build_context
from sage_core.diffusion.checkpointing import checkpoint_blocks
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.attention import listening
from sage_core.methods.states import States
from sage_core.methods.table import METHODS
from sage_core.methods.targets.unattended import Unattended, likeness

TOKEN = 3


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A small random flow transformer."""
    return load_model(tiny_flow.bundled_text(tmp_path_factory.mktemp("flow") / "m"))


@pytest.fixture(params=["unet", "flow"])
def model(request, thin, flow):
    return thin if request.param == "unet" else flow


def state(model):
    z = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    return z, torch.tensor([500])


def only_token(module, args, out):
    """Values that are 1 at one token and 0 elsewhere."""
    values = torch.zeros_like(out)
    values[:, TOKEN] = 1.0
    return values


def test_a_map_is_what_attention_makes_of_values_that_are_one_at_the_token(model):
    z, t = state(model)
    with torch.no_grad(), listening(model.unet) as heard:
        model.predict_noise(z, t, model.encode(["a red castle"]))
        layer = heard[0]  # what comes later would see the changed values
        said, attention = layer.looks([TOKEN]), layer.attention
    made, joint = [], getattr(attention, "add_v_proj", None) is not None
    handles = [attention.to_out[0].register_forward_pre_hook(lambda module, args: made.append(args[0]))]
    if joint:
        handles.append(attention.to_v.register_forward_hook(lambda module, args, out: torch.zeros_like(out)))
        handles.append(attention.add_v_proj.register_forward_hook(only_token))
    else:
        handles.append(attention.to_v.register_forward_hook(only_token))
    with torch.no_grad():
        model.predict_noise(z, t, model.encode(["a red castle"]))
    for handle in handles:
        handle.remove()
    places = made[0].shape[1]
    # Every channel of a head is the share.
    seen = made[0].view(1, places, attention.heads, -1).transpose(1, 2)
    torch.testing.assert_close(said[:, :, :places], seen[..., :1])
    assert layer.pictured == places and said.shape[2] == places + (77 if joint else 0)
    assert said.min() > 0 and said.max() < 1


def test_looking_leaves_no_hook(model):
    z, t = state(model)
    with torch.no_grad(), listening(model.unet):
        model.predict_noise(z, t, model.encode(["castle"]))
    assert not any(module._forward_hooks for module in model.unet.modules())


def test_the_gradient_of_a_map_is_the_same_with_blocks_computed_again(flow):
    adapter = Adapter.create(
        surface_layers(flow, "cross_attention"), 2, 2.0, torch.Generator().manual_seed(0)
    )
    z, t = state(flow)
    found = []
    for again in (False, True):
        checkpoint_blocks(flow.unet, again)
        with listening(flow.unet) as heard:
            flow.predict_noise(z, t, flow.encode(["castle"]))
        heard[-1].looks([1]).sum().backward()
        found.append({name: up.grad.clone() for name, up in adapter.up.items() if up.grad is not None})
        for up in adapter.up.values():
            up.grad = None
    checkpoint_blocks(flow.unet, False)
    adapter.remove()
    assert found[0].keys() == found[1].keys() and any("add_k_proj" in name for name in found[0])
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_a_map_like_the_concepts_own_costs_more_than_one_like_another_words():
    concept, other = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    same, moved = (likeness(own, concept, [other], 0.07) for own in (concept, other))
    assert same > moved and same <= 0
    assert moved.item() == pytest.approx(-torch.tensor(2.0).log().item())  # as unlike as the other word is


def test_erase_anythings_losses_take_attention_off_the_concept(model):
    """Steps on these two losses alone: the concept's tokens take less of the last layer's attention."""
    adapter = Adapter.create(
        surface_layers(model, "cross_attention"), 4, 4.0, torch.Generator().manual_seed(0)
    )
    context = build_context(model, ErasureSpec("castle").recipe(), adapter)
    target = Unattended().start(context)
    z, t = state(model)
    states = States(z, t, torch.zeros_like(z), torch.zeros_like(z), [None])
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    rng, shares = random.Random(0), []
    for _ in range(12):
        terms = target(states, context.frozen("castle"), rng, torch.Generator())
        assert terms.keys() == {"erase", "attended", "contrast"}
        shares.append(terms["attended"].item())
        optimizer.zero_grad()
        (terms["attended"] + terms["contrast"]).backward()
        optimizer.step()
    adapter.remove()
    assert shares[-1] < 0.8 * shares[0]


@pytest.mark.parametrize("name", ["receler", "erase-anything"])
def test_methods_that_look_at_attention_erase_from_a_flow(flow, name, monkeypatch):
    method = METHODS[name]
    if hasattr(method.domain, "steps"):
        short = dataclasses.replace(method.domain, steps=2)
        monkeypatch.setitem(METHODS, name, dataclasses.replace(method, domain=short))
    erasure = erase(flow, ErasureSpec("castle", method=name, steps=2, search=False, check=False))
    erasure.adapter.remove()
    assert all(torch.isfinite(up).all() for up in erasure.adapter.up.values())
    assert 0 < erasure.cost.passes <= erasure.recipe.passes
