"""The field's protocols: which prompts, whose table, and what may be required of it."""

import contextlib
import json

import pytest
import torch

from sage_core import ErasureSpec, SageError
from sage_core.cli import main as cli
from sage_core.evaluate.judges.nudenet import NudeNetJudge
from sage_core.evaluate.protocols import base
from sage_core.evaluate.protocols.base import Subject
from sage_core.evaluate.protocols.choose import open_protocol
from sage_core.evaluate.protocols.table import section, text
from sage_core.evaluate.require import check_columns, check_report, parse_requirements


class Off:
    """In place of an adapter: says whether it is on."""

    def __init__(self):
        self.on = True

    @contextlib.contextmanager
    def off(self):
        self.on = False
        yield
        self.on = True


class Counting:
    """A judge that sees what is told beforehand: by (adapter on, class), a cycle of verdicts."""

    name, cannot = "a list of verdicts", ""

    def __init__(self, verdicts: dict[tuple[bool, str], list[bool | None]]):
        self.verdicts, self.asked = verdicts, []

    def expected(self, concept):
        return concept

    def sees(self, images, expected, prompts):
        out = []
        for image, word in zip(images, expected):
            key = bool(image.mean() > 0), word
            self.asked.append(key)
            own = self.verdicts.get(key, [True])
            out.append(own[self.asked.count(key) % len(own)])
        return out


@pytest.fixture
def subject(monkeypatch):
    """Pictures are white where the erasure is on and black where it is off; nothing is drawn."""
    adapter = Off()
    drawn = []

    class Model:
        guard = None

    def draw(model, prompts):
        drawn.extend(prompts if adapter.on else [])
        return torch.full((len(prompts), 3, 8, 8), 1.0 if adapter.on else -1.0)

    monkeypatch.setattr(base, "draw", draw)

    def make(spec, *judges):
        made = Subject(Model(), adapter, spec, judges)
        return made, drawn

    return make


def test_the_ten_classes_are_those_of_the_papers():
    protocol = open_protocol("imagenette")
    assert len(protocol.classes) == 10 and protocol.images == 500
    prompts = protocol.prompts({own: own for own in protocol.classes}, None, 0)
    assert len(prompts) == 5000 and len({p.seed for p in prompts if p.cell == "tench"}) == 500
    assert {p.text for p in prompts if p.cell == "English springer"} == {"an image of an English springer"}
    assert all(p.guidance == 7.5 for p in prompts)


def test_the_five_styles_have_twenty_prompts_each():
    protocol = open_protocol("styles")
    prompts = protocol.prompts({own: own for own in protocol.classes}, None, 0)
    assert protocol.classes == ("Van Gogh", "Pablo Picasso", "Rembrandt", "Andy Warhol", "Caravaggio")
    assert len({p.text for p in prompts}) == len(prompts) == 100
    assert all(p.cell in p.text for p in prompts)


@pytest.mark.parametrize(
    "protocol, spec, erased",
    [
        ("imagenette", ErasureSpec("a church"), "church"),
        ("imagenette", ErasureSpec("spaniel", synonyms=("english springer",)), "English springer"),
        ("imagenette", ErasureSpec("chapel", synonyms=("church",)), "church"),
        ("imagenette", ErasureSpec("church tower"), None),
        ("styles", ErasureSpec("in the style of Van Gogh"), "Van Gogh"),
        ("styles", ErasureSpec("Picasso", kind="style"), "Pablo Picasso"),
        ("styles", ErasureSpec("Hokusai", kind="style"), None),
    ],
)
def test_the_erased_class_is_found_by_the_concepts_names(protocol, spec, erased):
    assert open_protocol(protocol).erased(spec) == erased


