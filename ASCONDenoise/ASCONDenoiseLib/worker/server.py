"""The child process that does the work: JSON lines in on stdin, JSON lines out on stdout, the model kept warm.

    PythonSlicer -m ASCONDenoiseLib.worker [--idle-minutes 10]     (PYTHONPATH holds the folder of ASCONDenoiseLib)

One JSON object a line, ASCII, both ways. stdout carries nothing else: what libraries print goes to stderr, with the
log, which names nothing about a patient. Voxels travel as .npy files (`numpy.load(path, mmap_mode="r")`), (S, H, W) in
HU; geometry stays where it is.

The first line out is {"event": "ready", "protocol": 1, "version": ..., "pid": ...}; torch is not yet imported by then.
`pid` is that of the Python that works, below Slicer's launcher.

JOBS have an `id` (any number or text, unlike those under way), a `command` and the fields of its request in `jobs`;
a field that has a default may be null or left out. They are done one at a time, in order.

ANSWERS to a job, each with its id; the last is one of result, cancelled and error:
  {"event": "stage", "stage": "torch" | "model" | "embedding"}   what takes long: the import and the model before the
                                    start, and left out where they are warm; t-SNE after all slices of `cluster`
  {"event": "started", "device": "cuda:0 NVIDIA H100"}   device: jobs that use torch
  {"event": "progress", "done": 3, "total": 300, "seconds_left": 4.2}   at most ten a second; seconds_left may be null
  {"event": "result", "times": {"total": ..., "torch"?: , "model"?: , "work": ...}, ...}   and what the function in
                                    `jobs` returns; null: infinite or not defined
  {"event": "cancelled"}, {"event": "error", "message": sentences for the user, "refused"?: true}   refused: bad
                                    input, which another try would not make better

A COMMAND that is no job, and gets no answer of its own:
  {"command": "cancel", "job": 1}   reaches a running job before its next batch or slice, a waiting one at its turn.
                                    A job that is over stays as it was answered.
A line that makes no sense gets {"id": its id or null, "event": "error", "message": ...}.

THE END. The process ends within a second when stdin closes, in the middle of a job too, and after some idle minutes.
The latter is said by {"event": "ending", "reason": "idle"}. After a fault that may have damaged it (a CUDA error), the
job's error is followed by {"event": "ending", "reason": "fault"}. A job that was sent while it ended has no answer:
start another worker and send it again. `output` is there, complete, when the result is; it is removed on cancel and
error and at the end. Only a killed worker leaves it behind, so the sender makes and removes the folder of these files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import sys
import threading
import time
from typing import Any, BinaryIO

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import AsconError, InputError, is_out_of_memory
from ASCONDenoiseLib.worker.job import Job
from ASCONDenoiseLib.worker.jobs import JOBS
from ASCONDenoiseLib.worker.warm_model import WarmModel

logger = logging.getLogger(__name__)

PROTOCOL = 1

GRACE_S = 0.5
"""How long a running job may take to notice that stdin was closed before the process ends without it."""


class Server:
    """Reads requests in a thread of its own and does the jobs in the main thread."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO, idle_s: float):
        self._requests = requests
        self._answers = answers
        self._idle_s = idle_s
        self._waiting: queue.Queue[Job | None] = queue.Queue()  # None: look whether the end has come
        self._live: dict[Any, Job] = {}  # waiting or running, by id
        self._lock = threading.Lock()  # of _live
        self._writing = threading.Lock()
        self._ending = threading.Event()
        self._finished = threading.Event()
        self._model = WarmModel()

    def run(self) -> None:
        """Works until stdin closes, idleness or a fault."""
        self.answer("ready", protocol=PROTOCOL, version=__version__, pid=os.getpid())
        threading.Thread(target=self._read, daemon=True).start()
        while not self._ending.is_set():
            try:
                job = self._waiting.get(timeout=self._idle_s)
            except queue.Empty:
                self.answer("ending", reason="idle")
                break
            if job is not None and not self._do(job):
                self.answer("ending", reason="fault")
                break
        self._finished.set()

    def end(self) -> None:
        """Cancels everything and ends the process, after GRACE_S at the latest. Not for the main thread."""
        self._ending.set()
        with self._lock:
            live = list(self._live.values())
        for job in live:
            job.cancel()
        self._waiting.put(None)
        if not self._finished.wait(GRACE_S):
            for job in live:
                job.remove_outputs()
        os._exit(0)

    def answer(self, event: str, **facts: Any) -> None:
        """Writes one line. Where nobody reads any more, stdin is closed too, which ends the process."""
        data = json.dumps(_finite({"event": event, **facts}), allow_nan=False).encode() + b"\n"
        with self._writing, contextlib.suppress(OSError):
            self._answers.write(data)
            self._answers.flush()

    # ---- the reading thread

    def _read(self) -> None:
        try:
            for line in self._requests:
                if line.strip():
                    self._take(line)
        finally:  # whatever has happened, a worker that hears nothing must not live on
            self.end()

    def _take(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict):
            return self._refuse(None, "A request to the worker is one JSON object on a line; this was not.")
        command, job_id = request.get("command"), request.get("id")
        if command == "cancel":
            self._cancel(request.get("job"))
        elif not isinstance(command, str) or command not in JOBS:
            self._refuse(job_id, f"The worker knows no command {command!r}. Is it of another version? Restart Slicer.")
        elif not isinstance(job_id, int | str):
            self._refuse(None, f'The job "{command}" has no id that is a number or a text.')
        else:
            job = Job(request, self.answer)
            with self._lock:
                known = self._live.setdefault(job_id, job) is not job
            if known:
                return self._refuse(None, f"There is a job {job_id!r} under way already.")
            self._waiting.put(job)
        return None

    def _refuse(self, job_id: Any, message: str) -> None:
        self.answer("error", id=job_id if isinstance(job_id, int | str) else None, message=message)

    def _cancel(self, job_id: Any) -> None:
        with self._lock:
            jobs = [job for job in self._live.values() if job.id == job_id]
        for job in jobs:
            job.cancel()

    # ---- the main thread

    def _do(self, job: Job) -> bool:
        """Does one job and answers it; False where the process had better not go on."""
        sound, event, facts = True, "error", {}
        started = time.monotonic()
        try:
            job.check()
            request, work = JOBS[job.command]
            facts = work(job, job.request(request), self._model)
            job.check()
            event = "result"
            job.times["total"] = time.monotonic() - started
            facts["times"] = {name: round(seconds, 4) for name, seconds in job.times.items()}
        except Exception as error:
            if job.cancelled():  # whatever else went wrong by then
                event, facts = "cancelled", {}
            else:
                message, sound = _sentence(error)
                event, facts = "error", {"message": message}
                if isinstance(error, InputError):
                    facts["refused"] = True
                if not sound:
                    logger.exception("The job %s failed.", job.command)
        _free_memory()
        if event != "result":  # only here has the error let go of the mapped files
            job.remove_outputs()
        with self._lock:
            del self._live[job.id]
        job.answer(event, **facts)
        return sound


def _free_memory() -> None:
    """Gives back what torch, where a job has loaded it, and the heap keep in reserve: others want it between jobs."""
    devices: Any = sys.modules.get("ASCONDenoiseLib.models.devices")
    if devices is not None:
        with contextlib.suppress(RuntimeError):  # of a GPU that has failed: the job's own error tells that
            devices.free_reserved_memory()


def _sentence(error: Exception) -> tuple[str, bool]:
    """What to tell the user about an error, and whether the process is sound after it."""
    if isinstance(error, AsconError):
        return str(error), True
    if is_out_of_memory(error):
        return "There is not enough memory. Close other programs, or use a machine with more memory.", True
    if isinstance(error, ModuleNotFoundError):
        module = error.name or "that is needed"
        name = {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(module, module)
        return f"The Python package {name} is missing. Install ASCON's packages from its panel, then retry.", True
    if isinstance(error, ImportError):
        return f"A Python package cannot be loaded ({_first_line(error)}). Reinstall it, then restart Slicer.", True
    return f"The work failed unexpectedly ({type(error).__name__}: {_first_line(error)}). Retry, on the CPU say.", False


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0].rstrip(".")


def _finite(value: Any) -> Any:
    """JSON has no infinity: None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
