"""What the page's buttons make of what was typed, and what is written into a workflow."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types
from pathlib import Path

import pytest
from panel_tools import ROOT

from sage_core.errors import SageError
from sage_core.panel import desk
from sage_core.panel.desk import Form
from sage_core.panel.places import BUNDLED, BUNDLED_FLOW
from sage_core.panel.runs import DONE, FAILED
from sage_core.panel.workflow import as_the_node_reads, node_values, workflow
from sage_core.spec import ErasureSpec

DOMAIN = {
    "means": [["hound", 0.9], ["puppy", 0.8]],
    "between": [["canine", 0.5]],
    "close": [["wolf", 0.3], ["cat", 0.2]],
    "threshold": 0.6,
    "clearness": 0.7,
    "passes": 100,
}


@pytest.fixture
def searched(places):
    """(engine that works off nothing, id of a search for dog that is done)."""
    from sage_core.panel.engine import Engine

    engine = Engine(places)
    run = engine.submit("words", BUNDLED, ErasureSpec("dog").to_json())[0]
    engine._put(dataclasses.replace(run, status=DONE, result={"domain": DOMAIN, "clear": True}))
    return engine, run.id


def queued(engine, **values) -> ErasureSpec:
    run, _ = desk.start_erasing(engine, Form(BUNDLED, **values))
    return ErasureSpec.from_json(run.spec)


def test_words_that_nobody_changed_are_taken_as_they_were_found(searched):
    engine, words = searched
    spec = queued(engine, concepts="dog", means=("hound", "puppy"), close=("wolf", "cat"), words=(words,))
    assert spec.domain is not None and spec.domain.to_json() == DOMAIN
    assert spec.synonyms == spec.retain == spec.exclude == ()


def test_struck_and_added_words_are_terms_of_a_new_search(searched):
    engine, words = searched
    spec = queued(
        engine, concepts="dog", means=("hound", "doggo"), close=("wolf", "puppy", "fox"), words=(words,)
    )
    assert spec.domain is None
    assert spec.synonyms == ("doggo",) and spec.retain == ("puppy", "fox") and spec.exclude == ("cat",)


def test_a_search_under_other_terms_or_of_another_concept_is_left_out(searched):
    engine, words = searched
    lists = {"means": ("hound", "puppy"), "close": ("wolf", "cat"), "words": (words,)}
    assert queued(engine, concepts="dog | mutt", **lists).domain is None
    assert queued(engine, concepts="castle", **lists).domain is None
    assert queued(engine, concepts="dog", method="esd", **lists).domain is None


def test_several_concepts_are_a_file_each_and_one_of_all(searched):
    engine, _ = searched
    desk.start_erasing(engine, Form(BUNDLED, "dog\ncastle | fort"))
    waiting = engine.waiting()
    assert [run.kind for run in waiting] == ["erase", "erase", "join"]
    assert waiting[2].parts == (waiting[0].id, waiting[1].id)
    _, sentence = desk.start_erasing(engine, Form(BUNDLED, "dog\ncastle | fort"))
    assert "already queued or running" in sentence and len(engine.waiting()) == 3


@pytest.mark.parametrize(
    "concepts, part",
    [("", "No concept"), ("dog\ndog", "two lines"), ("(dog:1.2)", "plain words"), ("x" * 400, "shorten")],
)
def test_what_cannot_be_erased_is_one_sentence_and_queues_nothing(searched, concepts, part):
    engine, _ = searched
    with pytest.raises(SageError, match=part):
        desk.start_erasing(engine, Form(BUNDLED, concepts))
    assert engine.waiting() == []


def test_the_red_team_needs_a_finished_erasure(searched):
    engine, _ = searched
    run, _ = desk.start_erasing(engine, Form(BUNDLED, "dog"))
    for status in (run.status, FAILED):
        with pytest.raises(SageError, match="finished"):
            desk.start_attack(engine, dataclasses.replace(run, status=status))
    with pytest.raises(SageError, match="not there any more"):
        desk.start_attack(engine, dataclasses.replace(run, status=DONE, result={"lora": "gone.safetensors"}))


# ---- the workflow ----

SPECS = [
    [ErasureSpec("dog")],
    [ErasureSpec("dog", ("puppy", "hound"), ("wolf",), seed=7, exclude=("fox", "cat"))],
    [ErasureSpec("in the style of Van Gogh", kind="style", becomes="a photo")],
    [ErasureSpec("dog", steps=20, rank=3, eta=0.7, resolution=512, surface="both", check=False)],
    [ErasureSpec("dog", becomes="a cat", search=False)],
    [ErasureSpec("dog"), ErasureSpec("castle", ("fort",))],
    [ErasureSpec("dog", method="uce")],
    [ErasureSpec("dog", method="esd")],
]


@pytest.mark.parametrize("specs", SPECS, ids=lambda specs: specs[0].method + " " + specs[0].concept)
def test_the_node_s_values_give_the_very_erasure(specs):
    whole = [ErasureSpec.from_json(spec.recipe().to_json()) for spec in specs]  # as a file records it
    made = as_the_node_reads(node_values(whole))
    assert [s.recipe().fingerprint() for s in made] == [s.recipe().fingerprint() for s in specs]


def test_the_values_are_read_as_the_node_reads_them():
    names = ("sage_pack2", "sage_pack2.nodes")
    for name, folder in zip(names, (ROOT, ROOT / "nodes"), strict=True):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    try:
        request = importlib.import_module("sage_pack2.nodes.request")
        for specs in SPECS:
            values = node_values(specs)
            values = {k: v for k, v in values.items() if k != "lora_name"}
            theirs = [s.recipe().fingerprint() for s in request.specs(**values)]
            assert theirs == [s.recipe().fingerprint() for s in as_the_node_reads(values)]
    finally:
        for name in [n for n in sys.modules if n.startswith("sage_pack2")]:
            del sys.modules[name]


@pytest.mark.parametrize(
    "spec",
    [
        ErasureSpec("dog", learning_rate=0.5),
        ErasureSpec("dog", alpha=3.0),
        ErasureSpec("dog", method="esd", faithful=True),
        ErasureSpec("dog", ("a, b",)),
    ],
    ids=lambda spec: json.dumps([spec.learning_rate, spec.alpha, spec.faithful]),
)
def test_an_erasure_for_which_the_node_has_no_input_is_refused_with_what_to_do(spec):
    with pytest.raises(SageError, match="--from FILE"):
        workflow([spec], "demo", 64)


def test_a_folder_is_no_checkpoint_for_comfyui():
    with pytest.raises(SageError, match="diffusers folder"):
        workflow([ErasureSpec("dog")], "some-model", 512)


def test_the_bundled_flow_transformer_is_loaded_by_the_widget_s_own_word():
    made = workflow([ErasureSpec("dog")], "demo-flow", 64)
    (loader,) = [node for node in made["nodes"] if node["type"] == "SAGE_LoadDemoModel"]
    (architecture,) = loader["widgets_values"]
    assert f'"{architecture}"' in (ROOT / "nodes" / "demo.py").read_text(encoding="utf-8")
    assert "flow" in architecture


# ---- what is missing ----


def test_the_floors_are_those_of_the_requirements():
    from sage_core.panel.needs import FLOORS

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    floors = dict(line.split(">=") for line in lines)
    assert {name: floor for name, floor in FLOORS.items() if name != "torch"} == floors
    assert f"torch>={FLOORS['torch']}" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_host_with_old_packages_is_told_what_to_do(monkeypatch):
    from sage_core.panel import hosted, link, needs

    old = {"transformers": "4.30.2", "gradio": "3.32.0"}
    monkeypatch.setattr(needs, "version", lambda name: old.get(name, "99.0"))
    monkeypatch.setattr(link, "own_python", lambda: Path("/nowhere"))
    monkeypatch.setattr(hosted, "own_python", lambda: Path("/nowhere"))
    monkeypatch.delenv(link.OWN_PYTHON, raising=False)
    assert "transformers is 4.30.2 (needs 4.46)" in hosted.problem_here()
    assert "python start.py demo" in hosted.problem_here()
    with pytest.raises(SageError, match="transformers is 4.30.2"):
        link.worker_python()
    assert "gradio 3.41 or newer, and this is 3.32.0" in needs.gradio_problem()
    monkeypatch.setenv(link.OWN_PYTHON, sys.executable)
    assert hosted.problem_here() == "" and link.worker_python() == sys.executable


def test_importing_the_panel_s_engine_loads_no_gradio():
    import subprocess

    code = (
        "import sys, sage_core.panel.engine, sage_core.panel.desk, sage_core.panel.routes,"
        " sage_core.panel.workflow, sage_core.panel.worker; print('gradio' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "False"


def test_the_list_of_models_ends_with_the_bundled_ones(places):
    models = places.list_models()
    assert list(models)[-2:] == [BUNDLED, BUNDLED_FLOW]
    assert places.model(BUNDLED_FLOW) == "demo-flow"
