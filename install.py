"""Checks what the pack needs and says what is missing.

Installs, upgrades and downgrades nothing; works offline. ComfyUI-Manager runs it once, a Stable Diffusion
WebUI at every start.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def missing(requirements: str) -> list[str]:
    """A sentence for every requirement line (`name>=floor`) that the running Python does not meet."""
    found = []
    for line in ("torch>=2.3\n" + requirements).splitlines():
        name, _, floor = line.strip().partition(">=")
        if not name or name.startswith("#"):
            continue
        try:
            have = version(name)
        except PackageNotFoundError:
            found.append(f"{name} is not installed (needs {floor} or newer)")
            continue
        if numbers(have) < numbers(floor):
            found.append(f"{name} {have} is older than {floor}")
    return found


def in_webui(here: Path) -> bool:
    """Whether this is an extension of a Stable Diffusion WebUI. Its tab says what is missing."""
    return here.parent.name == "extensions"


def main() -> int:
    here = Path(__file__).resolve().parent
    problems = missing((here / "requirements.txt").read_text(encoding="utf-8"))
    if in_webui(here):
        if problems:
            print(f"[SAGE Concept Eraser] for erasing: {'; '.join(problems)}. The tab says what to do.")
        return 0  # else the host reports a failed extension at every start
    for problem in problems:
        repair = f'"{sys.executable}" -m pip install -r requirements.txt'
        print(f"[SAGE Concept Eraser] {problem}. Install it with: {repair}")
    if not problems:
        print("[SAGE Concept Eraser] everything it needs is here.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
