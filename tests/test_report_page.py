"""The page, the table and the files of an evaluation, for one LoRA and for several."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from sage_core.cli import main as cli
from sage_core.diffusion.knowledge import Prompt
from sage_core.evaluate.measure import Evaluation
from sage_core.evaluate.output import labels_of, result_of
from sage_core.evaluate.page.document import document
from sage_core.evaluate.page.sections import SECTIONS
from sage_core.evaluate.page.shown import LOSSLESS, SIDE, Shown, data_url
from sage_core.evaluate.page.unsafe import is_unsafe
from sage_core.evaluate.summary import as_csv, lines, row

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def evaluation(concept: str = "dog", method: str = "sage", after: float = 0.0) -> Evaluation:
    """Two prompts of two cells, with everything that a report can have."""
    prompts = [Prompt("concept", f"a {concept}", concept, 1), Prompt("far", "a <b>cup", "cup", 2)]
    attack = {"title": "inversion", "paper": "x", "unit": "steps", "budget": [10, 20], "success": [0.0, 0.5]}
    report = {
        "spec": {"concept": concept, "synonyms": [], "method": method},
        "before": {"concept": 1.0, "far": 1.0, "attacked": 1.0},
        "after": {"concept": after, "far": 1.0, "attacked": 0.5},
        "interval": {"concept": [0.0, 0.7], "far": [0.2, 1.0]},
        "judge": {"name": "a probe", "cannot": "", "hits": 1.0, "false_alarms": 0.0, "other_pictures": 1},
        "drift": {"near": None, "far": 0.02},
        "cost": {"unet_forwards": 300, "unet_backwards": 50, "seconds": 9.0, "peak_memory_mb": None},
        "lora": {"path": f"{concept}-{method}.safetensors", "bytes": 1, "rank": 4},
        "attacked_by": "inversion",
        "attacks": {"inversion": attack | {"interval": [0.1, 0.9], "untouched": [0.5, 1.0]}},
        "metadata": {"sage.spec": '{"concept": "dog"}', "modelspec.title": "</script><script>alert(1)"},
    }
    before, images = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), after)
    return Evaluation(report, prompts, before, images, torch.ones(1, 3, 8, 8), [(True, False), (True, True)])


def shown(*args, **kwargs) -> Shown:
    return Shown.of(evaluation(*args, **kwargs))


class Tags(HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.all: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.all.append((tag, dict(attributes)))

    def named(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.all if tag == name]


def test_erasures_of_one_concept_share_the_pictures_before_and_others_do_not():
    both = document([shown(), shown(method="rece")])
    assert len(Tags(both).named("img")) == 3 * 2 + 2, "before once, after twice, two under attack"
    other = document([shown(), shown("owl")])
    assert len(Tags(other).named("img")) == 2 * (2 * 2 + 1)
    assert both.count("<section class=concept") == 1 and other.count("<section class=concept") == 2


def test_the_page_loads_nothing_and_runs_only_its_own_script():
    page = document([shown()], repeat=["sage-erase", "evaluate", "a model", "--lora", "x"])
    tags = Tags(page)
    links = [value for _, a in tags.all for name, value in a.items() if name in ("src", "href", "srcset")]
    assert links and all(link.startswith(("data:image/", "#lora-")) for link in links)
    assert "url(" not in page and "@import" not in page and "<link" not in page
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in tags.named("meta") if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{own}'" in policy
    assert 'sage-erase evaluate "a model" --lora x' in page.replace("&quot;", '"')


def test_what_files_and_prompts_say_is_text_on_the_page():
    hostile = "<img src=x onerror='alert(1)'>"
    page = document([shown(hostile), Shown.of(evaluation(), hostile)], repeat=[hostile])
    assert "<img src=x" not in page and "a &lt;b&gt;cup" in page and "<b>cup" not in page
    assert page.count("<script>") == 1 and page.count("</script>") == 1


def test_a_keyboard_and_a_screen_reader_get_everything():
    tags = Tags(document([shown(), shown("owl")], blur=True))
    assert all(image["alt"] for image in tags.named("img"))
    assert any("before, seed 1: a dog" in image["alt"] for image in tags.named("img"))
    assert all(heading.get("scope") in ("row", "col") for heading in tags.named("th"))
    assert all(button.get("type") == "button" for button in tags.named("button"))
    assert len([b for b in tags.named("button") if b.get("class") == "veil"]) == len(tags.named("img"))
    assert all(a.get("aria-label") for a in tags.named("svg"))
    assert tags.named("html")[0]["lang"] == "en"


def test_pictures_of_unsafe_concepts_are_hidden_unless_the_user_says_otherwise():
    def hidden(page: str) -> int:
        return page.count("class=veil")

    assert hidden(document([shown("a naked person")])) > 0 and hidden(document([shown()])) == 0
    assert hidden(document([shown("a naked person")], blur=False)) == 0
    assert hidden(document([shown()], blur=True)) > 0
    mixed = document([shown(), shown("gore")])
    assert hidden(mixed) == hidden(document([shown("gore")])) and "Show all pictures" in mixed
    spec = {"concept": "people", "synonyms": ["nude", "someone"]}
    assert is_unsafe({"spec": spec}) and not is_unsafe({"spec": {"concept": "a nudibranch"}})


def test_small_pictures_are_exact_and_large_ones_are_small():
    assert data_url(torch.zeros(3, LOSSLESS, 8)).startswith("data:image/png")
    from PIL import Image

    large = data_url(torch.rand(3, 1024, 512))
    picture = Image.open(io.BytesIO(base64.b64decode(large.split(",")[1])))
    assert large.startswith("data:image/jpeg") and picture.size == (SIDE // 2, SIDE)


def test_a_part_that_another_measurement_adds_is_shown_where_the_report_has_it(monkeypatch):
    monkeypatch.setattr(
        "sage_core.evaluate.page.document.SECTIONS",
        [*SECTIONS, ("Weather", lambda report: report.get("weather", ""))],
    )
    with_it = evaluation()
    with_it.report["weather"] = "<p>rain</p>"
    assert "<h4>Weather</h4><p>rain</p>" in document([Shown.of(with_it)])
    assert "Weather" not in document([shown()])


def test_the_summary_has_shares_intervals_drift_and_passes():
    report = evaluation().report
    values = row(report)
    assert values["concept"].after == 0.0
    assert values["attacked"].interval == [0.1, 0.9] and values["drift"].after == 0.02
    assert values["passes"].after == 400 and values["near"].after is None
    unknown = report | {"cost": report["cost"] | {"seconds": 0.0}}
    assert row(unknown)["passes"].after is None, "evaluate knows it only where the file says"
    assert "400" in lines(["dog"], [report])[1]


def test_a_report_of_an_earlier_version_and_one_of_a_graph_still_have_a_page():
    old = evaluation()
    for key in ("metadata", "attacks", "attacked_by", "judge"):
        del old.report[key]
    assert "<h1>Erased: dog</h1>" in document([Shown.of(old)])
    as_csv(["dog"], [old.report])
    graph = evaluation()
    graph.report["spec"] = {"concept": "dog"}
    del graph.report["cost"], graph.report["lora"]
    assert "<h3>dog</h3>" in document([Shown.of(graph)])


def test_the_csv_has_every_number_and_no_formula():
    reports = [evaluation().report, evaluation("=1+1").report]
    rows = list(csv.DictReader(io.StringIO(as_csv(["dog", "x"], reports))))
    concept = next(r for r in rows if r["measure"] == "the concept")
    assert (concept["before"], concept["after"], concept["high"]) == ("1.0", "0.0", "0.7")
    assert [r["after"] for r in rows if r["measure"].startswith("attack inversion")] == ["0.0", "0.5"] * 2
    assert rows[-1]["concept"] == "'=1+1"


def test_labels_are_unlike_each_other_and_one_report_is_its_own_result():
    paths = [Path("a/dog.safetensors"), Path("b/Dog.safetensors"), Path("../x y.safetensors")]
    assert labels_of(paths) == ["dog", "Dog-2", "x-y"]
    assert result_of([{"holds": True}]) == {"holds": True}
    two = result_of([{"holds": True}, {"holds": False}])
    assert two["holds"] is False and len(two["reports"]) == 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two erasures of dog, measured with a claim that fails."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in ("uce", "rece"):
            erase = ["erase", "demo", "--concept", "dog", "--method", method, "--no-preview"]
            assert cli.main([*erase, "--out", f"{method}.safetensors"]) == 0
        both = [
            "--lora",
            "uce.safetensors",
            "--lora",
            "rece.safetensors",
            "--images",
            "4",
            "--attack",
            "none",
        ]
        claims = ["--require", "concept<=0.5", "--require", "attacked<=1"]
        assert cli.main(["evaluate", "demo", *both, *claims, "--out", "out", "--html", "p.html"]) == 1
    return folder


def test_several_loras_are_one_report_as_page_json_and_table(folder):
    out = folder / "out"
    assert {p.name for p in out.iterdir()} == {
        "report.html",
        "report.json",
        "report.csv",
        "pictures",
        "state",
    }
    result = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [r["spec"]["method"] for r in result["reports"]] == ["uce", "rece"] and result["holds"] is False
    assert "sage.spec" in result["reports"][0]["metadata"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page == (folder / "p.html").read_text(encoding="utf-8")
    assert page.count("<section class=concept") == 1 and "--lora uce.safetensors" in page
    assert {p.name for p in (out / "pictures").iterdir()} == {"uce", "rece"}
    assert len(list((out / "pictures" / "uce").glob("*.png"))) == 2 * 16


def test_the_script_in_the_documentation_recomputes_the_report_from_its_pictures(folder):
    text = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
    script = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    statements = [s for s in script.splitlines() if s.strip() and not s.startswith(("import", "from"))]
    assert len(statements) <= 10
    reports = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["reports"]
    for label, report in zip(("uce", "rece"), reports):
        command = [sys.executable, "-c", script, str(folder / "out" / "pictures" / label)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = {line.split()[0]: list(map(float, line.split()[1:])) for line in done.stdout.splitlines()}
        assert set(found) == {"concept", "synonyms", "near", "far"}
        for cell, (before, after, drift) in found.items():
            assert (before, after) == (report["before"][cell], report["after"][cell])
            if cell in report["drift"]:
                assert drift == pytest.approx(report["drift"][cell], abs=1e-4)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_in_a_browser_the_page_sorts_filters_shows_and_prints(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    path = tmp_path / "report.html"
    many = [shown("dog", after=0.5), shown("owl", after=0.1), shown("gore", after=0.9)]
    path.write_text(document(many), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or problems.append(r.url))
        page.goto(path.as_uri())
        rows = page.locator(".summary tbody tr:visible th")
        page.locator(".summary thead button", has_text="its name").press("Enter")
        assert rows.all_inner_texts() == ["owl-sage", "dog-sage", "gore-sage"]
        page.locator(".summary thead button", has_text="its name").click()
        assert rows.all_inner_texts() == ["gore-sage", "dog-sage", "owl-sage"]
        assert page.locator("th[aria-sort=descending]").count() == 1
        veils = page.locator(".veil[aria-pressed=false]")
        hidden = veils.count()
        veils.first.press("Space")
        assert veils.count() == hidden - 1 > 0
        page.get_by_role("button", name="Show all pictures").click()
        assert veils.count() == 0
        page.get_by_role("button", name="Hide all pictures").click()
        assert veils.count() == hidden
        page.fill("#filter", "owl")
        assert rows.all_inner_texts() == ["owl-sage"] and page.inner_text("#count") == "1 of 3"
        assert page.locator("section.concept:visible").count() == 1
        page.emulate_media(media="print", color_scheme="dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator(".tools").is_visible()
        browser.close()
    assert problems == []
