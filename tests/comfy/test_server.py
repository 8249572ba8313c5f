"""The nodes in a real ComfyUI: queue, cache, cancel, resume, share."""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sage_core.lora.file import read_lora

server, graphs, record, drawn = (
    sys.modules[f"comfy_test_{name}"] for name in ("server", "graphs", "record", "drawn")
)
pictures, seen = drawn.pictures, drawn.seen
LONG = server.LONG
IDS = [
    "SAGE_ApplyErasures",
    "SAGE_CompareErasure",
    "SAGE_ConceptGuard",
    "SAGE_EraseConcept",
    "SAGE_ErasureReport",
    "SAGE_LoadDemoModel",
    "SAGE_RedTeam",
]


def loras(comfy) -> set[str]:
    return (
        {p.name for p in (comfy.base / "models/loras/sage").glob("*")}
        if (comfy.base / "models/loras/sage").exists()
        else set()
    )


def test_nodes_register_with_tooltips_and_at_most_six_basic_inputs(comfy):
    info = comfy.get("/object_info")
    assert sorted(k for k in info if k.startswith("SAGE")) == IDS
    for name in IDS:
        own = {
            k: v for part in ("required", "optional") for k, v in info[name]["input"].get(part, {}).items()
        }
        for key, (_, *options) in own.items():
            assert options and options[0].get("tooltip"), (name, key)
        widgets = [
            k
            for k, (kind, *o) in own.items()
            if kind not in ("MODEL", "CLIP", "VAE") and not o[0].get("advanced")
        ]
        assert len(widgets) <= 6, (name, widgets)
        assert all(info[name]["output_tooltips"]), name


def test_the_schema_is_the_recorded_one(comfy):
    """Ids and inputs are for ever: a removed or renamed one breaks shared workflows.

    Additions are recorded by record.py.
    """
    info = comfy.get("/object_info")
    path = Path(__file__).parent / "object_info.json"
    now = record.snapshot(info)
    assert json.loads(path.read_text(encoding="utf-8")) == now, "compare with: " + json.dumps(now)[:2000]


