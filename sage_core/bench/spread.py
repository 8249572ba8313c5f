"""The work of a bench, spread over processes of few threads each.

A small model's layers do not keep two cores busy: two processes of one thread each do far more together than
one of two threads.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SageError

if TYPE_CHECKING:
    from .bench import Plan, Task

MOST = 61  # processes that a pool can wait for on Windows
_models = []  # a process's own, loaded when it starts


def spread(tasks: list[Task], plan: Plan, out: Path, jobs: int, say: Callable[[str], None]) -> None:
    """Do them in `jobs` processes, which share the processor's cores.

    What fails is told when the others are done; what is done is kept. Raises SageError.
    """
    threads, failures = max(1, (os.cpu_count() or 1) // jobs), []
    pool = ProcessPoolExecutor(min(jobs, MOST), multiprocessing.get_context("spawn"), _start, (threads,))
    try:
        for future in as_completed(
            [pool.submit(_do, task, plan, out, not getattr(say, "quiet", False)) for task in tasks]
        ):
            if error := future.exception():
                failures.append(error)
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise SageError(
            f"{len(failures)} of {len(tasks)} parts of the bench failed, the first with: {failures[0]}"
        ) from failures[0]


def _start(threads: int) -> None:
    import torch

    from ..models import load_model

    torch.set_num_threads(threads)
    _models.append(load_model("demo"))


def _do(task: Task, plan: Plan, out: Path, loud: bool) -> None:
    from ..progress import Progress
    from .bench import work

    work(_models[0], task, plan, out, Progress(quiet=not loud))
