"""Folders that the panel may read and write, and what lies in them.

A page names a model or a LoRA by its label, and only what is listed is taken: no path comes from a browser.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import SageError, shown
from ..files import write_atomically

BUNDLED, BUNDLED_FLOW = "bundled model", "bundled flow transformer"
DEEPEST = 3  # folders below a models folder
MOST = 2000  # files of a list


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Host:
    """What the program around the panel does; all of it may be left out.

    Args:
        title: what it is called in sentences.
        loaded: the checkpoint that it has loaded, or None.
        before, after: around the work on a model: its own model leaves the memory, and comes back.
        saved: a LoRA is there.
        keeps: whether the worker, and with it the model, stays in memory between two runs.
    """

    title: str = ""
    loaded: Callable[[], Path | None] = _nothing
    before: Callable[[], object] = _nothing
    after: Callable[[], object] = _nothing
    saved: Callable[[Path], object] = lambda path: None
    keeps: bool = True


@dataclass(frozen=True)
class Places:
    """home: runs and uploads. loras: where LoRAs are written. models: folders with checkpoints.

    most_uploaded: bytes of an upload.
    """

    home: Path
    loras: Path
    models: tuple[Path, ...] = ()
    host: Host = field(default_factory=Host)
    most_uploaded: int = 512_000_000

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def uploads(self) -> Path:
        return self.home / "uploads"

    def list_models(self) -> dict[str, str]:
        """Label: source, the loaded checkpoint first, the bundled ones last."""
        found: dict[str, str] = {}
        loaded = self.host.loaded()
        if loaded is not None:
            found[f"{loaded.name} (loaded)"] = str(loaded)
        for folder in self.models:
            for path in _walk(folder):
                label = path.relative_to(folder).as_posix()
                found.setdefault(label if label not in found else f"{label} ({folder.name})", str(path))
        return found | {BUNDLED: "demo", BUNDLED_FLOW: "demo-flow"}

    def model(self, label: object) -> str:
        """The source of a listed model. Raises SageError."""
        models = self.list_models()
        if not isinstance(label, str) or label not in models:
            raise SageError(f"There is no model {shown(label)} in the list; press Refresh and choose one.")
        return models[label]

    def list_loras(self) -> dict[str, Path]:
        """Label: file; those that were opened from elsewhere last."""
        found = {}
        for folder, after in ((self.loras, ""), (self.uploads, " (opened)")):
            paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else []
            for path in paths[:MOST]:
                found[path.relative_to(folder).as_posix() + after] = path
        return found

    def lora(self, label: object) -> Path:
        """A listed LoRA file. Raises SageError."""
        loras = self.list_loras()
        if not isinstance(label, str) or label not in loras:
            raise SageError(f"There is no LoRA {shown(label)} in the list; press Refresh and choose one.")
        return loras[label]

    def keep_upload(self, name: str, content: bytes) -> str:
        """Store an uploaded LoRA that can be read as one; its label. Raises SageError for anything else.

        The name on disk is a plain part of the given one and the content's hash, so that no upload replaces
        another.
        """
        from ..files import slug
        from ..lora.file import read_lora

        if not name.lower().endswith(".safetensors"):
            raise SageError(
                f"{shown(name)} is not a .safetensors file; only that format is read, and nothing is"
                " unpickled."
            )
        stem = slug(Path(name.replace("\\", "/")).stem)
        path = self.uploads / f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}.safetensors"
        trial = path.with_name(f"trial-{path.name}")
        write_atomically(trial, lambda p: p.write_bytes(content))
        try:
            read_lora(trial)
            os.replace(trial, path)
        except SageError as error:
            raise SageError(str(error).replace(trial.name, name)) from error
        finally:
            trial.unlink(missing_ok=True)
        return f"{path.name} (opened)"


def _walk(folder: Path) -> list[Path]:
    """Checkpoints and diffusers folders below a folder; LoRAs and half files are not among them."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root)
        if "model_index.json" in files:
            found.append(here)
            folders.clear()
            continue
        deep = len(here.relative_to(folder).parts) >= DEEPEST
        folders[:] = [] if deep else sorted(f for f in folders if not f.startswith((".", "_")))
        found += [here / f for f in sorted(files) if f.endswith(".safetensors") and _is_large(here / f)]
        if len(found) > MOST:
            break
    return found[:MOST]


def _is_large(path: Path, least: int = 500 * 1024 * 1024) -> bool:
    """Whether it can be a whole checkpoint: the smallest has 1.7 GB in half precision, a LoRA far less."""
    try:
        return path.stat().st_size >= least
    except OSError:
        return False
