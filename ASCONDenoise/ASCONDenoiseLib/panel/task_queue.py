"""Tasks of the panel: work that is done in pieces, one task at a time, so that Slicer's main thread stays free."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.errors import Cancelled, Failure
from ASCONDenoiseLib.panel.worker_client import WorkerClient

Work = Generator[Any, Any, Any]
"""An operation of scene/operations.py: it yields after each piece of work, or a job, whose result it gets."""

OnProgress = Callable[["Task", dict], None]
"""Gets a task and an event of the worker."""

OnEnd = Callable[["Task", Any, Exception | None], None]
"""Gets a task and its result, or None and the error that ended it."""


class Pending:
    """What a script holds of a task that it started.

    Attributes:
        done: whether the task has ended, or was cancelled before it began.
        result: what it made; None before the end and where it failed.
        error: what ended it; None where nothing did.
    """

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self._callbacks: list[Callable[[Pending], None]] = []

    def wait(self) -> Any:
        """Turns the event loop until the end; returns the result, or raises the error."""
        while not self.done:
            slicer.app.processEvents()
            time.sleep(0.002)
        if self.error is not None:
            raise self.error
        return self.result

    def whenDone(self, callback: Callable[[Pending], None]) -> None:
        """Calls `callback` with this object at the end; at once, if that has come."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def end(self, result: Any, error: Exception | None) -> None:
        """For the queue: the task has ended."""
        self.done, self.result, self.error = True, result, error
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


class Task:
    """Runs one operation: its pieces between the turns of the event loop, its jobs in the worker.

    Attributes:
        kind: "denoise", "several", "anatomy", "blend", "difference", "measure", "inspect", "map", "report", "save" or
            "sample".
        nodes: the nodes that the task cannot do without.
        cancelling: the reason, once the task was asked to end.
        begun: whether the job under way is past importing torch and loading the model.
    """

    def __init__(
        self, kind: str, work: Work, nodes: Sequence, worker: WorkerClient, onProgress: OnProgress, onEnd: OnEnd
    ):
        self.kind = kind
        self.nodes = nodes
        self.cancelling = ""
        self.begun = False
        self._work = work
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._job: int | None = None  # number of the job that is under way in the worker
        self._over = False
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._turn)
        self._timer.start(0)

    def cancel(self, reason: str) -> None:
        """Ends the task at once, or before the worker's next batch; when asked a second time, by ending the worker."""
        again, self.cancelling = bool(self.cancelling), reason
        if self._job is None:
            self._advance(self._work.throw, Cancelled(reason))
        elif again or not self.begun or self.kind == "measure":
            self._worker.stop(reason)
        else:
            self._worker.cancel(self._job)

    def close(self) -> None:
        """Ends the task here and now, and tells nobody."""
        self._over = True
        self._timer.stop()
        self._work.close()

    def _turn(self) -> None:
        self._advance(self._work.send, None)

    def _advance(self, step: Callable[[Any], Any], value: Any) -> None:
        try:
            job = step(value)
        except StopIteration as end:
            self._end(end.value, None)
        except Exception as error:
            self._end(None, error)
        else:
            if isinstance(job, dict):
                self._timer.stop()
                self.begun = False
                self._job = self._worker.request(self._onEvent, **job)
            else:
                self._timer.start(0)

    def _onEvent(self, event: dict) -> None:
        if self._over:
            return
        if event["event"] == "result" and not self.cancelling:
            self._job = None
            self._advance(self._work.send, event)
        elif event["event"] in ("result", "cancelled", "error"):
            self._job = None
            error = Cancelled(self.cancelling) if self.cancelling else Failure(event.get("message", ""))
            self._advance(self._work.throw, error)
        else:
            self.begun |= event["event"] == "started"
            self._onProgress(self, event)

    def _end(self, result: Any, error: Exception | None) -> None:
        self._over = True
        self._timer.stop()
        self._timer.deleteLater()
        self._onEnd(self, result, error)


class Tasks:
    """Runs one task at a time. What is asked for later cancels what is under way, and waits for its end.

    Attributes:
        worker: keeps torch and the model in memory between tasks.
        measuringWorker: measures without torch, in a process of its own, so that no click waits for the numbers.
        current: the task that is under way, or None.
    """

    def __init__(self, onProgress: OnProgress, onEnd: OnEnd):
        self.worker = WorkerClient()
        self.measuringWorker = WorkerClient(idleMinutes=1)
        self.current: Task | None = None
        self._pending = Pending()  # of the current task
        self._next: tuple[str, Work, Sequence, Pending] | None = None  # what to start when the current task has ended
        self._onProgress = onProgress
        self._onEnd = onEnd

    def start(self, kind: str, work: Work, nodes: Sequence) -> Pending:
        """Starts a task, or has it wait in place of one that waited already. A series that is being saved is finished.

        Args:
            kind: see Task.
            work: what to do.
            nodes: the nodes that it cannot do without; None among them counts for nothing.

        Returns:
            What tells of the end.
        """
        pending = Pending()
        if self.current is None:
            self._begin(kind, work, nodes, pending)
        else:
            self._drop(_("Something else was asked for."))
            self._next = kind, work, nodes, pending
            if self.current.kind != "save" and not self.current.cancelling:
                self.current.cancel(_("Something else was asked for."))
        return pending

    def _begin(self, kind: str, work: Work, nodes: Sequence, pending: Pending) -> None:
        worker = self.measuringWorker if kind in ("measure", "inspect", "report") else self.worker
        nodes = [node for node in nodes if node is not None]
        self._pending = pending
        self.current = Task(kind, work, nodes, worker, self._onProgress, self._onTaskEnd)

    def _drop(self, reason: str) -> None:
        """Gives up what waits for its turn."""
        following, self._next = self._next, None
        if following is not None:
            following[3].end(None, Cancelled(reason))

    def busy(self, *kinds: str) -> bool:
        """Whether a task (of one of these kinds) is under way or waits for its turn."""
        tasks = [self.current.kind] if self.current is not None else []
        tasks += [self._next[0]] if self._next is not None else []
        return any(not kinds or kind in kinds for kind in tasks)

    def cancel(self, reason: str) -> None:
        """Ends what is under way, at the worker's next batch at the latest."""
        self._drop(reason)
        if self.current is not None:
            self.current.cancel(reason)

    def wait(self) -> None:
        """Turns the event loop until there is nothing left to do."""
        while self.current is not None:
            slicer.app.processEvents()
            time.sleep(0.002)

    def close(self) -> None:
        """Ends the workers and what they do, and tells only who waits for it."""
        self._drop("")
        for worker in (self.worker, self.measuringWorker):
            worker.stop("")
        if self.current is not None:
            self.current.close()
            self.current = None
            self._pending.end(None, Cancelled(""))

    def _onTaskEnd(self, task: Task, result: Any, error: Exception | None) -> None:
        self.current = None
        pending = self._pending
        following, self._next = self._next, None
        if following is not None:
            self._begin(*following)
        self._onEnd(task, result, error)
        pending.end(result, error)