def test_english_texts_are_the_schema_s_and_german_ones_are_complete(comfy):
    folder = server.PACK / "locales"
    english = json.loads((folder / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    german = json.loads((folder / "de" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert english == record.english(comfy.get("/object_info"))
    assert {n: (set(d["inputs"]), set(d["outputs"])) for n, d in english.items()} == {
        n: (set(d["inputs"]), set(d["outputs"])) for n, d in german.items()
    }


def test_dog_is_erased_from_queue_to_pictures_and_its_file_draws_the_same(comfy, erased_dog):
    """The bars: the concept in at most 5 % of 20 pictures, neighbours kept to 90 %, no key lost."""
    graph, seconds = erased_dog
    start, spots = time.monotonic(), {}
    for i, (word, model) in enumerate(
        [("dog", "2"), ("wolf", "1"), ("wolf", "2"), ("cat", "1"), ("cat", "2")]
    ):
        graph = graphs.draw(
            graph,
            10 + 10 * i,
            [model, 0],
            [model, 1],
            f"a cartoon drawing of a {word}",
            20,
            steps=12,
            prefix=f"bar{i}",
        )
        spots[word, model] = str(15 + 10 * i)
    outcome = comfy.run(graph, 400)
    seconds += time.monotonic() - start
    assert outcome.status == "success", outcome.error
    rate = {k: seen(pictures(comfy, outcome, node), k[0]) for k, node in spots.items()}
    print(rate, f"{seconds:.0f} s")
    assert rate["dog", "2"] <= 0.05
    for word in ("wolf", "cat"):
        assert rate[word, "1"] > 0.5 and rate[word, "2"] >= 0.9 * rate[word, "1"]
    log = comfy.text()
    assert "NOT LOADED" not in log and "lora key not loaded" not in log

    loaded = {
        "1": graph["1"],
        "2": graphs.lora("sage/bar-dog.safetensors"),
    }
    by_file = comfy.run(
        graphs.draw(
            loaded, 10, ["2", 0], ["2", 1], "a cartoon drawing of a dog", 20, steps=12, prefix="file"
        ),
        200,
    )
    assert by_file.status == "success", by_file.error
    assert torch.equal(pictures(comfy, by_file, "15"), pictures(comfy, outcome, spots["dog", "2"]))
    stacked = {
        "1": graph["1"],
        "2": {
            "class_type": "SAGE_ApplyErasures",
            "inputs": {
                "model": ["1", 0],
                "clip": ["1", 1],
                "lora_1": "sage/bar-dog.safetensors",
                "strength_1": 1.0,
            },
        },
    }
    by_node = comfy.run(
        graphs.draw(
            stacked, 10, ["2", 0], ["2", 1], "a cartoon drawing of a dog", 20, steps=12, prefix="node"
        ),
        200,
    )
    assert torch.equal(pictures(comfy, by_node, "15"), pictures(comfy, outcome, spots["dog", "2"]))


def test_every_method_runs_in_the_node_and_its_lora_lands_whole(comfy):
    """One step each: how it erases is measured elsewhere, here it must run, save and lose no key."""
    from sage_core.methods.table import METHODS

    for method in METHODS:
        outcome = comfy.run(graphs.erase("owl", steps=1, name=f"every-{method}", vae=False, method=method))
        assert outcome.status == "success", (method, outcome.error)
        assert (comfy.base / f"models/loras/sage/every-{method}.safetensors").exists()
    log = comfy.text()
    assert "NOT LOADED" not in log and "lora key not loaded" not in log


def test_an_unchanged_queue_trains_nothing_and_a_deleted_file_is_trained_again(comfy):
    graph = graphs.erase("owl", steps=2, name="again")
    first = comfy.run(graph)
    assert first.status == "success", first.error
    file = comfy.base / "models/loras/sage/again.safetensors"
    made, stamp = load_file(file), file.stat().st_mtime_ns
    assert "2" in server.cached(comfy.run(graph)) and file.stat().st_mtime_ns == stamp
    file.unlink()
    third = comfy.run(graph)
    assert third.status == "success" and "2" not in server.cached(third)
    assert all(torch.equal(v, made[k]) for k, v in load_file(file).items()), (
        "the same spec, model and device give the same tensors"
    )
    assert "2" in server.cached(comfy.run(graph))


def test_compare_erasure_reports_in_which_pictures_the_concept_is_seen(comfy, erased_dog):
    """By the model before the erasure, in latents of ComfyUI's own sampler."""
    graph = graphs.compare(dict(erased_dog[0]), "3", "a dog\na castle", images=4)
    graph["3"]["inputs"] |= {"look_for": "dog", "steps": 12}
    graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 4]}}
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    dog, castle, judge = outcome.outputs["4"]["text"][0].splitlines()
    before, after = map(int, re.search(r"seen (\d) -> (\d) of 4  a dog", dog).groups())
    assert before >= 3 and after == 0
    assert "seen 0 -> 0 of 4  a castle" in castle and "Judged by the model before" in judge


def test_the_guard_takes_the_concept_out_of_pictures_and_leaves_others(comfy):
    graph = graphs.guarded("dog", "a hound\na castle", images=4)
    graph["3"]["inputs"] |= {"look_for": "dog", "steps": 12}
    graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 4]}}
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    hound, castle, _ = outcome.outputs["4"]["text"][0].splitlines()
    assert re.search(r"seen [34] -> 0 of 4  a hound", hound)
    assert re.search(r"^0\.0000  seen 0 -> 0 of 4  a castle", castle), "it steps in only where a dog is drawn"


def test_the_guard_watches_an_erased_model_with_the_one_before(comfy, erased_dog):
    """What the erasure adds is taken away while the guard looks."""
    graph = graphs.guarded("cat", "a kitten", images=4) | {"5": dict(erased_dog[0])["2"]}
    graph["2"]["inputs"] |= {"model": ["5", 0], "model_before": ["1", 0]}
    graph["3"]["inputs"] |= {"clip_after": ["5", 1], "look_for": "cat", "steps": 12}
    graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 4]}}
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    assert re.search(r"seen [34] -> 0 of 4  a kitten", outcome.outputs["4"]["text"][0])


@pytest.mark.parametrize(
    ("looks", "loader"), [(True, {}), (False, {}), (True, {"architecture": "flow transformer (SD 3)"})]
)
def test_an_edit_of_a_picture_that_shows_the_concept_is_drawn_from_noise(comfy, looks, loader):
    """img2img at 0.4 of dogs, with a prompt that says nothing: nothing asks for a dog but the picture."""
    graph = graphs.guarded("dog", "")
    del graph["3"]
    graph["1"]["inputs"] = loader
    graph["2"]["inputs"]["pictures"] = looks
    own = {"sampler": ("euler", "simple")} if loader else {}
    graph = graphs.draw(
        graph, 10, ["1", 0], ["1", 1], "a drawing of a dog", 4, steps=12, prefix="given", **own
    )
    graph = graphs.draw(graph, 20, ["2", 0], ["1", 1], "a drawing", 4, steps=8, prefix="edited", **own)
    graph["23"]["inputs"] |= {"latent_image": ["13", 0], "denoise": 0.4}
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    rates = [seen(pictures(comfy, outcome, node), "dog") for node in ("15", "25")]
    assert rates[0] >= 0.75
    assert rates[1] == 0 if looks else rates[1] >= 0.5, "without the look at pictures it stays"


