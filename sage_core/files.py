"""Files that appear whole or not at all, names that cannot leave their folder, and one run for a name at a
time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import SageError

MAX_NAME = 1000  # characters of a name with its folders
# Names that are devices on Windows, with any ending; it reads superscript digits too.
DEVICES = {f"{port}{i}" for port in ("com", "lpt") for i in "123456789\u00b9\u00b2\u00b3"}
RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$", *DEVICES}
# On Windows, virus scanners and indexers hold a new file open for a moment.
ATTEMPTS = 20 if os.name == "nt" else 1
PAUSE = 0.05  # seconds between two attempts


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file in a temporary folder beside `path`, flush it to disk, then move it to its name
    in one step, with the rights of any new file. Raises SageError where that fails; what was at `path` before
    is still there then.
    """
    from safetensors import SafetensorError  # what its writer raises on a full disk

    # A folder, because safetensors has a temporary file of its own, under a name that nobody could tell from
    # someone else's
    half = path.with_name(f"{_half(path)}{uuid.uuid4().hex[:8]}.tmp")
    temporary = half / "new"  # without an ending, so that no host lists it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.mkdir()
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        with contextlib.suppress(
            OSError
        ):  # safetensors 0.8 leaves a file that only its owner can read; some disks know no rights
            temporary.chmod(half.stat().st_mode & 0o666)
        _patiently(lambda: os.replace(temporary, path))
    except (OSError, SafetensorError) as error:
        raise SageError(
            f"{path} could not be written ({getattr(error, 'strerror', None) or error}); check the folder and"
            " the free space."
        ) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _half(path: Path) -> str:
    """How the names begin under which `path`, or another file of its stem, is half-written; no other stem's
    begin so.
    """
    return f".{path.stem[:40]}.{hashlib.sha256(os.fsencode(path.stem)).hexdigest()[:8]}."


def _patiently(action: Callable[[], None]) -> None:
    """Try it again while another program has the file open, for a second. Raises PermissionError then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except PermissionError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(PAUSE)


def write_text(path: Path, text: str) -> None:
    """UTF-8, and the same bytes on every system."""
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8", newline="\n"))


def write_picture(image, path: Path) -> None:
    """A PIL image as a PNG file."""
    write_atomically(path, lambda p: image.save(p, "PNG"))


def remove(path: Path) -> bool:
    """Delete a file that is no longer needed; True where it is gone.

    One that another program holds open on Windows stays: a file too many must not fail a run that is done.
    """
    try:
        _patiently(lambda: path.unlink(missing_ok=True))
    except OSError:
        return False
    return True


def parse_json(text: str | bytes) -> object:
    """Raises ValueError for whatever is no JSON, thousands of open brackets included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_room(path: Path, size: int = 0) -> None:
    """Raises SageError where `path` could not be written: its folder is a file or read-only, or less than
    `size` bytes are free. Nothing is left behind.
    """
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or path.is_dir():
        raise SageError(
            f"{path} cannot be written ({path if path.is_dir() else folder} is"
            f" {'a' if path.is_dir() else 'no'} folder); choose another name."
        )
    trial = folder / f"{_half(path)}{uuid.uuid4().hex[:8]}.tmp"
    try:  # os.access knows neither the rights of Windows nor its longest path
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise SageError(
            f"{path} cannot be written ({error.strerror}: the folder {folder} is read-only or not "
            "yours, or the path is too long); choose another one."
        ) from error
    if (free := shutil.disk_usage(folder).free) < size:
        raise SageError(
            f"{path} takes {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free there; free some space or"
            " choose another folder."
        )


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Inside, no other run on this machine makes `path`, and what killed runs left half-written of it is
    gone. Raises SageError where another run is at it. The system ends the claim of a killed process; its file
    lies in the temporary folder.
    """
    from filelock import FileLock, Timeout

    whole = os.path.normcase(path.parent.resolve() / path.name)  # on Windows, Dog and dog are one file
    lock = FileLock(
        Path(tempfile.gettempdir()) / f"sage-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:16]}.lock"
    )
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise SageError(
            f"Another run is making {path} right now; wait until it is done, or choose another name."
        ) from error
    except OSError:  # there is no place for locks, so there is no claim either
        pass
    try:
        for half in path.parent.glob("*.tmp") if path.parent.is_dir() else ():
            if half.name.startswith(_half(path)):
                shutil.rmtree(half, ignore_errors=True)
        yield
    finally:
        lock.release()


def slug(text: str) -> str:
    """Letters, digits and hyphens of a concept, for a file's name."""
    return re.sub(r"[^\w]+", "-", text).strip("-_")[:60] or "concept"


def output_path(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    """`folder`/`name`, refused where the name would leave the folder or cannot be a file on every system."""
    plain = name.replace("\\", "/")
    parts = plain.removesuffix(suffix).split("/")
    bad = next((p for p in parts if _unusable(p)), None)
    if bad is not None or plain.startswith("/") or len(plain) > MAX_NAME:
        part = "" if bad is None else f" (part {bad[:80]!r})"
        raise SageError(
            f"The output name {name[:80]!r} is not usable as a file inside {folder}{part}; use letters,"
            " digits, spaces, - and _."
        )
    path = folder.joinpath(*parts[:-1], parts[-1] + suffix)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise SageError(f"The output name {name[:80]!r} leads out of {folder}; give a plain name.")
    return path


def _unusable(part: str) -> bool:
    """Whether a system cannot have a file or folder of that name; Windows' rules are the strictest."""
    device = part.lower().split(".")[0].rstrip(" ") in RESERVED
    strange = re.search(r'[<>:"|?*\x00-\x1f]', part) is not None
    return part in ("", ".", "..") or device or strange or part != part.strip(" .") or _too_long(part)


def _too_long(part: str) -> bool:
    """For a file system, which counts bytes; halves of characters are not text and do not have any."""
    try:
        return len(part.encode()) > 200
    except UnicodeEncodeError:
        return True
