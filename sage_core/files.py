"""Files that appear whole or not at all, and names that cannot leave their folder."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path

from .errors import SageError

RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10)), *(f"lpt{i}" for i in range(1, 10))}


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then move it to its name in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise SageError(f"{path} could not be written ({error.strerror or error}); check the folder and the free space.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def slug(text: str) -> str:
    """Letters, digits and hyphens of a concept, for a file's name."""
    return re.sub(r"[^\w]+", "-", text).strip("-_")[:60] or "concept"


def output_path(folder: Path, name: str, suffix: str = ".safetensors") -> Path:
    """`folder`/`name`, refused where the name would leave the folder or cannot be a file on every system."""
    plain = name.replace("\\", "/")
    parts = plain.removesuffix(suffix).split("/")
    bad = next((p for p in parts if p in ("", ".", "..") or p.lower().split(".")[0] in RESERVED or re.search(r'[<>:"|?*\x00-\x1f]', p) or p != p.strip(" .")
                or len(p.encode()) > 200), None)
    if bad is not None or plain.startswith("/"):
        raise SageError(f"The output name {name[:80]!r} is not usable as a file inside {folder} (part {bad!r}); use letters, digits, spaces, - and _.")
    path = folder.joinpath(*parts[:-1], parts[-1] + suffix)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise SageError(f"The output name {name[:80]!r} leads out of {folder}; give a plain name.")
    return path
