"""The queue: one thread that hands one run after the other to the worker. Pages ask it and never wait for it.

The queue and the history are on disk. A run that was running when the panel was killed is queued again at
the next start, and resumes from its saved state.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

from ..errors import Cancelled, SageError, one_line
from ..files import remove
from .link import Worker
from .places import Places
from .runs import CANCELLED, DONE, FAILED, RUNNING, WAITING, Run, Store, new_id

MOST_WAITING = 50


class Engine:
    """One for each home folder, whatever number of pages looks at it. All methods may be called from any
    thread.
    """

    def __init__(self, places: Places, python: str | None = None):
        self.places, self.store = places, Store(places.runs)
        self.worker = Worker(places.home / "worker.log", python)
        self._changed = threading.Condition()  # holds all that follows
        self._runs: dict[str, Run] = {}
        self._live: dict[str, Any] = {}
        self._stopping = False
        for run in self.store.read_all():
            if run.status == RUNNING:
                run = dataclasses.replace(run, status=WAITING, message="resumes after the panel was stopped")
                self.store.write(run)
            self._runs[run.id] = run
        self._thread = threading.Thread(target=self._work, name="sage-queue", daemon=True)

    def start(self) -> Engine:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread and the worker. A run that was running resumes at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.worker.close()
        if self._thread.is_alive():
            self._thread.join(15)

    # ---- asking ----

    def runs(self) -> list[Run]:
        """The latest first."""
        with self._changed:
            return list(reversed(self._runs.values()))

    def get(self, run_id: str) -> Run:
        """Raises SageError."""
        with self._changed:
            run = self._runs.get(run_id)
        if run is None:
            raise SageError("This run is no longer in the history; choose another one.")
        return run

    def running(self) -> Run | None:
        with self._changed:
            return next((r for r in self._runs.values() if r.status == RUNNING), None)

    def waiting(self) -> list[Run]:
        """In the order in which they are done."""
        with self._changed:
            return [r for r in self._runs.values() if r.status == WAITING]

    def live(self, run_id: str) -> dict[str, Any]:
        """What the worker said last of the running run; empty for any other."""
        with self._changed:
            return dict(self._live) if self._live.get("id") == run_id else {}

    # ---- changing ----

    def submit(
        self, kind: str, model: str, spec: dict | None = None, parts: tuple[str, ...] = (), file: str = ""
    ) -> tuple[Run, bool]:
        """Queue a run: (the run, whether it is new). One that is queued or running is not queued twice.

        model: a label of the list. Raises SageError where it is not listed or the queue is full.
        """
        run = Run(
            new_id(), kind, model, self.places.model(model), spec or {}, parts, file, created=time.time()
        )
        with self._changed:
            active = [r for r in self._runs.values() if r.active]
            twin = next((r for r in active if r.same_work(run)), None)
            if twin is not None:
                return twin, False
            if len(active) >= MOST_WAITING:
                raise SageError(
                    f"{len(active)} runs are queued already; wait until some are done, or cancel them."
                )
            self._put(run)
            return run, True

    def cancel(self, run_id: str) -> Run:
        """Stop a queued or running run. Its state stays, so that it can resume. Raises SageError."""
        with self._changed:
            run = self.get(run_id)
            if run.status == WAITING:
                run = self._put(
                    dataclasses.replace(run, status=CANCELLED, message="Cancelled before it began.")
                )
            elif run.status == RUNNING:
                self._live["text"] = "cancelling"
                self._changed.notify_all()
                self.worker.cancel()
            else:
                raise SageError(f"This run cannot be cancelled: it is {run.status}.")
        return run

    def resume(self, run_id: str) -> Run:
        """Queue a run again that was cancelled or failed. Raises SageError."""
        with self._changed:
            run = self.get(run_id)
            if run.status not in (CANCELLED, FAILED):
                raise SageError(f"There is nothing to resume: this run is {run.status}.")
            if any(r.active and r.same_work(run) for r in self._runs.values()):
                raise SageError("The same erasure is already queued or running.")
            return self._put(dataclasses.replace(run, status=WAITING, message="", result={}))

    def forget(self, run_id: str) -> None:
        """Take a run out of the history. Its LoRA stays. Raises SageError while it is active."""
        with self._changed:
            run = self.get(run_id)
            if run.active:
                raise SageError("This run is queued or running; cancel it first.")
            del self._runs[run_id]
            self._changed.notify_all()
        self.store.remove(run_id)

    # ---- the thread ----

    def _put(self, run: Run) -> Run:
        """Write it first, then show it."""
        self.store.write(run)
        with self._changed:
            self._runs[run.id] = run
            self._changed.notify_all()
        return run

    def _next(self) -> Run | None:
        """The next run, marked as running; None where the panel stops."""
        with self._changed:
            while not self._stopping:
                waiting = self.waiting()
                if waiting:
                    self.worker.ready()
                    self._live = {"id": waiting[0].id, "text": "beginning", "pictures": []}
                    going = dataclasses.replace(waiting[0], status=RUNNING, message="", started=time.time())
                    return self._put(going)
                self._changed.wait()
        return None

    def _work(self) -> None:
        while (run := self._next()) is not None:
            try:
                ended = self._one(run)
            except SageError as error:
                ended = dataclasses.replace(run, status=FAILED, message=str(error))
            except Cancelled:
                sentence = "Cancelled. Resume continues from its last saved state."
                ended = dataclasses.replace(run, status=CANCELLED, message=sentence)
            except Exception as error:  # of a host: the queue continues
                sentence = f"{self.places.host.title or 'The panel'} failed: {one_line(error)}"
                ended = dataclasses.replace(run, status=FAILED, message=sentence)
            if self._stopping:
                return  # it is still marked as running
            try:
                self._put(dataclasses.replace(ended, ended=time.time()))
            except SageError as error:  # the disk is full: it is still shown
                with self._changed:
                    self._runs[run.id] = dataclasses.replace(
                        ended, message=f"{ended.message} {error}".strip()
                    )
                    self._changed.notify_all()

    def _one(self, run: Run) -> Run:
        host = self.places.host
        task = self._task(run)
        try:
            host.before()
            result = self.worker.run(task, self._heard)
        finally:
            if not host.keeps:
                self.worker.close()
            host.after()
        remove(self.store.place(run.id) / "state.resume")
        if "lora" in result:
            host.saved(self.places.loras / result["lora"])
        return dataclasses.replace(run, status=DONE, message="", result=result)

    def _task(self, run: Run) -> dict[str, Any]:
        """What the worker gets. Raises SageError where parts to join are missing."""
        folder = self.store.place(run.id)
        task = {name: getattr(run, name) for name in ("kind", "source", "spec", "file")}
        if run.kind == "join":
            parts = [self.get(part) for part in run.parts]
            if lacking := [p.title for p in parts if p.status != DONE]:
                raise SageError(
                    f"They were not joined: {', '.join(lacking)} did not end well. The other files"
                    " can be used."
                )
            task["files"] = [p.result["lora"] for p in parts]
        return task | {"folder": str(folder), "loras": str(self.places.loras)}

    def _heard(self, event: dict[str, Any]) -> None:
        with self._changed:
            if "picture" in event:
                self._live["pictures"] = [*self._live["pictures"], event["picture"]]
            if event.get("phase") == "look":
                self._live["curve"] = [*self._live.get("curve", []), event["left"]]
            if "phase" not in event:  # a sentence alone
                event = event | {"step": 0, "total": 0}
            cancelling = self._live.get("text") == "cancelling"
            self._live |= event | ({"text": "cancelling"} if cancelling else {})
            self._changed.notify_all()
