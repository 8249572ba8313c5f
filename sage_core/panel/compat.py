"""The differences between gradio 3.41, 4 and 6. The page uses what all of them share, and this."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import SageError
from .needs import gradio_problem


def gradio():
    """The module. Raises SageError where it is missing or too old."""
    import os

    if problem := gradio_problem():
        raise SageError(problem)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # nothing here asks the network
    import gradio

    return gradio


def on(
    event: Callable, fn: Callable | None, inputs: Sequence, outputs: Sequence, js: str | None = None
) -> None:
    """Attach a handler. It does not pass through gradio's queue, so a long run never holds it up, and it has
    no name in gradio's public interface.
    """
    known = inspect.signature(event).parameters
    options: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    if "api_visibility" in known:
        options["api_visibility"] = "private"
    else:
        options["api_name"] = False
    if js is not None:
        options["js" if "js" in known else "_js"] = js
    event(fn, list(inputs), list(outputs), **options)


def blocks(title: str):
    """A page of its own. Styles are in the page itself: where they are given has changed between versions."""
    return gradio().Blocks(analytics_enabled=False, title=title)


def mount(app, page):
    """The page at the root of a FastAPI app; fonts are the system's, so that nothing is fetched."""
    gr = gradio()
    known = inspect.signature(gr.mount_gradio_app).parameters
    options: dict[str, Any] = {}
    if "show_error" in known:
        options["show_error"] = False
    if "footer_links" in known:
        options["footer_links"] = []
    if "ssr_mode" in known:
        options["ssr_mode"] = False
    if "theme" in known:
        options["theme"] = theme()
    else:
        page.theme = theme()
        page.theme_css = page.theme._get_theme_css()
        page.stylesheets = page.theme._stylesheets
    return gr.mount_gradio_app(app, page, path="/", **options)


def theme():
    """The default one, with the system's fonts."""
    gr = gradio()
    sans = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
    return gr.themes.Default(font=list(sans), font_mono=["ui-monospace", "Consolas", "monospace"])
