"""The command that opens the panel."""

from __future__ import annotations

from pathlib import Path

from ..errors import SageError
from .common import output_folder


def run_panel(args) -> dict:
    """Serve the page until Ctrl-C."""
    if not 0 <= args.port <= 65535:
        raise SageError(f"--port is from 0 (any that is free) to 65535, not {args.port}.")
    from ..panel.serve import check_serving, places_of, serve

    check_serving(args.listen, args.password)
    places = places_of(output_folder(args.out), [Path(folder) for folder in args.models])
    serve(places, args.port, args.listen, args.password, lambda text: print(text, flush=True))
    return {}
