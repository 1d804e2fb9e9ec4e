"""The client of the worker process: JSON lines over QProcess. ASCONDenoiseLib/worker is the other side."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

Listener = Callable[[dict], None]
"""Gets each event of a job: a dictionary whose "event" says what it is."""

KILL_AFTER_MS = 2000
"""A worker ends within a second when its input closes; one that hangs is killed after this time."""

_ending: dict[int, tuple[Any, Any]] = {}
"""Processes that were told to end, each with the timer that kills it; kept until they have ended."""

_quitting: list[bool] = []
"""Not empty once Slicer quits."""


class WorkerClient:
    """Sends jobs to a worker process and passes its answers on. The first job starts the process.

    The process ends with Slicer, or when it has had nothing to do for some minutes.

    Attributes:
        idleMinutes: after which the process ends.
        process: the QProcess; None while none runs.
        pid: of the Python that works, below Slicer's launcher.
    """

    def __init__(self, idleMinutes: float = 10):
        self.idleMinutes = idleMinutes
        self.process: Any = None
        self.pid = 0
        self._pending: dict[int, tuple[Listener, dict]] = {}  # by the request's number, until its last event
        self._requests = 0
        self._unread = b""
        self._idle = False

    def request(self, listener: Listener, **message: Any) -> int:
        """Sends a job and returns its number. The last event that the listener gets is a result, error or cancelled."""
        self._requests += 1
        self._pending[self._requests] = listener, message
        if self.process is None:
            self._start()
        self._send(id=self._requests, **message)
        return self._requests

    def cancel(self, job: int) -> None:
        """Asks the worker to end a job, whose listener hears of it. Does nothing for a job that has ended already."""
        if job in self._pending:
            self._send(command="cancel", job=job)

    def stop(self, reason: str) -> None:
        """Tells the process to end, and waits for nothing. Jobs under way fail."""
        process, self.process = self.process, None
        self._fail(reason)
        if process is not None:
            _letEnd(process)

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

    def _send(self, **message: Any) -> None:
        if self.process is not None:
            self.process.write((json.dumps(message) + "\n").encode())

    def _onOutput(self, process: qt.QProcess) -> None:
        if process is not self.process:
            return
        *lines, self._unread = (self._unread + process.readAllStandardOutput().data()).split(b"\n")
        for event in filter(None, map(_event, lines)):
            if event["event"] == "ready":
                self.pid = event["pid"]
            if event["event"] == "ending":
                self._idle = event["reason"] == "idle"
            waiting = self._pending.get(event.get("id", 0))
            if event["event"] in ("result", "error", "cancelled"):
                self._pending.pop(event["id"], None)
            if waiting is not None:
                waiting[0](event)

    def _onMessages(self, process: qt.QProcess) -> None:
        for line in process.readAllStandardError().data().decode(errors="replace").splitlines():
            logging.info("ASCON worker: %s", line)

    def _onEnd(self, process: qt.QProcess) -> None:
        if process is not self.process or process.state() != qt.QProcess.NotRunning:
            return
        self._onOutput(process)
        self.process = None
        process.deleteLater()
        if self._idle:  # jobs that were sent while it ended go to a new process
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
        """Tells all listeners in the event loop's next turn, so that none is called before its request returns."""
        pending, self._pending = self._pending, {}
        for listener, _message in pending.values():
            qt.QTimer.singleShot(0, lambda listener=listener: listener({"event": "error", "message": message}))


def _letEnd(process: qt.QProcess) -> None:
    """Closes the input of a process, and kills it where that does not end it soon.

    Killing ends only PythonSlicer's launcher; the Python below it ends when its input closes.
    """
    timer = qt.QTimer()
    _ending[id(process)] = process, timer

    def onEnd() -> None:
        if process and process.state() == qt.QProcess.NotRunning and _ending.pop(id(process), None) is not None:
            timer.stop()
            process.deleteLater()

    process.finished.connect(onEnd)
    process.errorOccurred.connect(onEnd)  # where it cannot be started, that alone is said
    timer.setSingleShot(True)
    timer.timeout.connect(lambda: process.kill())
    timer.start(KILL_AFTER_MS)
    process.closeWriteChannel()
    if _quitting:
        _awaitEnd(process)
    onEnd()  # it may have ended already


def _awaitEnd(process: qt.QProcess) -> None:
    """When Slicer quits, no event loop turns any more."""
    if not process.waitForFinished(100):
        process.kill()
        process.waitForFinished(100)


def _onQuit() -> None:
    _quitting.append(True)
    for process, _timer in list(_ending.values()):
        _awaitEnd(process)


slicer.app.connect("aboutToQuit()", _onQuit)


def _event(line: bytes) -> dict | None:
    """Reads a line from the worker; logs what is no event, which its start-up or a launcher wrote, and returns None."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict) and "event" in event:
        return event
    if line.strip():
        logging.info("ASCON worker: %s", line.decode(errors="replace").rstrip())
    return None
