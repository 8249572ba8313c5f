"""The queue: nothing is lost, nothing is started twice, whatever ends when."""

from __future__ import annotations

import json
import time

import pytest
from panel_tools import wait

from sage_core.errors import SageError
from sage_core.panel.engine import Engine
from sage_core.panel.places import BUNDLED, Host, Places
from sage_core.panel.runs import CANCELLED, DONE, FAILED, RUNNING, WAITING
from sage_core.spec import ErasureSpec


def spec(concept: str) -> dict:
    return ErasureSpec(concept).to_json()


def status(engine, run):
    return engine.get(run.id).status


def test_runs_are_done_in_their_order_and_one_at_a_time(fake):
    engine = fake()
    runs = [engine.submit("erase", BUNDLED, spec(c))[0] for c in ("slow", "dog", "cat")]
    wait(lambda: status(engine, runs[0]) == RUNNING)
    assert [r.title for r in engine.waiting()] == ["dog", "cat"]
    engine.cancel(runs[0].id)
    wait(lambda: status(engine, runs[2]) == DONE)
    assert fake.done() == ["slow", "dog", "cat"]
    assert [status(engine, run) for run in runs] == [CANCELLED, DONE, DONE]


def test_what_waits_or_is_going_is_not_started_twice(fake):
    """Two browsers that press Erase, or one that presses it twice."""
    engine = fake()
    first, new = engine.submit("erase", BUNDLED, spec("slow"))
    again, new_again = engine.submit("erase", BUNDLED, spec("slow"))
    assert new and not new_again and first.id == again.id
    wait(lambda: status(engine, first) == RUNNING)
    assert engine.submit("erase", BUNDLED, spec("slow"))[0].id == first.id
    engine.cancel(first.id)
    wait(lambda: status(engine, first) == CANCELLED)
    assert fake.done() == ["slow"]


def test_a_run_that_waits_is_cancelled_without_being_begun_and_can_be_resumed(fake):
    engine = fake()
    slow, dog = (engine.submit("erase", BUNDLED, spec(c))[0] for c in ("slow", "dog"))
    engine.cancel(dog.id)
    assert status(engine, dog) == CANCELLED and fake.done() in ([], ["slow"])
    engine.resume(dog.id)
    assert status(engine, dog) == WAITING
    engine.cancel(slow.id)
    wait(lambda: status(engine, dog) == DONE)


def test_a_panel_that_was_killed_goes_on_where_it_was(fake, places):
    engine = fake()
    slow, dog = (engine.submit("erase", BUNDLED, spec(c))[0] for c in ("slow", "dog"))
    wait(lambda: fake.done() == ["slow"])
    engine.stop()  # leaves on disk what a killed one leaves: nothing is written when it ends
    on_disk = json.loads((places.runs / slow.id / "run.json").read_text(encoding="utf-8"))
    assert on_disk["status"] == RUNNING
    second = fake()
    wait(lambda: status(second, slow) == RUNNING)
    assert status(second, dog) == WAITING and len(second.runs()) == 2
    second.cancel(slow.id)
    wait(lambda: status(second, dog) == DONE)
    assert fake.done() == ["slow", "slow", "dog"]


def test_a_failure_is_a_sentence_and_the_queue_goes_on(fake):
    engine = fake()
    runs = [engine.submit("erase", BUNDLED, spec(c))[0] for c in ("bad", "dies", "dog")]
    wait(lambda: status(engine, runs[2]) == DONE)
    assert engine.get(runs[0].id).message == "There is no such thing; choose another."
    assert "ended by itself (status 3" in engine.get(runs[1].id).message
    assert status(engine, runs[1]) == FAILED


def test_parts_that_failed_are_not_joined(fake):
    engine = fake()
    parts = tuple(engine.submit("erase", BUNDLED, spec(c))[0].id for c in ("dog", "bad"))
    joined = engine.submit("join", BUNDLED, parts=parts)[0]
    wait(lambda: status(engine, joined) == FAILED)
    assert "bad did not end well" in engine.get(joined.id).message and fake.done() == ["dog", "bad"]


def test_the_host_s_model_leaves_before_and_comes_back_after_whatever_happens(fake, places, monkeypatch):
    told = []
    host = Host(
        before=lambda: told.append("out"),
        after=lambda: told.append("back"),
        saved=lambda path: told.append(path.name),
        keeps=False,
    )
    engine = fake()
    engine.places = Places(places.home, places.loras, host=host)
    for concept, ends in (("dog", DONE), ("bad", FAILED)):
        run = engine.submit("erase", BUNDLED, spec(concept))[0]
        wait(lambda r=run, e=ends: status(engine, r) == e)
    assert told == ["out", "back", "erased-dog.safetensors", "out", "back"]
    assert engine.worker.process is None, "the worker's memory is free"


