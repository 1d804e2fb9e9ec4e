"""The worker of a node: a child process that denoises one series at a time, `ASCONDenoiseLib.worker`.

A fault of the GPU or a lack of memory ends the child, not the node; the next series starts another.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ASCONDenoiseLib
from ASCONDenoiseLib.errors import Cancelled, Failure, InputError

COMMAND = (sys.executable, "-m", "ASCONDenoiseLib.worker", "--idle-minutes", "100000")


class WorkerProcess:
    """Started by the first job. For one thread, but for `cancel` and `end`.

    Args:
        command: other than the usual one.
        log: what it says besides its answers goes there, as `subprocess.Popen` has it; None: standard error.
    """

    def __init__(self, command: tuple[str, ...] | None = None, log: int | None = None):
        self._command = command or COMMAND
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._jobs = 0
        self._writing = threading.Lock()

    @property
    def pid(self) -> int | None:
        """None while there is none."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def do(self, command: str, progress: Callable[[int, int], None], **request: Any) -> dict[str, Any]:
        """Do a job and return its result.

        Raises:
            InputError: the worker refused it.
            Cancelled: `cancel` was called.
            Failure: it failed, or the worker ended.
        """
        self._start()
        self._jobs += 1
        self._send(id=self._jobs, command=command, **request)
        assert self._process is not None and self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.get("id") != self._jobs:
                continue
            if answer["event"] == "progress":
                progress(answer["done"], answer["total"])
            elif answer["event"] == "result":
                return dict(answer)
            elif answer["event"] == "cancelled":
                raise Cancelled
            elif answer["event"] == "error":
                raise (InputError if answer.get("refused") else Failure)(answer["message"])
        code = self._process.wait()
        self._process = None
        raise Failure(f"The worker process ended in the middle of the work (exit code {code}).")

    def cancel(self) -> None:
        """End the job that is being done, if any."""
        self._send(command="cancel", job=self._jobs)

    def end(self) -> None:
        """End the process; a job that it does fails."""
        process = self._process
        if process is not None and process.stdin is not None:
            with self._writing:
                process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()

    def _start(self) -> None:
        if self.pid is not None:
            return
        package = Path(ASCONDenoiseLib.__file__).resolve().parents[1]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

    def _send(self, **message: Any) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with self._writing:
            try:
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
            except (OSError, ValueError):  # it has ended, which `do` notices
                pass
