"""What a training would take: it is set up, takes two steps with images of each size, and is thrown away."""

from __future__ import annotations

import io
import math
import os
import shutil
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ASCONDenoiseLib.errors import is_out_of_memory
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.batches import BatchLoader, Stage
from ASCONTrainingLib.trainer import trainer as training
from ASCONTrainingLib.trainer import validation
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.training_state import Learner

CHECKPOINTS = 3
"""last.pt, best.pt, and one that is being written."""


@dataclass(frozen=True)
class StageTime:
    """What a stage of growth would take: `steps` of `step_s` seconds on batches of `batch` images of `sides` pixels."""

    images: int
    sides: tuple[int, int]
    batch: int
    steps: int
    step_s: float


@dataclass(frozen=True)
class DryRun:
    """What a training would take. Times in seconds, memory and files in bytes (None: cannot be told here)."""

    data: str
    device: str
    stages: tuple[StageTime, ...]
    budget_s: float | None
    validations: int
    validation_s: float
    peak_bytes: int | None
    memory_bytes: int | None
    checkpoint_bytes: int
    disk_bytes: int

    @property
    def total_s(self) -> float:
        """Of all steps and validations, or the budget; neither reading nor saving keeps the steps waiting."""
        steps_s = sum(stage.steps * stage.step_s for stage in self.stages)
        return min(steps_s + self.validations * self.validation_s, self.budget_s or math.inf)

    def text(self) -> str:
        """A line for each thing that was checked."""
        memory = "not known here" if self.peak_bytes is None else f"{_gb(self.peak_bytes)} of {_gb(self.memory_bytes)}"
        images = ", then ".join(f"{s.images} of {s.sides[1]}x{s.sides[0]}, {s.batch} a step" for s in self.stages)
        steps = ", ".join(f"{stage.steps} steps of {stage.step_s:.3f} s" for stage in self.stages)
        validations = f", {self.validations} validations of {self.validation_s:.1f} s" if self.validations else ""
        lines = {
            "data": f"{self.data}; training images: {images}",
            "memory": f"{memory} on {self.device}",
            "disk": f"{_gb(CHECKPOINTS * self.checkpoint_bytes)} for checkpoints, {_gb(self.disk_bytes)} free",
            "time": f"about {training.duration(self.total_s)}: {steps}{validations}",
        }
        return "\n".join(f"{name:8}{line}" for name, line in lines.items())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_s": self.total_s}


def dry_run(config: TrainConfig, data: Path, run: Path, *, device: str = "auto") -> DryRun:
    """Check settings, data, disk and memory, and take two steps with images of each size, for nothing; writes nothing.

    Raises as `training.fit`; TrainingError also where the disk has no room for the checkpoints.
    """
    data, run = Path(data), Path(run)
    processes = Processes(device)
    try:
        index, stages = training.open_set(config, data, processes)
        learner = Learner(config, processes)
        times = _stage_times(config, stages, learner)
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
        epochs = sum(time.steps / stage.batches.steps for time, stage in zip(times, stages, strict=True))
        return DryRun(
            data=str(index),
            device=str(processes.device),
            stages=times,
            budget_s=60 * config.minutes if config.minutes else None,
            validations=math.ceil(epochs / config.validate_every) if slices is not None else 0,
            validation_s=validation_s,
            checkpoint_bytes=checkpoint_bytes,
            disk_bytes=disk_bytes,
            **_memory(processes.device),
        )
    finally:
        processes.leave()


def _stage_times(config: TrainConfig, stages: list[Stage], learner: Learner) -> tuple[StageTime, ...]:
    """Steps of each stage and their time, tried out; a budget, where it is too short for all epochs, is shared out."""
    epochs = Counter(training.stage_at(stages, epoch / config.epochs) for epoch in range(config.epochs))
    times = []
    for number, stage in enumerate(stages):
        step_s = _seconds_of_a_step(learner, BatchLoader(stage, 0, 0, 0, learner.device))
        sides = tuple(stage.items[0][0].shape[-2:])
        steps = epochs[number] * stage.batches.steps
        times.append(StageTime(len(stage.items), sides, stage.batches.batch, steps, step_s))
    budget_s = 60 * config.minutes if config.minutes else math.inf
    if budget_s < sum(time.steps * time.step_s for time in times):
        ends = [*(stage.begins for stage in stages[1:]), 1.0]
        parts_s = [budget_s * (end - stage.begins) for end, stage in zip(ends, stages, strict=True)]
        times = [replace(t, steps=max(1, round(part_s / t.step_s))) for t, part_s in zip(times, parts_s, strict=True)]
    return tuple(times)


def _seconds_of_a_step(learner: Learner, feed: BatchLoader) -> float:
    """Of the second step: the first one allocates and chooses kernels besides."""
    for _ in range(2):
        ldct, ndct = feed.next()
        began = time.monotonic()
        try:
            learner.learn(ldct, ndct, 0.0)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
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
