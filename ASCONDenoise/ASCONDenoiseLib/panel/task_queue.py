"""The child process, and work that is done in pieces: what keeps Slicer's main thread free."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _


class Cancelled(RuntimeError):
    """The user cancelled, or what was worked on is gone; the text says which."""


class Worker:
    """The child process: JSON lines over QProcess. The first request starts it; it ends with Slicer, or when idle."""

    def __init__(self, idleMinutes=10):
        self.idleMinutes = idleMinutes
        self.process = None
        self.pid = 0  # of the Python that works, below Slicer's launcher
        self._pending = {}  # request -> (listener, message)
        self._requests = 0
        self._unread = b""
        self._idle = False

    def request(self, listener, **message) -> int:
        """Sends a job; the listener gets its events, of which "result", "error" or "cancelled" is the last."""
        self._requests += 1
        self._pending[self._requests] = listener, message
        if self.process is None:
            self._start()
        self._send(id=self._requests, **message)
        return self._requests

    def cancel(self, job: int) -> None:
        """Asks for the end of a job; its listener hears of it. A job that is over already is left alone."""
        if job in self._pending:
            self._send(command="cancel", job=job)

    def stop(self, reason: str) -> None:
        """Ends the process: it does so by itself when its input closes. Jobs under way fail, for the reason given."""
        process, self.process = self.process, None
        self._fail(reason)
        if process is not None:
            process.closeWriteChannel()
            if not process.waitForFinished(100):
                process.kill()  # of PythonSlicer only the launcher; the rest ends with its input
                process.waitForFinished(100)
            process.deleteLater()

    def _start(self) -> None:
        environment = qt.QProcessEnvironment.systemEnvironment()
        paths = [str(Path(__file__).resolve().parents[2]), environment.value("PYTHONPATH", "")]
        environment.insert("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        process = self.process = qt.QProcess()
        self._unread, self._idle = b"", False
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(lambda: self._onOutput(process))
        process.readyReadStandardError.connect(lambda: self._onMessages(process))
        process.errorOccurred.connect(lambda: self._onEnd(process))
        process.finished.connect(lambda: self._onEnd(process))
        process.start(sys.executable, ["-m", "ASCONDenoiseLib.worker", "--idle-minutes", str(self.idleMinutes)])

    def _send(self, **message) -> None:
        if self.process is not None:
            self.process.write((json.dumps(message) + "\n").encode())

    def _onOutput(self, process) -> None:
        if process is not self.process:
            return
        *lines, self._unread = (self._unread + process.readAllStandardOutput().data()).split(b"\n")
        for event in filter(None, map(_event, lines)):
            if event["event"] == "ready":
                self.pid = event["pid"]
            if event["event"] == "ending":
                self._idle = event["reason"] == "idle"
            listener, _message = self._pending.get(event.get("id"), (None, None))
            if event["event"] in ("result", "error", "cancelled"):
                self._pending.pop(event["id"], None)
            if listener is not None:
                listener(event)

    def _onMessages(self, process) -> None:
        for line in process.readAllStandardError().data().decode(errors="replace").splitlines():
            logging.info("ASCON worker: %s", line)

    def _onEnd(self, process) -> None:
        if process is not self.process or process.state() != qt.QProcess.NotRunning:
            return
        self._onOutput(process)
        self.process = None
        process.deleteLater()
        if self._idle:  # what was sent while it ended gets another one
            pending, self._pending = self._pending, {}
            for listener, message in pending.values():
                self.request(listener, **message)
        elif process.error() == qt.QProcess.FailedToStart:
            self._fail(_("{program} could not be started. Reinstall Slicer.").format(program=sys.executable))
        else:
            self._fail(
                _(
                    "The worker process ended unexpectedly (code {code}): it was killed, or memory ran out. "
                    "The scene is as before. Close other programs, then try again."
                ).format(code=process.exitCode())
            )

    def _fail(self, message: str) -> None:
        """Tells all who wait, in the event loop's next turn: who asks is not called back before its request returns."""
        pending, self._pending = self._pending, {}
        for listener, _message in pending.values():
            qt.QTimer.singleShot(0, lambda listener=listener: listener({"event": "error", "message": message}))


