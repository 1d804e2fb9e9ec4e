"""The files of a training: checkpoints that survive a crash, log.jsonl, TensorBoard's events and previews.

Files appear complete or not at all, and are on the disk before they have their names. A checkpoint is a dictionary of
tensors, numbers and texts; nothing else is loaded, so none can run code.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ASCONDenoiseLib.errors import Failure, InputError, WriteError
from ASCONDenoiseLib.io.atomic import atomic_file, remove_partial

LAST, BEST, CONFIG, RESULTS, LOG = "last.pt", "best.pt", "config.json", "results.json", "log.jsonl"


def make_folder(folder: Path) -> None:
    """Make the folder of a training; what a killed one was writing is removed. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}): name another folder.") from None
    for name in (LAST, BEST, CONFIG, RESULTS, LOG):
        remove_partial(folder / name)


def write(path: Path, data: bytes) -> None:
    """Replace a file. Raises WriteError."""
    with atomic_file(path, fsync=True) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Replace a file. Raises WriteError."""
    write(path, (json.dumps(value, indent=1) + "\n").encode())


def save_checkpoint(state: dict[str, Any], *paths: Path) -> None:
    """Write a checkpoint to each of `paths`. Raises WriteError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    for path in paths:
        write(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU. Raises Failure where it is missing or damaged."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise Failure(f"There is no checkpoint {path}.") from None
    except Exception as error:  # torch has no class of its own for damaged files
        reason = (str(error).splitlines() or [""])[0]
        raise Failure(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {reason}). "
            "Continue from another one: copy best.pt to last.pt, or start again in another folder."
        ) from error
    return state


class RunLog:
    """log.jsonl, TensorBoard's events where that is installed, and the previews.

    Args:
        folder: of the training.
        step: the last one that is kept; lines of later steps are removed.
        active: whether this process writes them.
        say: takes a sentence.
    """

    def __init__(self, folder: Path, step: int, active: bool, say: Callable[[str], None]):
        self.path, self.previews, self.active = folder / LOG, folder / "previews", active
        self._writer: Any = None
        if not active:
            return
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            write(self.path, "".join(line + "\n" for line in lines if _step_of(line) <= step).encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("tensorboard is not installed, so there are no events for it; the log and the previews are there")
        else:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)  # events of steps that come again

    def write(self, row: dict[str, Any]) -> None:
        """Append one line; what is not finite is null in it. Raises WriteError."""
        if self.active:
            row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
            with _disk(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Events for TensorBoard. Raises WriteError."""
        if self._writer is not None:
            with _disk(self.path.parent):
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def preview(self, image: np.ndarray, step: int) -> None:
        """An image (H, W) uint8 as previews/STEP.png and as an event. Raises WriteError."""
        if not self.active:
            return
        from PIL import Image

        with _disk(self.previews):
            self.previews.mkdir(exist_ok=True)
            data = io.BytesIO()
            Image.fromarray(image).save(data, "png")
            write(self.previews / f"{step:07}.png", data.getvalue())
            if self._writer is not None:
                self._writer.add_image("LDCT, denoised, NDCT, difference", image[None], step)

    def close(self) -> None:
        """Write what TensorBoard's events still hold back. Raises WriteError."""
        if self._writer is not None:
            with _disk(self.path.parent):
                self._writer.close()


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} could not be written ({error.strerror or error}). Make room on the disk.") from error


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # half a line, from a crash
