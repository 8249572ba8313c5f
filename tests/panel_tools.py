"""What the panel's tests share: a real server, a page in Chromium, loud skips."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GRADIO = importlib.util.find_spec("gradio") is not None
LONG = bool(os.environ.get("SAGE_LONG"))
skipped: set[str] = set()


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM_PATH") or next((p for n in names if (p := shutil.which(n))), None)


def lacking(what: str, why: str) -> None:
    """Skip, and say so at the end; fail where nothing may be skipped."""
    if os.environ.get("SAGE_PANEL_MUST") and what == "GRADIO":
        pytest.fail(why)
    skipped.add(f"NO {what} FOUND: {why}")
    pytest.skip(why)


def wait(condition, timeout: float = 120.0, every: float = 0.05):
    """What `condition` returns once it is true."""
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        if value := condition():
            return value
        time.sleep(every)
    raise TimeoutError(f"not within {timeout} s")


@contextlib.contextmanager
def server(out: Path, *arguments: str, port: int | None = None):
    """The real command: (address, process)."""
    port = port or free_port()
    command = [sys.executable, "-m", "sage_core", "panel", "--port", str(port), "--out", str(out), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=out, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        wait(lambda: process.poll() is not None or _answers(address), 90, 0.2)
        assert process.poll() is None, (out / "server.log").read_text(encoding="utf-8")
        yield address, process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def open_page(browser, address: str, **options):
    """(page, problems): what the console and the server complained of."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, **options)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
    page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.goto(address)
    page.wait_for_selector("#sage_concepts textarea", timeout=60_000)
    return page, problems


def folder_of(name: str) -> Path:
    """Of a WebUI: FORGE, NEO or A1111."""
    folder = os.environ.get(f"{name}_PATH")
    if not folder:
        lacking(
            f"{name}_PATH", f"the extension was NOT tested in {name.title()}; set {name}_PATH to its folder."
        )
    return Path(folder)


def python_of(name: str) -> str:
    """That the WebUI runs in."""
    own = folder_of(name) / "venv" / "bin" / "python"
    return os.environ.get(f"{name}_PYTHON") or str(own)
