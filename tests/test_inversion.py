"""The self-check that learns by the erasing's own backward pass."""

import random

import pytest
import tiny
import torch

from sage_core import ErasureSpec, load_model
from sage_core.cycle.run import build_context
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.domains.inversion import NameInversion


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(tiny.folder(tiny.make("sdxl"), tmp_path_factory.mktemp("thin") / "m"))


def search(model, concept="red castle", **config):
    adapter = Adapter.create(surface_layers(model, "both"), 4, 4.0, torch.Generator().manual_seed(0))
    adapter.remove()
    return NameInversion(**config).start(build_context(model, ErasureSpec(concept).recipe(), adapter))


def test_what_is_used_moves_up_the_loss_and_nothing_else_moves(model):
    found, things = search(model, pool=2, fresh=0.0, plain=0.5), [None, None]
    for turn in range(6):
        rows = found(random.Random(turn), torch.Generator(), things)
        used, start = found.used[0], [[f.detach().clone() for f in learnt.free] for learnt in found.learnt]
        loss = rows.hidden[:1].square().mean()  # anything that depends on the learnt name
        loss.backward()
        found.learn()
        for learnt, before in zip(found.learnt, start):
            assert all(torch.equal(f, b) == (learnt is not used) for f, b in zip(learnt.free, before))
        with torch.no_grad():
            again = found.encode(used, random.Random(turn), None)
        assert again.hidden.isfinite().all() and not found.used


def test_a_learnt_name_climbs(model):
    found, losses = search(model), []
    name = found.new(random.Random(0))
    for _ in range(10):
        name.optimizer.zero_grad()
        found.used = [name]
        loss = found.encode(name, random.Random(3), None).hidden.square().mean()
        loss.backward()
        found.learn()
        losses.append(loss.item())
    assert losses[-1] > losses[0]


def test_plain_rows_stand_last_and_one_is_always_learnt(model):
    found = search(model)
    assert (
        found.plain_rows(1) == slice(1, None)
        and found.plain_rows(2) == slice(1, None)
        and found.plain_rows(4) == slice(2, None)
    )
    assert len(found(random.Random(0), torch.Generator(), [None] * 5)) == 5
    assert len(search(model, pool=1)(random.Random(0), torch.Generator(), [None] * 4)) == 4


def test_a_style_stays_on_its_things(model):
    found = search(model, "watercolor style")
    assert found.context.style
    with torch.no_grad():
        rows = found(random.Random(0), torch.Generator(), ["a castle", "a river"])
    assert len(rows) == 2 and all(learnt.name in found.context.names for learnt in found.learnt)


def test_state_comes_back(model):
    found = search(model, pool=3, fresh=0.0)
    for turn in range(3):
        found(random.Random(turn), torch.Generator(), [None] * 2).hidden.square().mean().backward()
        found.learn()
    other = search(model, pool=3, fresh=0.0)
    other.load({k: v.clone() for k, v in found.tensors().items()})
    for one in (found, other):
        for turn in range(3, 5):
            one(random.Random(turn), torch.Generator(), [None] * 2).hidden.square().mean().backward()
            one.learn()
    for a, b in zip(found.tensors().items(), other.tensors().items()):
        assert a[0] == b[0] and torch.equal(a[1], b[1])
