"""For the scripts beside it that run in ComfyUI's own Python."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def import_pack(folder: str) -> None:
    """The pack as ComfyUI imports it: under a name of its own, `sage_pack`."""
    spec = importlib.util.spec_from_file_location(
        "sage_pack", Path(folder) / "__init__.py", submodule_search_locations=[folder]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["sage_pack"] = module
    spec.loader.exec_module(module)