def test_accuracies_are_of_the_erased_class_and_the_mean_of_the_others(subject):
    spec = ErasureSpec("church")
    judge = Counting(
        {
            (True, "church"): [False],
            (False, "church"): [True, True, True, False],
            (True, "tench"): [True, False],
            (False, "parachute"): [None],
        }
    )
    made, drawn = subject(spec, judge)
    result = open_protocol("imagenette").run(made, 4, 0, lambda text: None)
    assert result["erased"] == "church" and len(drawn) == 40
    erased, others = (result["columns"][f"imagenette.{group}"] for group in ("erased", "others"))
    assert (erased["before"], erased["after"], erased["drift"]) == (0.75, 0.0, 1.0)
    assert result["classes"]["parachute"] is None, "the judge cannot say of any of its pictures"
    assert others["before"] == 1.0 and others["after"] == pytest.approx(7.5 / 8, abs=1e-4)
    shown = text({"imagenette": result})
    assert "church" in shown and "75.0" in shown and "93.8" in shown and "other 9" in shown
    assert "<caption>imagenette" in section({"imagenette": result})


def test_an_erasure_of_something_else_has_no_erased_class(subject):
    made, _ = subject(ErasureSpec("dog"), Counting({}))
    result = open_protocol("imagenette").run(made, 1, 0, lambda text: None)
    assert result["erased"] is None and result["columns"]["imagenette.erased"] is None
    assert "none of them" in text({"imagenette": result}) and "other 10" in text({"imagenette": result})


def test_a_guard_is_off_while_the_untouched_model_draws(subject, monkeypatch):
    made, _ = subject(ErasureSpec("church"), Counting({}))
    made.model.guard = guard = object()
    guards = []
    draw = base.draw
    monkeypatch.setattr(base, "draw", lambda model, part: guards.append(model.guard) or draw(model, part))
    open_protocol("imagenette").run(made, 1, 0, lambda text: None)
    assert guards == [None, guard] and made.model.guard is guard


def test_a_users_classes_and_prompts_take_the_place_of_the_papers(tmp_path):
    names = tmp_path / "mine.txt"
    names.write_text("dog\ncat\n", encoding="utf-8")
    own = open_protocol(f"imagenette={names}")
    assert own.classes == ("dog", "cat")
    assert [p.text for p in own.prompts({"dog": "dog", "cat": "cat"}, 1, 0)] == [
        "an image of a dog",
        "an image of a cat",
    ]
    table = tmp_path / "artists.csv"
    table.write_text(
        "case_number,prompt,evaluation_seed,artist\n0,a hut,7,Van Gogh\n1,a sea,8,Van Gogh\n2,a can,9,Bo\n",
        encoding="utf-8",
    )
    own = open_protocol(f"styles={table}")
    prompts = own.prompts({"Van Gogh": "Van Gogh", "Bo": "Bo"}, None, 0)
    assert [(p.cell, p.text, p.seed) for p in prompts] == [
        ("Van Gogh", "a hut", 7),
        ("Van Gogh", "a sea", 8),
        ("Bo", "a can", 9),
    ]


@pytest.mark.parametrize(
    "argument, content, words",
    [
        ("imagenette=a.txt", "dog\n", "has 1 different class names"),
        ("styles=a.csv", "prompt\na hut\n", "needs a column class or artist"),
        ("i2p", "", "needs the published table"),
        ("celebrities", "", "There is no protocol 'celebrities'"),
        ("i2p=none.csv", "", "cannot be read"),
    ],
)
def test_a_protocol_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path, monkeypatch, argument, content, words
):
    monkeypatch.chdir(tmp_path)
    if content:
        (tmp_path / argument.partition("=")[2]).write_text(content, encoding="utf-8")
    with pytest.raises(SageError, match=words):
        open_protocol(argument)


class Detector:
    """Finds two exposed parts in black pictures, a face in all, and one part that it is not sure of."""

    def detect(self, array):
        found = [{"class": "FACE_FEMALE", "score": 0.9}, {"class": "FEET_EXPOSED", "score": 0.5}]
        if array.mean() < 100:
            found += [
                {"class": "BELLY_EXPOSED", "score": 0.6},
                {"class": "FEMALE_BREAST_EXPOSED", "score": 0.8},
            ]
        return found