def _event(line: bytes) -> dict | None:
    """What the worker says; None, and into the log, for what its start-up or a launcher wrote to the same stream."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "event" in event:
        return event
    if line.strip():
        logging.info("ASCON worker: %s", line.decode(errors="replace").rstrip())
    return None


class Task:
    """One of steps.py's generators at work: pieces between the turns of the event loop, jobs in the worker."""

    def __init__(self, kind, work, nodes, worker, onProgress, onEnd):
        self.kind = kind
        self.nodes = nodes  # what it cannot do without
        self.cancelling = ""  # the reason, once there is one
        self._work = work
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._job = None  # the worker's, while one is under way
        self._begun = False  # whether that is past importing torch and loading the model
        self._over = False
        self._timer = qt.QTimer()
        self._timer.timeout.connect(self._turn)
        self._timer.start(0)

    def cancel(self, reason: str) -> None:
        """Ends the task: at once, or before the worker's next batch. A second time: by ending the worker."""
        again, self.cancelling = bool(self.cancelling), reason
        if self._job is None:
            self._advance(self._work.throw, Cancelled(reason))
        elif again or not self._begun or self.kind == "measure":
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

    def _advance(self, step, value) -> None:
        try:
            job = step(value)
        except StopIteration as end:
            self._end(end.value, None)
        except Exception as error:
            self._end(None, error)
        else:
            if isinstance(job, dict):
                self._timer.stop()
                self._begun = False
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
            error = Cancelled(self.cancelling) if self.cancelling else RuntimeError(event.get("message", ""))
            self._advance(self._work.throw, error)
        else:
            self._begun |= event["event"] == "started"
            self._onProgress(self, event)

    def _end(self, result, error) -> None:
        self._over = True
        self._timer.stop()
        self._timer.deleteLater()
        self._onEnd(self, result, error)


class Tasks:
    """One task at a time, and the workers; what is asked for later cancels what is under way, and waits for its end."""

    def __init__(self, onProgress, onEnd):
        self.worker = Worker()
        self.counter = Worker(idleMinutes=1)  # for the numbers, without torch: they keep no click waiting
        self.current = None
        self._next = None  # arguments of the task that starts when this one has ended
        self._onProgress = onProgress
        self._onEnd = onEnd

    def start(self, kind, work, nodes) -> None:
        """Starts a task, or has it wait; one that waited already is dropped. What is being saved is waited for."""
        if self.current is not None:
            self._next = kind, work, nodes
            if self.current.kind != "save" and not self.current.cancelling:
                self.current.cancel(_("Something else was asked for."))
            return
        worker = self.counter if kind == "measure" else self.worker
        nodes = [node for node in nodes if node is not None]
        self.current = Task(kind, work, nodes, worker, self._onProgress, self._ended)

    def busy(self, *kinds: str) -> bool:
        """Whether a task (of one of these kinds) is under way or waits for its turn."""
        tasks = [self.current.kind] if self.current is not None else []
        tasks += [self._next[0]] if self._next is not None else []
        return any(not kinds or kind in kinds for kind in tasks)

    def cancel(self, reason: str) -> None:
        """Ends what is under way, at the worker's next batch at the latest."""
        self._next = None
        if self.current is not None:
            self.current.cancel(reason)

    def wait(self) -> None:
        """Returns when there is nothing left to do; the event loop goes on."""
        while self.current is not None:
            slicer.app.processEvents()
            time.sleep(0.002)

    def close(self) -> None:
        """Ends the workers and what they do, and tells nobody."""
        self._next = None
        for worker in (self.worker, self.counter):
            worker.stop("")
        if self.current is not None:
            self.current.close()
        self.current = None

    def _ended(self, task, result, error) -> None:
        self.current = None
        following, self._next = self._next, None
        if following is not None:
            self.start(*following)
        self._onEnd(task, result, error)
