"""The work of a bench, spread over processes of few threads each.

A small model's layers do not keep two cores busy: two processes of one thread each do far more together than
one of two threads.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed

from ..errors import SageError
from ..models import load_model
from ..progress import Progress

MOST = 61  # processes that a pool can wait for on Windows
_models = []  # a process's own, loaded when it starts


def spread(tasks: list, work: Callable[..., None], jobs: int, quiet: bool) -> None:
    """Do the tasks in `jobs` processes, which share the processor's cores.

    work: called with (model, task, say); a function of a module, or a partial of one, so that another process
    finds it. A failure is reported when the others are done; what is done is kept. Raises SageError.
    """
    threads, failures = max(1, (os.cpu_count() or 1) // jobs), []
    pool = ProcessPoolExecutor(min(jobs, MOST), multiprocessing.get_context("spawn"), _start, (threads,))
    try:
        futures = [pool.submit(_do, task, work, quiet) for task in tasks]
        for future in as_completed(futures):
            error = future.exception()
            if error is not None:
                failures.append(error)
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise SageError(
            f"{len(failures)} of {len(tasks)} parts of the bench failed, the first with: {failures[0]}"
        ) from failures[0]


def _start(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _models.append(load_model("demo"))


def _do(task: object, work: Callable[..., None], quiet: bool) -> None:
    work(_models[0], task, Progress(quiet=quiet))
