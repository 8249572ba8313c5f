"""The real page, of the real command, in headless Chromium. SAGE_LONG=1 runs what takes minutes."""

from __future__ import annotations

import json
import os
import statistics
import time
from pathlib import Path

import pytest
from panel_tools import LONG, free_port, open_page, server, wait

SHOTS = os.environ.get("SAGE_SHOTS")  # a folder: every state is drawn there
long = pytest.mark.skipif(not LONG, reason="minutes: set SAGE_LONG=1")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """(address, folder) of one panel for the tests that change nothing for each other."""
    pytest.importorskip("gradio", reason="NO GRADIO FOUND: the panel's page was NOT tested")
    out = tmp_path_factory.mktemp("panel") / "out"
    with server(out) as (address, _):
        yield address, out


def shot(page, name: str) -> None:
    if SHOTS:
        import gradio

        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}-gradio{gradio.__version__[0]}.png"), full_page=True)


def state(page) -> str:
    """Of the run that is shown."""
    return (
        page.locator("#sage_shown .sage-state").inner_text()
        if page.locator("#sage_shown .sage-state").count()
        else ""
    )


def wait_state(page, wanted: str, timeout: float = 300.0) -> None:
    def there():
        now = state(page)
        assert wanted == "failed" or now != "failed", page.inner_text("#sage_shown")
        return now == wanted

    wait(there, timeout, 0.1)


def runs(out: Path) -> list[dict]:
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted((out / "runs").glob("*/run.json"))]


def open_tab(page, name: str) -> None:
    """gradio 3 draws tabs as plain buttons."""
    tabs = page.get_by_role("tab", name=name)
    (tabs if tabs.count() else page.locator("button", has_text=name)).first.click()


class Counted:
    """A person at the page: counts what they do."""

    def __init__(self, page):
        self.page, self.actions = page, 0

    def type(self, where: str, text: str) -> None:
        self.actions += 1
        self.page.fill(where, text)

    def press(self, where: str) -> None:
        self.actions += 1
        self.page.click(where)


def test_from_the_opened_page_to_the_downloaded_lora(browser, running, tmp_path):
    """The bars: six actions and three minutes."""
    address, out = running
    start = time.monotonic()
    page, problems = open_page(browser, address)
    page.wait_for_selector("#sage_shown .sage-empty, #sage_shown .sage-run")
    shot(page, "1-open")
    person = Counted(page)
    person.type("#sage_concepts textarea", "dog")
    person.press("#sage_erase")
    page.wait_for_selector("#sage_shown .sage-live img", timeout=180_000)
    shot(page, "2-erasing")
    wait_state(page, "done")
    seconds = time.monotonic() - start
    shot(page, "3-done")
    with page.expect_download() as download:
        person.press("#sage_shown a.sage-first")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.name == "erased-dog.safetensors"
    assert file.read_bytes() == (out / "loras" / file.name).read_bytes()
    print(f"\n{person.actions} actions, {seconds:.0f} s until the erased picture")
    assert person.actions <= 6 and seconds < 180
    with page.expect_download() as download:
        page.click("#sage_shown a[href$='workflow.json']")
    download.value.save_as(tmp_path / "workflow.json")
    nodes = json.loads((tmp_path / "workflow.json").read_text(encoding="utf-8"))["nodes"]
    assert [node["type"] for node in nodes] == [
        "SAGE_LoadDemoModel",
        "SAGE_EraseConcept",
        "SAGE_CompareErasure",
    ]
    shown = page.inner_text("#sage_shown")
    assert "of the concept is left" in shown and "its neighbours" in shown
    divider = page.locator(".sage-compare input[type=range]")
    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert page.evaluate("document.querySelector('.sage-compare').style.getPropertyValue('--cut')") == "60%"
    assert not problems
    page.close()


