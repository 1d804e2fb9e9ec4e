"""What a training would take: it is set up, takes two steps, and is thrown away."""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ASCONTrainingLib import training, validation
from ASCONTrainingLib.config import TrainConfig
from ASCONTrainingLib.feed import Feed
from ASCONTrainingLib.learner import Learner
from ASCONTrainingLib.processes import Processes

CHECKPOINTS = 3
"""last.pt, best.pt, and one that is being written."""


@dataclass(frozen=True)
class DryRun:
    """What a training would take. Times in seconds, memory and files in bytes (None: cannot be told here)."""

    data: str
    images: int
    steps: int
    device: str
    step_s: float
    validations: int
    validation_s: float
    peak_bytes: int | None
    memory_bytes: int | None
    checkpoint_bytes: int
    disk_bytes: int

    @property
    def total_s(self) -> float:
        """Of all steps and validations; neither reading nor saving keeps the steps waiting."""
        return self.steps * self.step_s + self.validations * self.validation_s

    def text(self) -> str:
        """A line for each thing that was checked."""
        memory = "not known here" if self.peak_bytes is None else f"{_gb(self.peak_bytes)} of {_gb(self.memory_bytes)}"
        validations = f", {self.validations} validations of {self.validation_s:.1f} s" if self.validations else ""
        lines = {
            "data": f"{self.data}; {self.images} training images",
            "memory": f"{memory} on {self.device}",
            "disk": f"{_gb(CHECKPOINTS * self.checkpoint_bytes)} for checkpoints, {_gb(self.disk_bytes)} free",
            "time": f"about {_duration(self.total_s)}: {self.steps} steps of {self.step_s:.3f} s{validations}",
        }
        return "\n".join(f"{name:8}{line}" for name, line in lines.items())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_s": self.total_s}


def dry_run(config: TrainConfig, data: Path, run: Path, *, device: str = "auto") -> DryRun:
    """Check settings, data, disk and memory and take two steps of a training that is thrown away; writes nothing.

    Raises as `training.fit`; TrainingError also where the disk has no room for the checkpoints.
    """
    data, run = Path(data), Path(run)
    processes = Processes(device)
    try:
        index, items, batches = training.open_set(config, data, processes)
        learner = Learner(config, processes)
        step_s = _seconds_of_a_step(learner, Feed(items, batches, 0, 0, processes.device))
        slices = training.whole_slices(data, index).get("validation")
        validation_s = 0.0
        if slices is not None:
            began = time.monotonic()
            validation.compare(slices, learner.result, device=str(processes.device), limit=1)
            validated = len(validation.evenly_spaced(len(slices), config.validation_slices))
            validation_s = (time.monotonic() - began) * validated
        checkpoint_bytes, disk_bytes = _size(learner.state()), _free(run)
        if disk_bytes < CHECKPOINTS * checkpoint_bytes:
            raise training.TrainingError(
                f"The disk of {run} has {_gb(disk_bytes)} left, and the checkpoints take "
                f"{_gb(CHECKPOINTS * checkpoint_bytes)}: make room, or name another folder."
            )
        steps = config.epochs * batches.steps
        if config.minutes:
            steps = min(steps, max(1, round(60 * config.minutes / step_s)))
        validations = math.ceil(steps / batches.steps / config.validate_every) if slices is not None else 0
        return DryRun(
            data=str(index),
            images=len(items),
            steps=steps,
            device=str(processes.device),
            step_s=step_s,
            validations=validations,
            validation_s=validation_s,
            checkpoint_bytes=checkpoint_bytes,
            disk_bytes=disk_bytes,
            **_memory(processes.device),
        )
    finally:
        processes.leave()


def _seconds_of_a_step(learner: Learner, feed: Feed) -> float:
    """Of the second step: the first one allocates and chooses kernels besides."""
    for _ in range(2):
        ldct, ndct = feed.next()
        began = time.monotonic()
        try:
            learner.learn(ldct, ndct, 0.0)
        except (RuntimeError, MemoryError) as error:
            if not training.is_out_of_memory(error):
                raise
            raise training.TrainingError(training.too_large(ldct)) from error
    return time.monotonic() - began


def _size(state: dict[str, Any]) -> int:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


def _free(folder: Path) -> int:
    """Bytes left where `folder` is or would be."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _memory(device: torch.device) -> dict[str, int | None]:
    """Largest use so far and all there is: of the GPU, else of this process and its machine."""
    if device.type == "cuda":
        return {
            "peak_bytes": torch.cuda.max_memory_reserved(device),
            "memory_bytes": torch.cuda.mem_get_info(device)[1],
        }
    try:
        import resource
    except ImportError:  # Windows
        return {"peak_bytes": None, "memory_bytes": None}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak_bytes": peak, "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def _duration(seconds: float) -> str:
    """Whole minutes above a minute."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
