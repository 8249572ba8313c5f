"""Runs the panel's tests under each gradio that a host has: AUTOMATIC1111's, Forge's, and the newest.

    python tests/panel/environments.py [--folder DIR] [NAME ...] [-- pytest options]

Each gets a virtual environment of its own, with the web libraries that its host pins. torch, pytest and the
rest come from the Python that runs this file. Erasing is done by that Python too, as in a host whose own
libraries are too old. Takes a few minutes the first time; needs a network then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
WEB = "uvicorn<0.35"  # the newest that the old ones below run with
ENVIRONMENTS = {
    "automatic1111": ["gradio==3.41.2", "fastapi==0.94.0", "pydantic==1.10.20", "httpx==0.24.1", WEB],
    "forge": ["gradio==4.40.0", "fastapi==0.104.1", "pydantic==2.8.2", "httpx==0.24.1", WEB],
    "newest": ["gradio>=6"],
}
# The newest huggingface_hub lacks what gradio 4 imports.
OLD_HUB = "huggingface_hub==0.26.5"


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def make(name: str, folder: Path) -> Path:
    """The environment's Python; made if it is not there."""
    python = python_of(folder / name)
    stamp, wanted = folder / name / "made-of.txt", "\n".join(ENVIRONMENTS[name])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return python
    venv.create(folder / name, with_pip=True, clear=True)
    packages = ENVIRONMENTS[name] + ([] if name == "newest" else [OLD_HUB])
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    # After its own packages: what it has itself comes first.
    shared = ascii(sysconfig.get_path("purelib"))
    Path(own, "zz_shared.pth").write_text(f"import sys; sys.path.append({shared})\n", encoding="ascii")
    stamp.write_text(wanted, encoding="utf-8")
    return python


def main(arguments: list[str]) -> int:
    """Exit status: the first that is not 0."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    own, rest = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: {', '.join(ENVIRONMENTS)}")
    folder = Path(tempfile.gettempdir()) / "sage-panel-environments"
    parser.add_argument("--folder", type=Path, default=folder, help=f"for the environments ({folder})")
    args = parser.parse_args(own)
    statuses = []
    for name in args.names or ENVIRONMENTS:
        python = make(name, args.folder)
        print(f"\n==== {name}: {ENVIRONMENTS[name][0]}", flush=True)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "SAGE_ERASE_PYTHON": sys.executable,
            "SAGE_PANEL_MUST": "1",  # nothing may be skipped for want of gradio
        }
        # Not the other tests' conftest.py: it imports diffusers, which a host may have too old.
        command = [str(python), "-m", "pytest", "tests/panel", "--confcutdir=tests/panel", "-q", *rest]
        statuses.append(subprocess.run(command, cwd=ROOT, env=environment).returncode)
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