def test_a_host_that_fails_fails_the_run_and_not_the_queue(fake, places):
    def breaks():
        raise RuntimeError("no such module")

    engine = fake()
    engine.places = Places(places.home, places.loras, host=Host("the WebUI", before=breaks))
    run = engine.submit("erase", BUNDLED, spec("dog"))[0]
    wait(lambda: status(engine, run) == FAILED)
    assert engine.get(run.id).message == "the WebUI failed: no such module"
    engine.places = places
    again = engine.submit("erase", BUNDLED, spec("cat"))[0]
    wait(lambda: status(engine, again) == DONE)


def test_what_is_going_is_neither_forgotten_nor_resumed(fake):
    engine = fake()
    slow = engine.submit("erase", BUNDLED, spec("slow"))[0]
    wait(lambda: status(engine, slow) == RUNNING)
    for action in (engine.forget, engine.resume):
        with pytest.raises(SageError):
            action(slow.id)
    engine.cancel(slow.id)
    wait(lambda: status(engine, slow) == CANCELLED)
    engine.forget(slow.id)
    assert engine.runs() == [] and not (engine.store.folder / slow.id).exists()


def test_the_queue_has_an_end(fake):
    engine = fake()
    with pytest.raises(SageError, match="queued already"):
        for number in range(60):
            engine.submit("erase", BUNDLED, spec("slow") | {"seed": number})


def test_a_damaged_history_is_not_shown_and_stops_nothing(places):
    for name, text in (
        ("20260101-000000-000000-0123456789abcdef", "{"),
        ("20260101-000000-000001-0123456789abcdef", '{"id": "x", "odd": 1}'),
        ("elsewhere", '{"id": "elsewhere", "kind": "erase", "model": "m", "source": "demo"}'),
    ):
        (places.runs / name).mkdir(parents=True)
        (places.runs / name / "run.json").write_text(text, encoding="utf-8")
    assert Engine(places).runs() == []


def test_a_model_that_is_not_listed_is_refused(fake):
    engine = fake()
    for label in ("/etc/passwd", "../../model.safetensors", None, 3):
        with pytest.raises(SageError, match="no model"):
            engine.submit("erase", label, spec("dog"))


@pytest.mark.slow
def test_a_real_erasure_of_the_bundled_model_is_there_with_its_pictures(engine, places):
    run = engine.submit("erase", BUNDLED, spec("dog"))[0]
    seen = []
    while (now := engine.get(run.id)).active:
        seen.append(engine.live(run.id))
        time.sleep(0.05)
    assert now.status == DONE, now.message
    result = now.result
    assert (places.loras / result["lora"]).is_file() and result["check"]["seen"] == []
    curve = [share for live in seen for share in live.get("curve", [])[-1:]]
    assert curve[0] == 1.0 and curve[-1] < 0.5, "the number falls while it is looked at"
    names = {path.name for path in (places.runs / run.id).iterdir()}
    assert {"before.png", "after.png", "live-0.png", "live-1.png", "report.html"} <= names
    assert not [name for name in names if name.endswith(".resume")]
    again = engine.submit("erase", BUNDLED, spec("dog"))[0]
    wait(lambda: not engine.get(again.id).active)
    assert engine.get(again.id).result["found"] and len(list(places.loras.glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_a_killed_erasure_goes_on_from_its_saved_state(places):
    first = Engine(places).start()
    run = first.submit("erase", BUNDLED, ErasureSpec("castle", steps=6, search=False).to_json())[0]
    state = places.runs / run.id / "state.resume"
    wait(state.exists)
    assert first.worker.process is not None
    first.worker.process.kill()
    first.stop()
    data = json.loads((places.runs / run.id / "run.json").read_text(encoding="utf-8"))
    data["status"] = RUNNING  # as a panel leaves it that is killed with its worker
    (places.runs / run.id / "run.json").write_text(json.dumps(data), encoding="utf-8")
    second = Engine(places)
    phases = []
    heard = second._heard
    second._heard = lambda event: (phases.append(event.get("phase")), heard(event))
    second.start()
    try:
        wait(lambda: not second.get(run.id).active)
        assert second.get(run.id).status == DONE, second.get(run.id).message
        assert "erase" in phases or "check" in phases
        assert "bank" not in phases, "it did not begin again"
    finally:
        second.stop()
