"""Sets everything up and runs it, on Linux, macOS and Windows:

    python start.py demo [options of `sage-erase demo`]     # erase a concept from the bundled model
    python start.py panel [options of `sage-erase panel`]   # open the panel in the browser
    python start.py test [options of pytest]                # check the code and run the tests

Makes a virtual environment in .venv, installs torch and this project there, and runs. The next start only
runs. Needs Python 3.10 or newer and nothing else. If the Python that runs this file has torch, as ComfyUI's
has, that torch is used.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = "sage-start.json"  # in .venv: what is installed there
OLDEST_TORCH = (2, 3)
TORCH = "torch>={}.{}".format(*OLDEST_TORCH)
TARGETS = {"demo": ".", "panel": ".[panel]", "test": ".[test]"}  # what pip installs for each mode
SATISFIED_BY = {"demo": ("demo", "panel", "test"), "panel": ("panel", "test"), "test": ("test",)}
WINDOWS_CTRL_C = 0xC000013A  # exit status of a program that Ctrl-C ended


class Failed(Exception):
    """One sentence for the user."""


def main(arguments: list) -> int:
    """Exit status: that of the last command; 1 where setting up failed, 2 usage, 130 interrupted."""
    if sys.version_info < (3, 10):  # noqa: UP036 (older Pythons can run this line)
        print(
            f"start.py: Python 3.10 or newer is needed, and this is {sys.version.split()[0]}.",
            file=sys.stderr,
        )
        return 1
    if not arguments or arguments[0] not in TARGETS:
        asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help")
        print(__doc__, file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    mode, *rest = arguments
    try:
        python = set_up(mode)
        for command in run_commands(mode, python, rest):
            status = run(command, ROOT if mode == "test" else None)
            if status:
                return status
        return 0
    except (Failed, OSError) as error:
        print(f"start.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("start.py: interrupted; run it again to resume.", file=sys.stderr)
        return 130


# ---- what is run; no function here runs anything ----


def python_of(venv: Path, system: str = sys.platform) -> Path:
    """The Python of a virtual environment."""
    return venv / "Scripts" / "python.exe" if system == "win32" else venv / "bin" / "python"


def run_commands(mode: str, python: Path, rest: list) -> list:
    """The commands of a mode, once everything is installed."""
    if mode in ("demo", "panel"):
        return [[python, "-m", "sage_core", mode, *rest]]
    return [[python, "-m", "ruff", "check", "."], [python, "-m", "pytest", "-n", "2", *rest]]


def torch_ways(python: Path, system: str = sys.platform) -> list:
    """Ways to install torch, to be tried in turn: (what it is, commands)."""
    pip = [python, "-m", "pip", "install"]
    local = (
        "torch among the packages on this machine",
        [[*pip, "--quiet", "--no-index", "--no-deps", TORCH]],
    )
    plain = ("torch, the build that pip chooses", [[*pip, TORCH]])
    if system == "darwin":
        return [local, plain]  # there is one build, for every Mac
    uv = [python, "-m", "uv", "pip", "install", "--python", python, "--torch-backend=auto", TORCH]
    return [
        local,
        ("torch, the build for this machine: for its GPU, or for the CPU", [[*pip, "--quiet", "uv"], uv]),
        plain,
    ]


def install_command(mode: str, python: Path) -> list:
    return [python, "-m", "pip", "install", "-e", TARGETS[mode]]


def wanted(mode: str, pyproject: bytes) -> str:
    """Stands for everything that is installed for a mode."""
    return hashlib.sha256(mode.encode() + b"\0" + pyproject).hexdigest()


def is_installed(mode: str, stamp: dict, pyproject: bytes) -> bool:
    """Whether an earlier start installed what the mode needs, for this very pyproject.toml."""
    return any(stamp["installed"].get(m) == wanted(m, pyproject) for m in SATISFIED_BY[mode])


def python_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


# ---- setting up ----


def set_up(mode: str) -> Path:
    """The Python of the environment, with everything installed that the mode needs."""
    python, stamp = python_of(VENV), read_stamp()
    pyproject = (ROOT / "pyproject.toml").read_bytes()
    if stamp.get("python") == python_version() and python.exists():
        if is_installed(mode, stamp, pyproject):
            return python
    else:
        stamp = make_environment(python, bool(stamp.get("made_here")))
        write_stamp(stamp)
    if run([python, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is None)"]):
        install_torch(python)
    say("installing this project" + (" and what its tests need" if mode == "test" else ""))
    if run(install_command(mode, python), ROOT):
        raise Failed("pip could not install the project (see above); check the network and start again.")
    stamp["installed"][mode] = wanted(mode, pyproject)
    write_stamp(stamp)
    return python


def read_stamp() -> dict:
    """What an earlier start left; empty where there was none."""
    try:
        stamp = json.loads((VENV / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) and isinstance(stamp.get("installed"), dict) else {}


def write_stamp(stamp: dict) -> None:
    (VENV / STAMP).write_text(json.dumps(stamp), encoding="utf-8")


def make_environment(python: Path, made_here: bool) -> dict:
    """The stamp of a new environment, or of one that is there.

    One that somebody made by hand is used as it is and never deleted.
    """
    if VENV.exists() and not made_here:
        if python.exists() and not run([python, "-c", ""]):
            return {"made_here": False, "python": python_version(), "installed": {}}
        raise Failed(
            f"{VENV} is there and holds no Python that runs; delete or rename this folder and start again."
        )
    say(f"making a virtual environment in {VENV}")
    if made_here:
        shutil.rmtree(VENV)
    VENV.mkdir()
    write_stamp({"made_here": True, "python": None, "installed": {}})  # so that one half made is made again
    if run([sys.executable, "-m", "venv", VENV]):
        raise Failed(
            "no virtual environment could be made (see above); on Debian and Ubuntu install python3-venv, "
            "elsewhere start with an ordinary Python instead of an embedded one."
        )
    folder = own_torch()
    if folder is not None:
        share(python, folder)
    return {"made_here": True, "python": python_version(), "installed": {}}


def own_torch():
    """The folder in which the Python that runs this file has a torch that is new enough, or None."""
    from importlib.metadata import PackageNotFoundError, version  # not in the Pythons that are too old

    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        major, minor = (int(number) for number in version("torch").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return None
    return Path(spec.origin).parent.parent if (major, minor) >= OLDEST_TORCH else None


def share(python: Path, folder: Path) -> None:
    """Let the new environment find that torch, after its own packages.

    --system-site-packages would not do: a Python that is in a virtual environment itself, as ComfyUI's often
    is, hands on the packages of the Python below it.
    """
    say(f"using the torch in {folder}")
    where = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # A line that begins with `import` is run. In ASCII: the encoding of such files depends on the system.
    Path(where.stdout.strip(), "sage_shared_torch.pth").write_text(
        f"import sys; sys.path.append({ascii(str(folder))})\n", encoding="ascii"
    )


def install_torch(python: Path) -> None:
    ways = torch_ways(python)
    for number, (what, commands) in enumerate(ways):
        say(f"installing {what}" if number else f"looking for {what}")
        if not any(run(command, quiet=number == 0) for command in commands):
            return
    raise Failed(
        "torch could not be installed (see above); check the network, or start with a Python that has torch."
    )


def say(text: str) -> None:
    print(f"start.py: {text}", flush=True)


def run(command: list, folder=None, quiet: bool = False) -> int:
    """Exit status of a command. quiet: it may fail, so what it prints is not shown.

    Raises KeyboardInterrupt where Ctrl-C ended it.
    """
    out = subprocess.DEVNULL if quiet else None
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    try:
        process = subprocess.Popen(
            [str(part) for part in command], cwd=folder, env=environment, stdout=out, stderr=out
        )
    except OSError as error:
        raise Failed(
            f"{command[0]} could not be started ({error.strerror}); delete the folder {VENV} and start again."
        ) from error
    status, interrupted = None, False
    while status is None:
        try:
            status = process.wait()
        except KeyboardInterrupt:  # the program heard it too, and ends in its own way
            interrupted = True
    if interrupted and status or status in (-signal.SIGINT, WINDOWS_CTRL_C):
        raise KeyboardInterrupt
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
