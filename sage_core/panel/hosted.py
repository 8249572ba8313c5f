"""The panel as a tab of another program: one engine for its process, however often its pages are built."""

from __future__ import annotations

import contextlib
import html
import os
from pathlib import Path

from ..errors import SageError
from ..files import claimed
from .engine import Engine
from .link import OWN_PYTHON, ROOT, own_python
from .needs import gradio_problem, missing
from .places import Places

_engines: dict[Path, Engine] = {}
_claims = contextlib.ExitStack()  # held as long as the process lives


def engine_of(places: Places) -> Engine:
    """Raises SageError where another program uses the folder."""
    home = places.home.resolve()
    if home not in _engines:
        try:
            _claims.enter_context(claimed(home / "panel"))
        except SageError as error:
            raise SageError(
                f"Another program uses the panel's folder {home} already; close that one, then"
                " press Reload UI."
            ) from error
        _engines[home] = Engine(places).start()
    return _engines[home]


def problem_here() -> str:
    """One sentence where nothing can be erased in this host as it is; empty where it can."""
    lacking = missing()
    if not lacking or os.environ.get(OWN_PYTHON) or own_python().exists():
        return ""
    return (
        f"Erasing needs newer packages than this program has: {'; '.join(lacking)}. Nothing of it is changed:"
        f" run once in {ROOT}:  python start.py demo  (it makes an environment of its own there, for erasing"
        " alone), then press Reload UI."
    )


def tab(places: Places):
    """(the page, its routes) for a host that shows it in a tab.

    Whatever goes wrong, the tab says it and the host is not disturbed; there are no routes then.
    """
    try:
        if problem := gradio_problem():
            raise SageError(problem)
        from .page import Page
        from .routes import Routes

        engine = engine_of(places)
        routes = Routes(engine)
        return Page(engine, routes, problem_here()).build(), routes
    except SageError as error:
        return _only(str(error)), None
    except Exception as error:  # a host's libraries may be broken in any way
        sentence = f"The panel could not be built ({type(error).__name__}: {str(error)[:200]})."
        return _only(f"{sentence} Update the extension, or open it by itself: python start.py panel"), None


def _only(sentence: str):
    """A tab that says one thing, with what every gradio has."""
    import gradio

    with gradio.Blocks(analytics_enabled=False) as page:
        gradio.HTML(f'<p role="alert" style="padding: 1rem">{html.escape(sentence)}</p>')
    return page
