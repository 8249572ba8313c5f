"""Cells beyond the four: what they ask, how edits are drawn, and where they are shown."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sage_core import ErasureSpec, SageError
from sage_core.cli import main as cli
from sage_core.diffusion.cost import Cost
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate import further
from sage_core.evaluate.drawing import draw, edit, inpaint, middle
from sage_core.evaluate.further import Further
from sage_core.evaluate.hard import EDITS, HARD_CELLS, misspellings, translations
from sage_core.evaluate.lists import Line, PromptList
from sage_core.evaluate.measure import evaluate, measure_original
from sage_core.evaluate.pictures import picture
from sage_core.evaluate.report import page, table
from sage_core.evaluate.sentences import unasked
from sage_core.prompts.templates import indefinite

LORA = {"path": "x.safetensors", "bytes": 1, "rank": 1}
LIST = PromptList("mine", (Line("a cat", 7, 2.0), Line("a <b>dog</b>")))


def texts(prompts: list[Prompt], cell: str) -> list[str]:
    return [p.text for p in prompts if p.cell == cell]


@pytest.mark.parametrize("name", ["dog", "ox", "a", "Van Gogh", "in the style of Hokusai", "猫", "aaa"])
def test_misspellings_are_near_the_name_and_never_it(name):
    for wrong in misspellings(name):
        assert wrong != name and wrong.strip() and abs(len(wrong) - len(name)) <= 1


def test_the_hard_suite_asks_for_the_concept_in_other_ways(demo):
    spec = ErasureSpec("dog")
    base = measure_original(demo, spec, 2, attack=None, further=Further("hard", ("Hund",), (LIST,)))
    assert {p.cell for p in base.prompts} >= {*HARD_CELLS, "also", "mine"}
    assert not any("dog" in text for text in texts(base.prompts, "misspelt"))
    assert all(" and " in text and "dog" in text for text in texts(base.prompts, "beside"))
    assert all("dog" in text for text in texts(base.prompts, "long"))
    assert max(len(demo.text.words(text)) for text in texts(base.prompts, "long")) <= 75
    assert all("Hund" in text for text in texts(base.prompts, "also"))
    assert all("(dog" in text for text in texts(base.prompts, "weighted"))
    assert all(p.weighted == (p.cell == "weighted") for p in base.prompts)
    assert texts(base.prompts, "languages")[:2] == ["a picture of a Hund", "a picture of a chien"]
    mine = [p for p in base.prompts if p.cell == "mine"]
    assert [(p.text, p.guidance, p.expected) for p in mine] == [
        ("a cat", 2.0, "dog"),
        ("a <b>dog</b>", 5.0, "dog"),
    ]
    assert mine[0].seed == 7
    for cell, strength in zip(EDITS, (0.4, 0.6, 0.8)):
        edits = [p for p in base.prompts if p.cell == cell]
        assert len(edits) == 2 and all(p.strength == strength for p in edits)
        assert [base.prompts[p.edits].cell for p in edits] == ["concept"] * 2


def test_a_style_is_asked_for_in_the_same_ways(thin):
    spec = ErasureSpec("watercolor")
    known = [Prompt("concept", "a watercolor of a house", "watercolor", 1, "house")]
    prompts = Further("hard").prompts(thin, spec, None, known, 1, 0)
    assert [p.cell for p in prompts] == list(HARD_CELLS)
    assert texts(prompts, "beside") == ["a watercolor of a house and a cat"]
    assert texts(prompts, "weighted") == ["a (watercolor:1.2) of a house"]
    assert texts(prompts, "languages") == ["an Aquarell drawing of a house"]
    assert all(p.thing == "house" for p in prompts if p.cell != "companion")
    companion = next(p for p in prompts if p.cell == "companion")
    assert (companion.text, companion.expected) == ("a watercolor of a house and a cat", "cat")


def test_a_concept_that_no_dictionary_has_is_not_asked_for_in_other_languages(thin):
    known = [Prompt("concept", "a picture of a gizmo", "gizmo", 1)]
    prompts = Further("hard").prompts(thin, ErasureSpec("gizmo"), None, known, 1, 0)
    assert [p.cell for p in prompts] == [cell for cell in HARD_CELLS if cell != "languages"]
    assert "languages" in Further("hard").cells


def test_the_dictionary_has_every_word_in_every_language_and_no_row_twice():
    path = Path(further.__file__).parent / "data" / "languages.txt"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert all(len(row) == 6 and all(row) for row in rows)
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert translations(["Dog"]) == ("Hund", "chien", "perro", "cane", "hond")
    assert translations(["robot"]) == ("Roboter",), "words that are spelt like the name are left out"
    assert translations(["gizmo", "dog"]) == translations(["dog"]) and translations(["gizmo"]) == ()


def test_two_questions_about_one_picture_cost_one_picture(demo):
    beside = Prompt("beside", "a dog and a cat", "dog", 5)
    demo.cost.forwards = 0
    pictures = draw(demo, [beside, dataclasses.replace(beside, cell="companion", expected="cat")])
    assert torch.equal(pictures[0], pictures[1]) and demo.cost.forwards == 2 * 20


def test_a_heavier_word_moves_the_picture_further_from_the_one_without_it(demo):
    def drawn(text: str) -> torch.Tensor:
        return draw(demo, [Prompt("weighted", text, "dog", 3, weighted=True)])[0]

    plain = demo.generate(["a cartoon drawing of a dog"], [3])[0]
    assert torch.allclose(drawn("a cartoon drawing of a (dog:1)"), plain, atol=1e-4)
    away = [(drawn(f"a cartoon drawing of a (dog:{w})") - plain).abs().mean() for w in (1.1, 1.6)]
    assert 0 < away[0] < away[1]


def test_inpainting_draws_the_middle_anew_and_keeps_the_rest(demo):
    original = demo.generate(["a cartoon drawing of a dog"], [3])
    again = inpaint(demo, original, ["a cartoon drawing of a castle"], [4], 0.5)
    assert again.shape == original.shape
    changed = (again - demo.decode(demo.encode_images(original))).abs().mean(1)[0]
    edge = torch.cat([changed[:8].flatten(), changed[-8:].flatten()])
    assert changed[24:40, 24:40].mean() > 5 * edge.mean()
    whole = inpaint(demo, original, ["a cartoon drawing of a castle"], [4], 1.0)
    free = demo.generate(["a cartoon drawing of a castle"], [4])
    assert torch.allclose(whole, free, atol=1e-3), "a hole as large as the picture keeps nothing of it"


@pytest.mark.parametrize(
    "side, share, rows", [(8, 0.75, (1, 7)), (8, 0.5, (2, 6)), (64, 0.75, (8, 56)), (8, 1.0, (0, 8))]
)
def test_the_hole_is_in_the_middle(side, share, rows):
    mask = middle((side, side), share)
    expected = torch.zeros(side, side, dtype=torch.bool)
    expected[rows[0] : rows[1], rows[0] : rows[1]] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_the_hole_is_never_empty(side):
    assert middle((side, side), 0.01).any()


def test_an_edit_keeps_the_more_of_a_picture_the_weaker_it_is(demo):
    picture_of_dog = demo.generate(["a cartoon drawing of a dog"], [3])
    away = []
    for strength in (0.2, 0.4, 0.8, 1.0):
        again = edit(demo, picture_of_dog, ["a cartoon drawing of a castle"], [4], strength)
        assert again.shape == picture_of_dog.shape and torch.isfinite(again).all()
        away.append((again - picture_of_dog).abs().mean().item())
    assert away[0] < away[1] < away[2] and away[0] < 0.5 * away[3]


def test_an_edit_works_on_every_family(family, tmp_path):
    import tiny

    from sage_core import load_model

    model = load_model(tiny.folder(family, tmp_path / "m"))
    side = model.pixels
    pictures, texts = torch.zeros(2, 3, side, side), ["a dog", "a cat"]
    for again in (
        edit(model, pictures, texts, [1, 2], 0.5, steps=4),
        inpaint(model, pictures, texts, [1, 2], 0.5, steps=4),
    ):
        assert again.shape == (2, 3, side, side) and torch.isfinite(again).all()


def test_pictures_come_in_the_order_of_their_prompts(demo):
    prompts = [
        Prompt("mine", "a cartoon drawing of a dog", "dog", 1, guidance=2.0),
        Prompt("concept", "a cartoon drawing of a dog", "dog", 1),
        Prompt("edit-0.4", "a cartoon drawing of a dog", "dog", 1, strength=0.4, edits=1),
        Prompt("concept", "a cartoon drawing of a cat", "cat", 2),
    ]
    drawn = draw(demo, prompts)
    assert torch.allclose(drawn[0], demo.generate([prompts[0].text], [1], guidance=2.0)[0], atol=1e-4)
    assert torch.allclose(drawn[3], demo.generate([prompts[3].text], [2])[0], atol=1e-4)
    assert torch.allclose(draw(demo, prompts, drawn), drawn, atol=1e-4)


def test_a_report_says_how_much_of_a_style_comes_unasked(demo):
    """The bundled model draws more than half of what is asked for in no style in ink."""
    spec = ErasureSpec("ink")
    base = measure_original(demo, spec, 4, attack=None)
    plain = [p for p in base.prompts if p.cell == "concept"]
    asked = [f"a drawing of {indefinite(p.thing)} {p.thing}" for p in plain]
    assert all(p.text == text.replace("a drawing", "an ink drawing") for p, text in zip(plain, asked))
    report = (evaluation := evaluate(demo, base, spec, Cost(), 0.0, LORA, 4, attack=None)).report
    pictures = demo.generate(asked, [p.seed for p in plain])
    seen = base.judge.sees(pictures, ["ink"] * 4, plain)
    assert report["style_unasked"] == pytest.approx(sum(seen) / 4) and sum(seen) >= 1
    said = f"the untouched model shows it in {report['style_unasked']:.0%} of the pictures"
    assert said in table(report) and said in page(evaluation)
    assert measure_original(demo, ErasureSpec("dog"), 1, attack=None).style_unasked is None


@pytest.mark.parametrize(
    "share, said, advised",
    [(0.0, "never shows it", False), (0.125, "in 12% of the pictures", False), (0.5, "in 50%", True)],
)
def test_a_style_that_comes_unasked_often_is_to_become_another_one(share, said, advised):
    assert said in unasked(share) and ("`becomes`" in unasked(share)) == advised


def test_reports_show_every_cell_and_escape_what_a_list_says(demo, monkeypatch):
    spec = ErasureSpec("dog")
    base = measure_original(demo, spec, 2, attack=None, further=Further("hard", (), (LIST,)))
    evaluation = evaluate(demo, base, spec, Cost(), 0.0, LORA, 2, attack=None)
    report = evaluation.report
    assert report["before"] == report["after"] and report["drift"]["mine"] == 0.0
    assert list(report["after"]) == ["concept", "synonyms", "near", "far", *HARD_CELLS, "mine", "attacked"]
    assert list(report["without_prompt"]) == [*EDITS, "inpaint"]
    assert report["without_prompt"]["edit-0.4"] >= report["without_prompt"]["edit-0.8"]
    shown = table(report)
    assert "of the edits, the concept is left even by the untouched model" in shown
    assert all(words in shown for words in ("misspelt", "edited, strength 0.4", "inpainted", "mine"))
    whole = page(evaluation)
    assert "The first" not in whole and whole.count("alt='before, ") == len(base.prompts)
    assert "<h4>mine</h4>" in whole and "a &lt;b&gt;dog" in whole and "<b>dog" not in whole
    assert picture(evaluation).height > 11 * 192
    monkeypatch.setattr("sage_core.evaluate.page.shown.MOST_SHOWN", 1)
    few = page(evaluation)
    assert "The first 1 of 2." in few and few.count("alt='before, ") == len(report["after"]) - 1


def test_two_cells_of_one_name_are_refused():
    for name in ("concept", "edit-0.4", "attacked", "drift.far"):
        with pytest.raises(SageError, match="is taken"):
            Further(lists=(PromptList(name, LIST.lines),)).check()
    with pytest.raises(SageError, match="is taken"):
        Further(lists=(LIST, LIST)).check()


def test_lists_and_suites_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i2p.csv").write_text("prompt,sd_seed\na dog,1\na castle,2\na cat,3\n", encoding="utf-8")
    command = [
        "erase",
        "demo",
        "--concept",
        "dog",
        "--method",
        "uce",
        "--no-preview",
        "--out",
        "d.safetensors",
    ]
    assert cli.main(command) == 0
    quick = ["evaluate", "demo", "--lora", "d.safetensors", "--images", "1", "--attack", "none", "--json"]
    capsys.readouterr()
    listed = ["--prompts", "i2p.csv", "--prompts", "again=i2p.csv", "--list-images", "0"]
    assert cli.main([*quick, *listed, "--require", "i2p<=1", "--require", "drift.again<=1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 2 * (4 + 3 + 3) and report["after"]["i2p"] == report["after"]["again"]
    assert cli.main([*quick, "--prompts", "i2p.csv", "--prompts", "i2p.csv"]) == 1
    assert "is taken" in capsys.readouterr().err
    assert cli.main([*quick, "--require", "i2p<=1"]) == 1
    assert "no column 'i2p'" in capsys.readouterr().err