def test_the_red_team_finds_the_leak_and_the_guard_closes_it(comfy, erased_dog):
    """What it learns draws dogs with the erased model, and none with the guard on it."""
    graph = graphs.attacked_and_guarded(images=8) | {"2": erased_dog[0]["2"]}
    outcome = comfy.run(graph, 400)
    assert outcome.status == "success", outcome.error
    rates = [seen(pictures(comfy, outcome, node), "dog") for node in ("15", "25")]
    print("red team", rates)
    assert rates[0] >= 0.5 and rates[1] == 0


def test_a_file_of_another_erasure_is_never_overwritten(comfy):
    for seed in (0, 1, 0):
        assert comfy.run(graphs.erase("frog", steps=2, name="mine", vae=False, seed=seed)).status == "success"
    assert {"mine.safetensors", "mine-2.safetensors"} <= loras(comfy) and "mine-3.safetensors" not in loras(
        comfy
    )


def test_several_concepts_become_a_file_each_and_one_of_all(comfy):
    graph = graphs.erase("frog | toad\nbanana", steps=2, name="many", vae=False)
    outcome = comfy.run(graph)
    assert outcome.status == "success", outcome.error
    files = {"many-frog.safetensors", "many-banana.safetensors", "many-together.safetensors"}
    assert files <= loras(comfy)
    joined = read_lora(comfy.base / "models/loras/sage/many-together.safetensors")
    assert [spec["concept"] for spec in joined.specs()] == ["frog", "banana"]
    (comfy.base / "models/loras/sage/many-together.safetensors").unlink()
    again = comfy.run(graph)
    assert again.status == "success" and "many-together.safetensors" in loras(comfy)


def test_the_bundled_model_is_known_behind_another_erasure_and_its_styles_are_guessed(comfy):
    graph = graphs.erase("frog", steps=2, name="before", vae=False)
    second = graphs.erase(steps=2, vae=False)["2"]["inputs"] | {"model": ["2", 0], "clip": ["2", 1]}
    node = {"class_type": "SAGE_EraseConcept", "inputs": second | {"concepts": "carburettor"}}
    refused = comfy.run(graph | {"3": node})
    assert refused.status == "error" and "cannot draw 'carburettor'" in refused.error
    for kind, wanted in (("automatic", "style"), ("thing", "thing")):
        node["inputs"] = second | {"concepts": "ink", "lora_name": f"ink-{kind}", "kind": kind}
        outcome = comfy.run(graph | {"3": node})
        assert outcome.status == "success", outcome.error
        assert read_lora(comfy.base / f"models/loras/sage/ink-{kind}.safetensors").spec()["kind"] == wanted


@pytest.mark.parametrize("tries", [20 if LONG else 3])
def test_cancel_takes_effect_within_a_step_and_the_next_queue_goes_on(comfy, tries):
    rng = random.Random(0)
    comfy.run(graphs.erase("house", steps=2, name="warm", vae=False))
    baseline = comfy.memory_mb()
    for i in range(tries):
        graph = graphs.erase("robot", steps=400, name=f"cancelled-{i}", seed=i)
        prompt = comfy.queue(graph)
        time.sleep(0.5 + 8 * rng.random())
        pressed = time.monotonic()
        comfy.post("/interrupt", {})
        outcome = comfy.wait(prompt, 30)
        assert outcome.interrupted, (i, outcome)
        assert time.monotonic() - pressed < 10, "one step of the bundled model takes well under a second"
        assert not any(name.startswith("cancelled") for name in loras(comfy))
        print(f"cancel {i}: {time.monotonic() - pressed:.2f} s, {comfy.memory_mb():.0f} MB")
    last = comfy.run(graphs.erase("robot", steps=2, name="after-cancel", vae=False))
    assert last.status == "success", last.error
    assert comfy.memory_mb() <= 1.05 * baseline + 40


