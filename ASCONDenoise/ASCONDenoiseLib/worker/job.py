"""One job of the worker: its request, the line to the one who asked, and what it writes."""

from __future__ import annotations

import contextlib
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ASCONDenoiseLib.checked_json import FieldError, from_json
from ASCONDenoiseLib.errors import Cancelled, Failure, InputError
from ASCONDenoiseLib.io.atomic import remove_partial

REPORT_EVERY_S = 0.1

TEXT = {"wanted": "a text"}
"""Metadata of a field that is a path: in JSON it is a text."""

T = TypeVar("T")


class Job:
    """One request, what it has made so far, and the line to the one who asked: `answer(event, **facts)`.

    Attributes:
        id: as requested.
        command: as requested.
        outputs: files and folders that are removed unless the job ends well.
        unfinished: a folder that io is writing: what there is of it is removed when the process must end.
        times: seconds that parts of it took, by name.
    """

    def __init__(self, request: dict[str, Any], answer: Callable[..., None]):
        self.id = request["id"]
        self.command = request["command"]
        self.outputs: list[Path] = []
        self.unfinished: Path | None = None
        self.times: dict[str, float] = {}
        self._answer = answer
        self._values = {name: value for name, value in request.items() if name not in ("id", "command")}
        self._cancel = threading.Event()
        self._first_report: tuple[float, int] | None = None
        self._last_report = -math.inf

    def request(self, cls: type[T]) -> T:
        """The values of the request, each checked against its field of the dataclass `cls`; null is as good as none.

        Raises:
            InputError: a value is missing, unknown or makes no sense.
        """
        try:
            return from_json(cls, {name: value for name, value in self._values.items() if value is not None})
        except FieldError as error:
            if error.problem == "unknown":
                raise InputError(f'The job "{self.command}" knows no "{error.name}". Restart Slicer.') from None
            raise InputError(
                f'The job "{self.command}" needs {error.wanted} for "{error.name}"; got {error.value!r}.'
            ) from None

    def answer(self, event: str, **facts: Any) -> None:
        """Sends a line about this job."""
        self._answer(event, id=self.id, **facts)

    def cancel(self) -> None:
        """May be called in any thread."""
        self._cancel.set()

    def cancelled(self) -> bool:
        return self._cancel.is_set()

    def check(self) -> None:
        """Raises Cancelled where the job is."""
        if self.cancelled():
            raise Cancelled

    def progress(self, done: int, total: int) -> None:
        """Reports; raises Cancelled where the job is."""
        self.check()
        now = time.monotonic()
        if self._first_report is None:
            self._first_report = now, done
        if now - self._last_report < REPORT_EVERY_S and done < total:
            return
        self._last_report = now
        since, before = self._first_report  # the first slice pays for what happens once
        left = (now - since) / (done - before) * (total - done) if done > before else None
        self.answer("progress", done=done, total=total, seconds_left=left)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds of a block to `times`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.times[name] = self.times.get(name, 0.0) + time.monotonic() - started

    def new_output(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """A new memory-mapped .npy file; it is removed unless the job ends well.

        Raises:
            Failure: it cannot be written.
        """
        needed = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            free = shutil.disk_usage(path.parent).free
            if free < needed:  # a mapped file that outgrows the disk kills the process
                raise Failure(
                    f"The folder {path.parent} has {free / 1e6:.0f} MB free, and {needed / 1e6:.0f} MB are needed. "
                    "Make room, or choose another temporary folder in Slicer's settings."
                )
            self.outputs.append(path)
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        except OSError as error:
            reason = error.strerror or "unknown reason"
            raise Failure(f"{path} cannot be written ({reason}). See that its folder is there, then retry.") from None

    def remove_outputs(self) -> None:
        if self.unfinished is not None:
            remove_partial(self.unfinished)
        for path in self.outputs:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # Windows keeps a file that is still mapped
                path.unlink(missing_ok=True)


def read_voxels(path: Path) -> np.ndarray:
    """The volume (S, H, W) in a .npy file, memory-mapped and read-only.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        voxels = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"The voxels {path} are gone. Start again.") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"The voxels {path} cannot be read ({error}). Start again.") from None
    if voxels.ndim != 3 or 0 in voxels.shape or voxels.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {voxels.dtype} of shape {voxels.shape}, not a CT volume of numbers.")
    return voxels
