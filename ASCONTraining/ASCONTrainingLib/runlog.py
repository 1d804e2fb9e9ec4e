"""What a training writes down on its way: log.jsonl, TensorBoard's events, previews; and its clock."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ASCONTrainingLib import checkpoints
from ASCONTrainingLib.checkpoints import CheckpointError

LOG = "log.jsonl"


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
            checkpoints.write_whole(self.path, kept.encode())
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("tensorboard is not installed, so there are no events for it; the log and the previews are there")
        else:
            self._writer = SummaryWriter(str(folder), purge_step=step + 1)  # events of steps that come again

    def write(self, row: dict[str, Any]) -> None:
        """One line. Raises CheckpointError where it cannot be written."""
        if self.active:
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
            checkpoints.write_whole(self.previews / f"{step:07}.png", data.getvalue())
            if self._writer is not None:
                self._writer.add_image("LDCT, denoised, NDCT, difference", row[None], step)

    def close(self) -> None:
        if self._writer is not None:
            with self._disk(self.path.parent):
                self._writer.close()

    @staticmethod
    @contextmanager
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
