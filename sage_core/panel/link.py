"""The other end of the worker's pipe: one process that holds the model, so that the page never waits for it.

The worker can be another Python than this one: a host whose libraries are too old for erasing still shows
the panel.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import Cancelled, SageError

ROOT = Path(__file__).parents[2]  # what holds sage_core
START = "import sys; sys.path.insert(0, sys.argv[1]); from sage_core.panel.worker import main; main()"
GRACE = 20.0  # seconds after Cancel, until the process is ended
OWN_PYTHON = "SAGE_ERASE_PYTHON"


def own_python() -> Path:
    """Of the environment that start.py makes."""
    return ROOT / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def worker_python() -> str:
    """The Python that erases: the one that the variable names, this one where it can, or that of .venv.

    Raises SageError where none can.
    """
    from .needs import missing

    if named := os.environ.get(OWN_PYTHON):
        return named
    lacking = missing()
    if lacking and not own_python().exists():
        raise SageError(
            f"Erasing needs newer packages than this Python has ({'; '.join(lacking)}); run once in {ROOT}:"
            " python start.py demo"
        )
    return str(own_python()) if lacking else sys.executable


class Worker:
    """One process; started when it is needed. `run` is called from one thread, `cancel` from any."""

    def __init__(self, log: Path, python: str | None = None):
        self.log, self.python = log, python
        self.process: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()

    def start(self) -> None:
        """Start the process if it is not running. Raises SageError where that fails."""
        if self.process is not None and self.process.poll() is None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [self.python or worker_python(), "-c", START, str(ROOT)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    encoding="utf-8",
                    env=environment,
                )
        except OSError as error:
            raise SageError(
                f"The Python that erases could not be started ({command[0]}: {error.strerror}); run start.py"
                " panel once, or set the variable SAGE_ERASE_PYTHON."
            ) from error

    def run(self, task: dict[str, Any], on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Do the task. Raises SageError with the worker's sentence, and Cancelled."""
        self.start()
        self._send({"task": task})
        if self._cancelled.is_set():  # before it began
            self._send({"cancel": True})
        process = self.process
        assert process is not None and process.stdout is not None
        for line in process.stdout:
            try:
                message = json.loads(line)
            except ValueError:  # half a line of a process that was killed
                continue
            if "event" in message:
                on_event(message["event"])
            elif "cancelled" in message:
                raise Cancelled
            elif "error" in message:
                raise SageError(message["error"])
            elif "result" in message:
                return message["result"]
        status = process.wait()
        if self._cancelled.is_set():
            raise Cancelled
        raise SageError(
            f"The process that erases ended by itself (status {status}{self._last_words()}); press Resume to"
            f" continue. What it printed is in {self.log}."
        )

    def cancel(self) -> None:
        """Stop the task within one pass of the UNet; end the process where that takes longer than GRACE."""
        process = self.process
        self._cancelled.set()
        if process is None or process.poll() is not None:
            return
        self._send({"cancel": True})

        def end() -> None:
            if self._cancelled.is_set() and self.process is process and process.poll() is None:
                process.kill()

        timer = threading.Timer(GRACE, end)
        timer.daemon = True
        timer.start()

    def ready(self) -> None:
        """Before a task is shown as running: a cancel that came too late for the one before ends nothing."""
        self._cancelled.clear()

    def close(self) -> None:
        """End the process; whatever it holds in memory is free then."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()  # it ends where its input ends
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)

    def _send(self, message: dict[str, Any]) -> None:
        pipe = None if self.process is None else self.process.stdin
        try:
            if pipe is not None:
                pipe.write(json.dumps(message) + "\n")
                pipe.flush()
        except (OSError, ValueError):
            pass  # it has ended, which whoever reads from it says

    def _last_words(self) -> str:
        """The last line that the process printed, for the sentence."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return f", {lines[-1][:200]!r}" if lines else ""
