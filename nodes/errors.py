"""Missing packages and user mistakes as one sentence each."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from ..sage_core.errors import SageError

NEEDED = {  # package: the module that it installs
    "diffusers": "diffusers",
    "transformers": "transformers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "pillow": "PIL",
    "filelock": "filelock",
}


def require_packages() -> None:
    """Raises SageError naming what is missing or broken and the command that repairs it."""
    bad = {
        package: problem for package, module in NEEDED.items() if (problem := _problem(module)) is not None
    }
    if bad:
        found = " and ".join(f"{package} {problem}" for package, problem in bad.items())
        raise SageError(
            f"{found}; run this in ComfyUI's Python and restart: "
            f"pip install --upgrade-strategy only-if-needed {' '.join(bad)}"
        )


def _problem(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return "is not installed"
    except Exception as error:  # a broken install may raise anything while it is imported
        return (
            f"cannot be imported ({type(error).__name__}:"
            f" {str(error).splitlines()[0][:120] if str(error) else ''})"
        )
    return None


def sentence_of(check: Callable[[], object]) -> bool | str:
    """For validate_inputs: True, or the sentence of the SageError that `check` raised."""
    try:
        check()
    except SageError as error:
        return str(error)
    return True


def check_guidance(guidance: float | None) -> None:
    """Raises SageError for a guidance that no sampler can use. None: a linked value, not known yet."""
    if guidance is not None and not (math.isfinite(guidance) and 1.0 <= guidance <= 30.0):
        raise SageError(f"guidance is a number from 1 to 30, not {guidance}.")
