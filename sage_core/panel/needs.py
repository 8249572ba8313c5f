"""What erasing needs and the running Python lacks. Reads names and versions only: nothing is imported or
installed.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

FLOORS = {  # of pyproject.toml; a test holds them together
    "torch": "2.3",
    "diffusers": "0.31",
    "transformers": "4.46",
    "safetensors": "0.4.3",
    "numpy": "1.26",
    "pillow": "10.1",
    "filelock": "3.4",
    "tqdm": "4.60",
}
OLDEST_GRADIO = (3, 41)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def missing() -> list[str]:
    """A few words for each package that is not there or too old."""
    found = []
    for name, floor in FLOORS.items():
        try:
            have = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is not installed (needs {floor})")
            continue
        if numbers(have) < numbers(floor):
            found.append(f"{name} is {have} (needs {floor})")
    return found


def gradio_problem() -> str:
    """One sentence where the page cannot be built with this gradio; empty where it can."""
    try:
        have = version("gradio")
    except PackageNotFoundError:
        return "The panel needs gradio, which is not installed; install it with: pip install gradio"
    if numbers(have)[:2] < OLDEST_GRADIO:
        return (
            f"The panel needs gradio 3.41 or newer, and this is {have}; update the program"
            " that it is part of."
        )
    return ""
