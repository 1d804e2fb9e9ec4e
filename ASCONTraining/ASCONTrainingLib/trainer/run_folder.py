"""The files of a training: checkpoints that survive a crash, log.jsonl, TensorBoard's events, previews; and its clock.

Files are written beside, flushed to the disk, then renamed. A checkpoint is a dictionary of tensors, numbers and texts;
nothing else is loaded, so none can run code.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

LOG = "log.jsonl"


class CheckpointError(RuntimeError):
    """A file of the training cannot be written or read; the text says which, why, and what to do."""


def write_whole(path: Path, data: bytes) -> None:
    """`data` as the file `path`, which holds its old content or all of the new one at any moment, even in a power cut.

    Raises CheckpointError where it cannot be written; the old file is then as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written ({error.strerror or error}). Make room on the disk, or its folder writable."
        ) from error


def _sync_folder(folder: Path) -> None:
    """The renaming itself on the disk, where the system can do that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(state: dict[str, Any], *paths: Path) -> None:
    """A checkpoint, written to each of `paths`; errors as in `write_whole`."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for path in paths:
        write_whole(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Raises CheckpointError where it is missing or damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"There is no checkpoint {path}.") from None
    except Exception as error:  # torch has no class of its own for damaged files
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {reason}). "
            "Continue from another one: copy best.pt to last.pt, or start again in another folder."
        ) from error


# ------------------------------------------------------------------------------------------------------------ log


class Clock:
    """Seconds of training, those of earlier sessions included, and images per second since the last mark."""

    def __init__(self, used_s: float, step: int):
        self._before, self._started = used_s, time.monotonic()
        self._mark = (self._started, step)

    @property
    def session_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def used_s(self) -> float:
        return self._before + self.session_s

    def mark(self, step: int) -> None:
        self._mark = (time.monotonic(), step)

    def images_per_s(self, step: int, batch: int) -> float:
        since, first = self._mark
        return (step - first) * batch / max(time.monotonic() - since, 1e-9)


class RunLog:
    """log.jsonl, TensorBoard's events where that is installed, and the previews. Lines after `step` are taken back."""

    def __init__(self, folder: Path, step: int, active: bool, say: Callable[[str], None]):
        self.path, self.previews, self.active, self._writer = folder / LOG, folder / "previews", active, None
        if not active:
            return
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = "".join(line + "\n" for line in lines if _step_of(line) <= step)
            write_whole(self.path, kept.encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("tensorboard is not installed, so there are no events for it; the log and the previews are there")
        else:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)  # events of steps that come again

    def write(self, row: dict[str, Any]) -> None:
        """One line; what is not finite is null in it. Raises CheckpointError where it cannot be written."""
        if self.active:
            row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
            with self._disk(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def scalars(self, values: dict[str, float], step: int) -> None:
        if self._writer is not None:
            with self._disk(self.path.parent):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def preview(self, row: Any, step: int) -> None:
        """An image (H, W) uint8 as previews/STEP.png and as an event."""
        if not self.active:
            return
        from PIL import Image

        with self._disk(self.previews):
            self.previews.mkdir(exist_ok=True)
            data = io.BytesIO()
            Image.fromarray(row).save(data, "png")
            write_whole(self.previews / f"{step:07}.png", data.getvalue())
            if self._writer is not None:
                self._writer.add_image("LDCT, denoised, NDCT, difference", row[None], step)

    def close(self) -> None:
        if self._writer is not None:
            with self._disk(self.path.parent):
                self._writer.close()

    @staticmethod
    @contextlib.contextmanager
    def _disk(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written ({error.strerror or error}). Make room on the disk."
            ) from error


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # half a line, from a crash
