"""The cycle changes only the adapter, repeats itself exactly, survives being killed, and stops cleanly."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import tiny
import torch

from sage_core import ErasureSpec, SageError, erase, load_model
from sage_core.cycle import run as cycle
from sage_core.cycle.bank import build_bank
from sage_core.cycle.run import Run, build_context
from sage_core.lora.adapter import Adapter
from sage_core.lora.surfaces import surface_layers
from sage_core.methods.table import METHODS
from sage_core.prompts.words import retained_words

SPEC = ErasureSpec("castle", steps=4, rank=2, seed=3, search=False)


def tensors(erasure):
    out = erasure.adapter.tensors()
    erasure.adapter.remove()
    return out


def same(a, b, tolerance=0.0):
    return all((a[k] - b[k]).abs().max() <= tolerance for k in a) and a.keys() == b.keys()


@pytest.mark.parametrize("surface", ["text", "cross_attention", "both"])
def test_same_spec_and_seed_give_the_same_tensors(thin, surface):
    spec = dataclasses.replace(SPEC, surface=surface)
    assert same(tensors(erase(thin, spec)), tensors(erase(thin, spec)))


def test_another_seed_gives_other_tensors(thin):
    assert not same(tensors(erase(thin, SPEC)), tensors(erase(thin, dataclasses.replace(SPEC, seed=4))))


def test_the_model_itself_is_never_changed(thin):
    before = {k: v.clone() for k, v in thin.unet.state_dict().items()} | {
        k: v.clone() for k, v in thin.text.encoders[0].state_dict().items()
    }
    erase(thin, dataclasses.replace(SPEC, surface="both")).adapter.remove()
    after = thin.unet.state_dict() | thin.text.encoders[0].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


class Stop(Exception):
    pass


def stop_at(step):
    def on_event(event):
        if event.phase == "erase" and event.step == step:
            raise Stop

    return on_event


def hooks(model):
    return sum(len(m._forward_hooks) for part in (model.unet, *model.text.encoders) for m in part.modules())


def test_a_host_that_raises_in_an_event_gets_a_clean_model_back(thin, tmp_path):
    with pytest.raises(Stop):
        erase(thin, SPEC, stop_at(2))
    assert hooks(thin) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_stopped_run_resumes_to_the_same_result(thin, tmp_path, at):
    state = tmp_path / "run.resume"
    whole = tensors(erase(thin, SPEC))
    events = []
    with pytest.raises(Stop):
        erase(thin, SPEC, stop_at(at + 1), state=state, save_every=0)
    resumed = erase(thin, SPEC, events.append, state=state, resume=True, save_every=0)
    assert not any(e.phase == "bank" for e in events), "the bank was sampled again"
    assert len(resumed.losses) == SPEC.steps
    assert same(whole, tensors(resumed), 1e-6)
    again = erase(thin, SPEC, state=state, resume=True)  # finished, but its file was never written
    assert same(whole, tensors(again), 1e-6) and state.exists()
    again.save(tmp_path / "a.safetensors", thin)
    assert not state.exists()


def test_the_time_that_is_left_is_told_by_this_run_s_steps_alone(thin, tmp_path, monkeypatch):
    """Neither the latent bank nor the steps before a stop count."""
    clock, events, step = SimpleNamespace(now=0.0), [], Run.step

    def watch(event):
        events.append(event)
        clock.now += 1000.0 if event.phase == "bank" else 0.0
        stop_at(3)(event)

    def seven_seconds(run):
        clock.now += 7.0
        return step(run)

    monkeypatch.setattr(cycle, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(Run, "step", seven_seconds)
    with pytest.raises(Stop):
        erase(thin, SPEC, watch, state=tmp_path / "x.resume", save_every=0)
    erase(thin, SPEC, events.append, state=tmp_path / "x.resume", resume=True, save_every=0).adapter.remove()
    steps = [e for e in events if e.phase == "erase"]
    assert [e.step for e in steps] == [
        1,
        2,
        3,
        3,
        4,
    ]  # the state is older than the event that stopped the run
    assert all(e.eta == 7.0 * (e.total - e.step) for e in steps)


def test_a_state_of_another_erasure_is_refused(thin, tmp_path, monkeypatch):
    state = tmp_path / "run.resume"
    with pytest.raises(Stop):
        erase(thin, SPEC, stop_at(2), state=state, save_every=0)
    with pytest.raises(SageError, match="another erasure"):
        erase(thin, dataclasses.replace(SPEC, concept="tower"), state=state, resume=True)
    method = SPEC.recipe().method
    monkeypatch.setitem(
        METHODS,
        method.name,
        dataclasses.replace(method, training=dataclasses.replace(method.training, beta2=0.9)),
    )
    with pytest.raises(
        SageError, match="another version"
    ):  # the same wish, but this version would go other steps
        erase(thin, SPEC, state=state, resume=True)
    monkeypatch.undo()
    state.write_bytes(b"garbage")
    with pytest.raises(SageError, match="cannot be read"):
        erase(thin, SPEC, state=state, resume=True)


def test_cost_counts_bank_and_steps(thin):
    from sage_core.methods.table import METHODS

    erasure = erase(thin, dataclasses.replace(SPEC, search=False, check=False))
    erasure.adapter.remove()
    method = METHODS["sage"]
    t, noise = method.training, next(r for r in method.retention if type(r).__name__ == "Noise")
    useful = math.ceil(
        SPEC.steps * t.erase_batch / t.solver_steps
    )  # a short run draws no stops that it cannot use
    bank = t.solver_steps * (2 * min(t.trajectories, useful) + min(t.retain_trajectories, 4 * useful))
    samples = SPEC.steps * (t.erase_batch + noise.batch)
    assert (erasure.cost.forwards, erasure.cost.backwards) == (bank + samples, samples)


def test_a_loss_that_is_no_number_stops_the_run_in_one_sentence(thin):
    weight = thin.unet.conv_out.weight
    kept = weight.clone()

    def poison(event):
        if event.phase == "erase" and event.step == 1:
            weight.data.fill_(float("nan"))

    try:
        with pytest.raises(SageError, match="was nan: the run diverged. Use a lower learning rate"):
            erase(thin, SPEC, poison)
    finally:
        weight.data.copy_(kept)
    assert hooks(thin) == 0


def test_a_float16_file_holds_exactly_what_the_adapter_does(thin, tmp_path):
    from sage_core.lora.file import read_lora

    erasure = erase(thin, SPEC)
    path = erasure.save(tmp_path / "x.safetensors", thin)
    for name, (down, up, _) in read_lora(path).layers.items():
        assert torch.equal(down, erasure.adapter.down[name].detach()) and torch.equal(
            up, erasure.adapter.up[name].detach()
        )
    erasure.adapter.remove()


def test_sdxl_and_velocity_models_are_erased_too(tmp_path):
    for name, prediction in (("sdxl", "epsilon"), ("sd2", "v_prediction")):
        model = load_model(tiny.folder(tiny.make(name), tmp_path / name, prediction))
        erasure = erase(model, dataclasses.replace(SPEC, surface="both", steps=2))
        assert all(torch.isfinite(v).all() for v in erasure.adapter.tensors().values())
        assert any(
            v.abs().sum() > 0
            for k, v in erasure.adapter.tensors().items()
            if k.startswith("lora_te") and "lora_up" in k
        )


def context(model):
    adapter = Adapter.create(surface_layers(model, "text"), 2, 2.0, torch.Generator().manual_seed(0))
    return build_context(model, SPEC.recipe(), adapter), adapter


def test_bank_states_carry_the_frozen_predictions(thin):
    bank = build_bank(
        thin, ["castle", "castle"], ["a dog", "a tree", "a car"], [1, 2, 3, 4, 5], 3, 3.0, batch=2
    )
    assert bank.erase_z.shape == (6, 4, 8, 8) and bank.retain_z.shape == (9, 4, 8, 8)
    with torch.no_grad():
        for i in range(9):
            eps = thin.predict_noise(
                bank.retain_z[i : i + 1],
                bank.retain_t[i : i + 1],
                thin.encode([bank.retain_prompts[bank.retain_prompt[i]]]),
            )
            torch.testing.assert_close(eps[0], bank.retain_eps[i], atol=1e-4, rtol=1e-3)
        eps = thin.predict_noise(bank.erase_z, bank.erase_t, thin.encode(["castle"] * 6))
        torch.testing.assert_close(eps, bank.eps_concept, atol=1e-4, rtol=1e-3)
        eps = thin.predict_noise(bank.erase_z, bank.erase_t, thin.encode([""] * 6))
        torch.testing.assert_close(eps, bank.eps_empty, atol=1e-4, rtol=1e-3)


def test_words_that_name_the_concept_are_not_retained(thin):
    words = retained_words(thin, ["castle"], ("moat",))
    assert "castle" not in words and words[0] == "moat" and len(words) > 50


def test_context_measures_meaning_from_the_frozen_encoder(thin):
    ctx, adapter = context(thin)
    before = ctx.meaning_of("castle")
    with torch.no_grad():
        for up in adapter.up.values():
            up.add_(1.0)
    fresh = build_context(thin, SPEC.recipe(), adapter)
    torch.testing.assert_close(fresh.meaning_of("castle"), before)
    adapter.remove()


def test_a_word_that_the_bundled_model_cannot_draw_is_refused(demo):
    with pytest.raises(SageError, match="cannot draw 'xylophone'"):
        erase(demo, ErasureSpec("xylophone"))


def test_the_cycle_ends_early_when_the_concept_s_pull_is_gone(thin, monkeypatch):
    from sage_core.methods.table import METHODS

    method = METHODS["sage"]
    training = dataclasses.replace(
        method.training, enough=1e9, window=2, settle=3
    )  # any residual is low enough: 2 steps, then 3 to settle
    monkeypatch.setitem(METHODS, "sage", dataclasses.replace(method, training=training))
    totals = []
    erasure = erase(
        thin,
        dataclasses.replace(SPEC, steps=20, check=False),
        lambda e: totals.append(e.total) if e.phase == "erase" else None,
    )
    erasure.adapter.remove()
    assert len(erasure.losses) == 5 and totals == [20, 5, 5, 5, 5]
