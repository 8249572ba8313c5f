"""The history: every run is a folder with run.json in it, written whole. The queue is the runs that wait."""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import SageError
from ..files import parse_json, write_text

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
ACTIVE = (WAITING, RUNNING)
KINDS = ("erase", "join", "words", "attack")
MOST = 1000  # runs that are kept
NAME = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{16}")  # nobody guesses the last part


@dataclass(frozen=True)
class Run:
    """One task of the queue.

    Args:
        id: the folder's name; in the order of time.
        kind: "erase", "join" (several erasures as one file), "words" (search the domain) or "attack".
        model: as the list of models names it; source: its path, or "demo".
        spec: the erasure, as ErasureSpec.to_json has it; empty for "join".
        parts: ids of the runs that are joined, or of the one that is attacked. file: the LoRA that is
            attacked.
        message: one sentence about how it ended, or why it waits.
        result: what the task returned.
    """

    id: str
    kind: str
    model: str
    source: str
    spec: dict[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    file: str = ""
    status: str = WAITING
    message: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def title(self) -> str:
        """The concept, in words for a list."""
        concept = self.spec.get("concept", "")
        return {
            "join": "all together",
            "words": f"words for {concept}",
            "attack": f"red team: {concept}",
        }.get(self.kind, concept)

    def same_work(self, other: Run) -> bool:
        """Whether both would do the same."""
        names = ("kind", "source", "spec", "parts", "file")
        return all(getattr(self, name) == getattr(other, name) for name in names)


def new_id() -> str:
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    return f"{stamp}-{int(now % 1 * 1e6):06d}-{secrets.token_hex(8)}"


class Store:
    """The folder of all runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def place(self, run_id: str) -> Path:
        """The folder of a run. Raises SageError for what is no run's name."""
        if not isinstance(run_id, str) or not NAME.fullmatch(run_id):
            raise SageError(f"There is no run {str(run_id)[:60]!r}; choose one of the history.")
        return self.folder / run_id

    def write(self, run: Run) -> None:
        text = json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False)
        write_text(self.place(run.id) / "run.json", text)

    def read_all(self) -> list[Run]:
        """In the order of time. A folder that cannot be read is left alone and not listed."""
        found = []
        for path in sorted(self.folder.glob("*/run.json"))[-MOST:]:
            try:
                data = parse_json(path.read_text(encoding="utf-8"))
                run = Run(**{**data, "parts": tuple(data.get("parts", ()))})
            except (OSError, TypeError, ValueError):
                continue
            if run.id == path.parent.name and NAME.fullmatch(run.id) and run.kind in KINDS:
                found.append(run)
        return found

    def remove(self, run_id: str) -> None:
        """Its reports and pictures; LoRA files are not in here."""
        shutil.rmtree(self.place(run_id), ignore_errors=True)