def test_mistakes_are_sentences_in_place_and_everything_has_a_name(browser, running):
    address, out = running
    page, problems = open_page(browser, address)
    for text, part in (("", "No concept is given"), ("(dog:1.2)", "write the plain words only")):
        page.fill("#sage_concepts textarea", text)
        page.click("#sage_erase")
        alert = page.locator("#sage_message [role=alert]")
        wait(lambda a=alert, p=part: a.count() and p in a.inner_text(), 30)
    shot(page, "4-mistake")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, textarea, img, progress, select')].filter(e => {
        const named = e.getAttribute('aria-label') || e.getAttribute('alt') || e.textContent.trim()
            || e.closest('label') || (e.id && document.querySelector(`label[for="${CSS.escape(e.id)}"]`))
            || e.getAttribute('aria-labelledby') || e.title;
        return !named && e.offsetParent !== null;
        }).map(e => e.outerHTML.slice(0, 120))"""
    )
    assert not unnamed
    page.focus("#sage_concepts textarea")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
        )
    assert {"sage_find", "sage_erase"} <= set(reached), "by the keyboard alone"
    assert not problems
    page.close()


def test_a_hostile_upload_is_a_sentence_beside_the_button(browser, running, tmp_path):
    address, out = running
    page, problems = open_page(browser, address)
    open_tab(page, "Open a LoRA")
    for name, content, part in (
        ("x.ckpt", b"\x80\x04.", "only that format is read"),
        ("x.safetensors", b"\x80\x04.", "cannot be read as safetensors"),
    ):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#sage_file", str(tmp_path / name))
        line = page.locator(".sage-upload [role=status]")
        wait(lambda li=line, p=part: p in li.inner_text(), 30)
    shot(page, "5-upload")
    page.close()


@long
def test_words_are_struck_and_added_with_a_click(browser, running):
    address, out = running
    page, problems = open_page(browser, address)
    page.fill("#sage_concepts textarea", "castle")
    page.click("#sage_find")
    page.wait_for_selector("#sage_means input[type=checkbox]", timeout=200_000)
    words = [t.strip() for t in page.locator("#sage_means label").all_inner_texts() if t.strip()]
    page.locator("#sage_close input[type=checkbox]").first.click()  # strike
    page.fill("#sage_new_means input, #sage_new_means textarea", "knight stronghold")
    page.click("#sage_add_means")
    wait(lambda: "knight stronghold" in " ".join(page.locator("#sage_means label").all_inner_texts()), 30)
    shot(page, "6-words")
    page.click("#sage_erase")
    wait_state(page, "running")
    wait_state(page, "done")
    spec = runs(out)[-1]["spec"]
    assert spec["synonyms"] == ["knight stronghold"] and len(spec["exclude"]) == 1 and words
    assert not problems
    page.close()


@long
def test_the_red_team_and_a_lora_from_elsewhere(browser, running, tmp_path):
    address, out = running
    page, problems = open_page(browser, address)
    page.fill("#sage_concepts textarea", "dog")
    page.click("#sage_erase")
    wait_state(page, "done")
    wait(lambda: page.locator("#sage_attack").is_enabled(), 30)
    page.click("#sage_attack")
    page.wait_for_selector("#sage_shown .sage-attack img", timeout=500_000)
    assert "brings the concept back in" in page.inner_text("#sage_shown .sage-attack")
    shot(page, "7-attack")
    elsewhere = tmp_path / "from-a-friend.safetensors"
    elsewhere.write_bytes((out / "loras" / "erased-dog.safetensors").read_bytes())
    open_tab(page, "Open a LoRA")
    page.set_input_files("#sage_file", str(elsewhere))
    page.wait_for_selector("#sage_recipe table", timeout=60_000)
    text = page.inner_text("#sage_recipe")
    assert "Erases dog" in text and "sage" in text and "also means it" in text
    shot(page, "8-opened")
    open_tab(page, "History")
    wait(lambda: page.locator("#sage_history input[type=radio]").count() >= 2, 30)
    shot(page, "9-history")
    page.locator("#sage_history input[type=radio]").last.click()
    wait(lambda: state(page) == "done", 30)
    assert not problems
    page.close()


@long
def test_reload_cancel_resume_and_two_browsers(browser, running):
    address, out = running
    first, _ = open_page(browser, address)
    second, _ = open_page(browser, address)
    before = len(runs(out))
    for page in (first, second):
        page.fill("#sage_concepts textarea", "pizza")
    first.click("#sage_erase")
    second.click("#sage_erase")
    for page in (first, second):
        wait_state(page, "running")
    assert len(runs(out)) == before + 1, "one run, whoever pressed"
    first.reload()
    first.wait_for_selector("#sage_concepts textarea")
    wait_state(first, "running")
    wait(lambda: second.locator("#sage_cancel").is_enabled(), 30)
    wait(lambda: first.locator("#sage_shown .sage-live img").count(), 120)
    second.click("#sage_cancel")
    wait_state(first, "cancelled")
    assert not (out / "loras" / "erased-pizza.safetensors").exists()
    shot(first, "10-cancelled")
    wait(lambda: first.locator("#sage_resume").is_enabled(), 30)
    first.click("#sage_resume")
    wait_state(second, "done")
    assert (out / "loras" / "erased-pizza.safetensors").exists() and len(runs(out)) == before + 1
    first.close()
    second.close()


@long
def test_a_killed_server_goes_on_when_it_is_started_again(browser, tmp_path):
    out, port = tmp_path / "out", free_port()
    with server(out, port=port) as (address, process):
        page, _ = open_page(browser, address)
        page.fill("#sage_concepts textarea", "train\ncactus")
        page.click("#sage_erase")
        wait(lambda: list((out / "runs").glob("*/state.resume")), 200)
        process.kill()
        process.wait(20)
    page.get_by_text("The panel does not answer").wait_for(timeout=30_000)
    shot(page, "11-silent")
    with server(out, port=port):
        wait(lambda: [r["status"] for r in runs(out)] == ["done"] * 3, 500)
        kinds = [run["kind"] for run in runs(out)]
        assert kinds == ["erase", "erase", "join"], "nothing was lost and nothing queued twice"
        assert len(list((out / "loras").glob("*.safetensors"))) == 3
        wait(lambda: "does not answer" not in page.inner_text("body"), 60)
        wait(lambda: page.locator("#sage_shown a[download]").count(), 60)
        shot(page, "11-after-a-kill")
        page.close()


ANSWER = """async part => {
    const line = document.querySelector('#sage_message');
    const there = () => (line.querySelector('[role=alert]')?.textContent ?? '').includes(part);
    const start = performance.now();
    const answered = new Promise(done => {
        const look = new MutationObserver(() => { if (there()) { look.disconnect(); done(); } });
        look.observe(line, {childList: true, subtree: true, characterData: true});
    });
    document.querySelector('#sage_find').click();
    await answered;
    return performance.now() - start;
}"""


@long
def test_the_panel_answers_at_once_while_a_run_is_going(browser, running):
    """The bar: the median of fifty interactions is below 200 ms."""
    address, out = running
    page, _ = open_page(browser, address)
    page.fill("#sage_concepts textarea", "robot")
    page.click("#sage_erase")
    wait_state(page, "running")
    times, going = [], 0
    for number in range(50):
        page.fill("#sage_concepts textarea", "" if number % 2 else "(dog:1.2)")
        page.wait_for_timeout(50)
        times.append(page.evaluate(ANSWER, "No concept" if number % 2 else "plain words"))
        going += state(page) == "running"
    median, slowest = statistics.median(times), max(times)
    print(f"\nmedian {median:.0f} ms, slowest {slowest:.0f} ms; running in {going} of 50")
    assert statistics.median(times) < 200
    assert going >= 25, "measured while a run was going"
    page.close()


@long
def test_it_is_drawn_in_the_dark_and_on_a_narrow_screen(browser, running):
    address, _ = running
    page, problems = open_page(browser, f"{address}/?__theme=dark", color_scheme="dark")
    page.wait_for_selector("#sage_shown .sage-run, #sage_shown .sage-empty")
    page.wait_for_timeout(1500)
    shot(page, "12-dark")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.sage-run, .sage-empty')).color")
    light = [sum(int(float(n)) for n in c[c.index("(") + 1 : -1].split(",")[:3]) for c in (ground, ink)]
    assert light[1] - light[0] > 250, (ground, ink)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(500)
    shot(page, "13-narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert not problems
    page.close()
