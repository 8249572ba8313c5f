"""The panel as a server of its own: on the loopback address, or, behind a password, on all."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from ..errors import SageError
from ..files import claimed
from .compat import gradio, mount
from .engine import Engine
from .guard import LOOPBACK, Guard
from .page import Page
from .places import Places
from .routes import Routes

SHORTEST = 8  # characters of a password


def check_serving(listen: bool, password: str | None) -> None:
    """Raises SageError where strangers could use the panel."""
    if listen and not password:
        raise SageError(
            "--listen lets other computers in, so it needs --password TEXT; without --listen the panel is"
            " only for this computer."
        )
    if password is not None and len(password) < SHORTEST:
        raise SageError(f"The password has {len(password)} characters; give {SHORTEST} or more.")


def make_app(engine: Engine, listen: bool = False, password: str | None = None):
    """The whole server as an ASGI app."""
    from fastapi import FastAPI

    gradio()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    routes = Routes(engine)
    app = mount(app, Page(engine, routes).build())
    routes.put_into(app)
    hosts = None if listen else set(LOOPBACK)
    return Guard(app, hosts, password, engine.places.most_uploaded)


def serve(places: Places, port: int, listen: bool, password: str | None, say=print) -> None:
    """Serve until Ctrl-C. Raises SageError where the port is taken or another panel uses the folder."""
    check_serving(listen, password)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(claimed(places.home.resolve() / "panel"))
        except SageError as error:
            raise SageError(
                f"Another panel uses the folder {places.home} already; open that one in the browser, or"
                " choose another folder with --out."
            ) from error
        listener = stack.enter_context(_listener("0.0.0.0" if listen else "127.0.0.1", port))
        engine = Engine(places).start()
        stack.callback(engine.stop)
        app = make_app(engine, listen, password)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        say(
            f"the panel is at {address}"
            + (", and open to other computers" if listen else "")
            + "; Ctrl-C ends it"
        )
        _run(app, listener)


def _listener(address: str, port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        raise SageError(
            f"Port {port} cannot be used ({error.strerror}); choose another with --port, 0 for any"
            " that is free."
        ) from error
    return listener


def _run(app, listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, ws_max_size=2**21)
    uvicorn.Server(config).run(sockets=[listener])


def places_of(out: Path, models: list[Path]) -> Places:
    """Where a panel of its own works: everything in one folder. Raises SageError for a missing folder."""
    for folder in models:
        if not folder.is_dir():
            raise SageError(f"There is no folder {str(folder)!r} with models; give one with --models.")
    return Places(out, out / "loras", tuple(models))
