"""The process that erases: tasks come in as lines of JSON, events and results go out as such.

It ends when its input ends, so that it never outlives the panel. A killed run resumes from its saved state.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from queue import Queue
from typing import Any, TextIO


def main() -> None:
    # Whatever a library prints goes to the log; the pipe is for messages alone.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: Queue[dict[str, Any]] = Queue()
    cancelled = threading.Event()
    threading.Thread(target=_listen, args=(sys.stdin, tasks, cancelled), daemon=True).start()
    _quiet_libraries()
    work(out, tasks, cancelled)


def _listen(lines: TextIO, tasks: Queue, cancelled: threading.Event) -> None:
    for line in lines:
        message = json.loads(line)
        if "cancel" in message:
            cancelled.set()
        else:
            cancelled.clear()
            tasks.put(message["task"])
    os._exit(0)  # the panel has gone


def _quiet_libraries() -> None:
    import logging

    for name in ("diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def work(out: TextIO, tasks: Queue, cancelled: threading.Event) -> None:
    """Do the tasks as they come, for ever."""
    from ..errors import Cancelled, SageError, one_line

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    shelf: dict[str, Any] = {}  # what is kept in memory between two tasks
    while True:
        task = tasks.get()
        try:
            from .tasks import do

            say({"result": do(task, shelf, lambda event: say({"event": event}), cancelled.is_set)})
        except Cancelled:
            say({"cancelled": True})
        except SageError as error:
            say({"error": str(error)})
        except Exception as error:  # whatever it is, the page says it and the next task is done
            import traceback

            traceback.print_exc()
            words = f"{type(error).__name__}: {one_line(error)}"
            say({"error": f"That failed unexpectedly ({words}); what was printed is in worker.log."})
