"""What the panel's tests share. Where gradio or Chromium is missing they are skipped, loudly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from panel_tools import GRADIO, find_chromium, lacking, skipped


def pytest_terminal_summary(terminalreporter):
    for sentence in sorted(skipped):
        terminalreporter.write_line(sentence, red=True, bold=True)
    if not GRADIO:
        sentence = "NO GRADIO FOUND: the panel's page was NOT tested. Install it with: pip install gradio"
        terminalreporter.write_line(sentence, red=True, bold=True)


@pytest.fixture
def gradio():
    """The module, or a loud skip."""
    if not GRADIO:
        lacking("GRADIO", "the panel's page was NOT tested. Install it with: pip install gradio")
    import gradio

    return gradio


@pytest.fixture
def places(tmp_path):
    from sage_core.panel.places import Places

    return Places(tmp_path / "home", tmp_path / "home" / "loras", most_uploaded=1_000_000)


@pytest.fixture
def engine(places):
    """A queue whose worker is the real one; nothing is started until something is queued."""
    from sage_core.panel.engine import Engine

    engine = Engine(places).start()
    yield engine
    engine.stop()


FAKE = '''"""A worker that erases nothing: the task's concept says how it behaves."""
import json, sys, threading, time
cancelled = threading.Event()
tasks = []
def listen():
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message: cancelled.set()
        else: cancelled.clear(); tasks.append(message["task"])
    import os; os._exit(0)
threading.Thread(target=listen, daemon=True).start()
def say(message): print(json.dumps(message), flush=True)
while True:
    if not tasks: time.sleep(0.01); continue
    task = tasks.pop(0)
    open(sys.argv[0] + ".log", "a").write(json.dumps(task["spec"].get("concept", task["kind"])) + "\\n")
    concept = task["spec"].get("concept", "")
    if concept == "bad": say({"error": "There is no such thing; choose another."}); continue
    if concept == "dies": sys.exit(3)
    steps = 400 if concept == "slow" else 3
    for i in range(steps):
        if cancelled.is_set(): break
        say({"event": {"phase": "erase", "step": i, "total": steps, "text": "erasing"}})
        time.sleep(0.05)
    if cancelled.is_set(): say({"cancelled": True}); continue
    say({"result": {"lora": f"erased-{concept}.safetensors", "passes": 3, "seconds": 1.0, "left": []}})
'''


@pytest.fixture
def fake(places, tmp_path, monkeypatch):
    """Makes engines whose worker is a script; `fake.done()` lists what it was given, in order."""
    from sage_core.panel import link
    from sage_core.panel.engine import Engine

    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    monkeypatch.setattr(
        link, "START", f"import sys; sys.argv = [{str(script)!r}]; exec(open(sys.argv[0]).read())"
    )
    monkeypatch.setenv(link.OWN_PYTHON, sys.executable)
    made = []

    def make():
        made.append(Engine(places).start())
        return made[-1]

    def done():
        log = Path(f"{script}.log")
        return [line.strip('"') for line in log.read_text().splitlines()] if log.exists() else []

    make.done = done
    yield make
    for engine in made:
        engine.stop()


@pytest.fixture
def browser(gradio):
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if find_chromium() is None:
        lacking("CHROMIUM", "the panel's page was NOT tested in a browser; set CHROMIUM_PATH to one.")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()