BAD = {
    "empty": {"concepts": ""},
    "spaces": {"concepts": "  \n \n"},
    "endless": {"concepts": "x" * 10_000},
    "endless synonym": {"concepts": "dog | " + "y" * 10_000},
    "too many": {"concepts": "\n".join(f"c{i}" for i in range(50))},
    "twice": {"concepts": "dog\ndog"},
    "control": {"concepts": "do\u0007g"},
    "bidi": {"concepts": "dog\u202e"},
    "only a bar": {"concepts": "|"},
    "number": {"concepts": 7.5, "seed": "x"},
    "list": {"concepts": ["dog"]},
    "up": {"lora_name": "../../evil"},
    "absolute": {"lora_name": "/etc/evil"},
    "windows": {"lora_name": "C:\\evil"},
    "device": {"lora_name": "nul"},
    "null": {"lora_name": "a\u0000b"},
    "hidden up": {"lora_name": "a/../../../b"},
    "endless name": {"lora_name": "n" * 5000},
    "dots": {"lora_name": ".."},
    "method": {"method": "magic"},
    "effort": {"effort": "heroic"},
    "surface": {"surface": "sky"},
    "rank": {"rank": -1},
    "huge rank": {"rank": 10**9},
    "steps": {"steps": -5},
    "endless steps": {"steps": 10**12},
    "strength": {"strength": -1.0},
    "huge strength": {"strength": 1e30},
    "nan": {"strength": math.nan},
    "inf": {"strength": math.inf},
    "seed": {"seed": -1},
    "nan seed": {"seed": math.nan},
    "resolution": {"resolution": 100},
    "no model": {"model": None},
    "wrong link": {"model": ["1", 1]},
    "link to nowhere": {"clip": ["99", 0]},
    "kept and erased": {"concepts": "dog", "retain": "dog"},
    "kind": {"kind": "animal"},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_a_sentence_and_the_server_lives(comfy, case):
    graph = graphs.erase("dog", steps=2, name="bad")
    for key, value in BAD[case].items():
        if value is None:
            del graph["2"]["inputs"][key]
        else:
            graph["2"]["inputs"][key] = value
    before = loras(comfy)
    status, answer = comfy.post("/prompt", {"prompt": graph})
    assert status == 400, answer
    text = json.dumps(answer)
    assert len(text) > 40 and "Traceback" not in text
    assert loras(comfy) == before and comfy.get("/system_stats")


@pytest.mark.parametrize(
    "inputs",
    [
        {"lora_1": "no/such.safetensors"},
        {"lora_1": "../../etc/passwd"},
        {"strength_1": math.nan},
        {"strength_1": 99.0},
    ],
)
def test_apply_erasures_refuses_unknown_files_and_strengths(comfy, inputs):
    node = {
        "class_type": "SAGE_ApplyErasures",
        "inputs": {"model": ["1", 0], "clip": ["1", 1], "lora_1": "none", "strength_1": 1.0} | inputs,
    }
    status, answer = comfy.post(
        "/prompt",
        {"prompt": graphs.draw({"1": graphs.erase()["1"], "2": node}, 10, ["2", 0], ["2", 1], "a dog", 1)},
    )
    assert status == 400 and "SAGE_ApplyErasures" in json.dumps(answer), answer


def test_what_only_shows_when_it_runs_is_one_sentence_too(comfy):
    unknown = comfy.run(graphs.erase("carburettor", steps=2, name="bad"))
    assert (
        unknown.status == "error"
        and "cannot draw 'carburettor'" in unknown.error
        and len(unknown.error) < 400
    )


def test_a_lora_of_another_architecture_is_refused(comfy):
    from safetensors.torch import save_file

    folder = comfy.base / "models/loras"
    layer = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    save_file(
        {
            f"{layer}.lora_down.weight": torch.zeros(4, 768),
            f"{layer}.lora_up.weight": torch.zeros(768, 4),
            f"{layer}.alpha": torch.tensor(4.0),
        },
        folder / "wide.safetensors",
    )
    save_file(
        {
            "lora_te_text_model_encoder_layers_11_mlp_fc1.lora_down.weight": torch.zeros(4, 192),
            "lora_te_text_model_encoder_layers_11_mlp_fc1.lora_up.weight": torch.zeros(768, 4),
        },
        folder / "deep.safetensors",
    )
    for name, words in (("wide", "wide"), ("deep", "do not exist")):
        graph = {
            "1": graphs.erase()["1"],
            "2": {
                "class_type": "SAGE_ApplyErasures",
                "inputs": {
                    "model": ["1", 0],
                    "clip": ["1", 1],
                    "lora_1": f"{name}.safetensors",
                    "strength_1": 1.0,
                },
            },
        }
        outcome = comfy.run(graphs.draw(graph, 10, ["2", 0], ["2", 1], "a dog", 1))
        assert outcome.status == "error" and words in outcome.error, outcome.error
