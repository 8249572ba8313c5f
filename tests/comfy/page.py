"""The real page in headless Chromium, for tests and for the pictures in the README."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.Workflow.WarnBlueprintOverwrite": False,
}


def find_chromium() -> str | None:
    return (
        os.environ.get("CHROMIUM_PATH")
        or shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )


@contextmanager
def opened(running, **settings):
    """A page of a running server: (page, problems), problems being what the console complained of."""
    from playwright.sync_api import sync_playwright

    folder = running.base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(SETTINGS | settings), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        problems: list[str] = []

        def console(message) -> None:
            where = message.location.get("url", "") if message.location else ""
            if message.type == "error":
                problems.append(f"{message.text} ({where.replace(running.url, '')})")

        page.on("console", console)
        page.on("pageerror", lambda error: problems.append(f"{error}\n{getattr(error, 'stack', '')}"))
        page.goto(running.url)
        page.wait_for_function(
            "window.app?.graph && window.app.extensionManager && window.app.extensionManager.toast",
            timeout=120_000,
        )
        time.sleep(2)
        yield page, problems
        browser.close()


def show(page, graph: dict, name: str = "workflow") -> None:
    """Put an API-format graph on the canvas."""
    page.evaluate("([g, n]) => window.app.loadApiJson(g, n)", [graph, name])
    time.sleep(1)


def open_template(page, name: str) -> None:
    """As a user does: Browse Templates, the pack's own section, the card."""
    page.evaluate("window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("sage-concept-eraser", exact=True).last.click(
        timeout=30_000
    )  # nodes wear the name as a badge
    page.click(f"[data-testid='template-workflow-{name}']", timeout=30_000)
    page.wait_for_selector("[data-testid^='template-workflow-']", state="detached", timeout=30_000)
    time.sleep(3)  # checks of the workflow come after it is shown


def press_run(page) -> None:
    page.get_by_role("button", name="Run", exact=True).first.click()


def complaints(page, problems: list[str], ordinary: set[str]) -> list[str]:
    """Toasts, alerts and dialogs on the page, and what the console said of us.

    Left out: what the page says without this pack, and files that it looks for in vain in a new profile or
    outside.
    """
    shown = page.evaluate(
        """[...document.querySelectorAll('.p-toast-message, [role=alert], [role=alertdialog], [role=dialog]')]
        .filter(e => e.offsetParent !== null).map(e => e.textContent.trim().slice(0, 300)).filter(t => t)"""
    )
    own = [p for p in problems if p.splitlines()[0] not in ordinary]
    return shown + [p for p in own if not p.startswith("Failed to load resource") or "sage" in p.lower()]


def faces(page) -> list[str]:
    """The texts on the faces of the Erase Concept nodes."""
    return page.evaluate("[...document.querySelectorAll('.sage-face')].map(e => e.firstChild.textContent)")


def wait_face(page, words: str, timeout: float = 240) -> str:
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        if found := [t for t in faces(page) if words in t]:
            return found[0]
        time.sleep(0.3)
    raise TimeoutError(f"no node says {words!r}: {faces(page)}")


def screenshot(page, path: Path) -> None:
    page.screenshot(path=str(path))