def test_i2p_counts_exposed_parts_by_class_and_category(tmp_path, subject, thin):
    table = tmp_path / "i2p.csv"
    table.write_text(
        'prompt,categories,sd_seed,sd_guidance_scale\na hut,"sexual, hate",5,7\na sea,hate,6,8\n',
        encoding="utf-8",
    )
    spec = ErasureSpec("nudity")
    made, drawn = subject(spec, NudeNetJudge(Detector(), thin, spec))
    protocol = open_protocol(f"i2p={table}")
    result = protocol.run(made, None, 0, lambda text: None)
    assert [(p.text, p.seed, p.guidance) for p in drawn] == [("a hut", 5, 7.0), ("a sea", 6, 8.0)]
    before, after = result["parts"]["before"], result["parts"]["after"]
    assert before["BELLY_EXPOSED"] == before["FEMALE_BREAST_EXPOSED"] == 2 and before["FEET_EXPOSED"] == 0
    assert not any(after.values())
    assert result["categories"]["hate"] == {
        "prompts": 2,
        "before": {"parts": 4, "pictures": 2},
        "after": {"parts": 0, "pictures": 0},
    }
    assert result["categories"]["sexual"]["before"] == {"parts": 2, "pictures": 1}
    assert result["columns"]["i2p.pictures"] == {"before": 1.0, "after": 0.0, "hits": 0, "pictures": 2}
    shown = text({"i2p": result})
    assert "breasts (F)" in shown and "sexual" in shown
    with pytest.raises(SageError, match="--judge nudenet"):
        protocol.check((Counting({}),))


def test_protocols_can_be_required(subject):
    claims = parse_requirements(["imagenette.erased<=0.1", "imagenette.others>=0.9"])
    check_columns(claims, open_protocol("imagenette").columns)
    with pytest.raises(SageError, match="no column 'imagenette.erased'"):
        check_columns(claims)
    judge = Counting({(True, "church"): [False], (True, "tench"): [False]})
    made, _ = subject(ErasureSpec("church"), judge)
    result = open_protocol("imagenette").run(made, 2, 0, lambda text: None)
    report = {
        "before": {"concept": 1.0},
        "after": {},
        "interval": {},
        "drift": {},
        "protocols": {"imagenette": result},
    }
    gone, kept = check_report(claims, report)
    assert gone["holds"] and gone["measured"] == 0 and "95 % interval" in gone["sentence"]
    assert not kept["holds"] and kept["measured"] == pytest.approx(8 / 9, abs=1e-4)
    assert "imagenette.others>=0.9 of before" in kept["sentence"]
    result["columns"]["imagenette.erased"] = None
    assert not check_report(claims, report)[0]["holds"]


def test_a_protocol_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("dog\ncastle\ncar\n", encoding="utf-8")
    erase = ["erase", "demo", "--concept", "dog", "--method", "uce", "--no-preview", "--out", "d.safetensors"]
    assert cli.main(erase) == 0
    measure = ["evaluate", "demo", "--lora", "d.safetensors", "--images", "1", "--attack", "none"]
    asked = ["--protocol", "imagenette=mine.txt", "--protocol-images", "2", "--suite", "kind"]
    claims = ["--require", "imagenette.erased<=0", "--require", "imagenette.others>=0.5"]
    capsys.readouterr()
    status = cli.main([*measure, *asked, *claims, "--json", "--html", "r.html"])
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["holds"] else 1)
    result = report["protocols"]["imagenette"]
    assert result["erased"] == "dog" and list(result["classes"]) == ["dog", "castle", "car"]
    assert result["classes"]["castle"]["pictures"] == 2
    assert "imagenette, by class" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert cli.main([*measure, "--protocol", "imagenette", "--protocol-images", "0"]) == 1
    assert "--protocol-images is from 1" in capsys.readouterr().err
    i2p = tmp_path / "i2p.csv"
    i2p.write_text("prompt\na dog\n", encoding="utf-8")
    assert cli.main([*measure, "--protocol", f"i2p={i2p}"]) == 1
    assert "--judge nudenet" in capsys.readouterr().err
