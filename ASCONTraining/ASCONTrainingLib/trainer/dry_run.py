"""What a training would take: it is set up, takes two steps with images of each size, and is discarded."""

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

from ASCONDenoiseLib.errors import Failure
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.batches import BatchLoader, Stage
from ASCONTrainingLib.trainer import validation
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.progress import duration
from ASCONTrainingLib.trainer.stages import open_stages, stage_at
from ASCONTrainingLib.trainer.training_state import TrainingState

CHECKPOINTS = 3
"""last.pt, best.pt, and one that is being written."""


@dataclass(frozen=True)
class StageTime:
    """What a stage would take.

    Attributes:
        images: training images.
        sides: their (rows, columns).
        batch: images per step.
        steps: number of steps.
        step_s: seconds that one takes.
    """

    images: int
    sides: tuple[int, int]
    batch: int
    steps: int
    step_s: float


@dataclass(frozen=True)
class DryRun:
    """What a training would take.

    Attributes:
        data: patients and slices of the set.
        device: where it would run.
        stages: what each takes.
        budget_s: seconds after which it ends; None: no budget.
        validations: their number.
        validation_s: seconds that one takes.
        peak_bytes: memory in use at most; None: not known here.
        memory_bytes: memory of the device; None: not known here.
        checkpoint_bytes: size of one checkpoint.
        disk_bytes: free space where they would lie.
    """

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
        """Of all steps and validations, or the budget; the steps wait neither for reading nor for saving."""
        steps_s = sum(stage.steps * stage.step_s for stage in self.stages)
        return min(steps_s + self.validations * self.validation_s, self.budget_s or math.inf)

    def text(self) -> str:
        """A line for each thing that was checked."""
        memory = "not known here"
        if self.peak_bytes is not None and self.memory_bytes is not None:
            memory = f"{_gb(self.peak_bytes)} of {_gb(self.memory_bytes)}"
        images = ", then ".join(f"{s.images} of {s.sides[1]}x{s.sides[0]}, {s.batch} a step" for s in self.stages)
        steps = ", ".join(f"{stage.steps} steps of {stage.step_s:.3f} s" for stage in self.stages)
        validations = f", {self.validations} validations of {self.validation_s:.1f} s" if self.validations else ""
        lines = {
            "data": f"{self.data}; training images: {images}",
            "memory": f"{memory} on {self.device}",
            "disk": f"{_gb(CHECKPOINTS * self.checkpoint_bytes)} for checkpoints, {_gb(self.disk_bytes)} free",
            "time": f"about {duration(self.total_s)}: {steps}{validations}",
        }
        return "\n".join(f"{name:8}{line}" for name, line in lines.items())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total_s": self.total_s}


def dry_run(config: TrainConfig, data: Path, run: Path, *, device: str = "auto") -> DryRun:
    """Check settings, data, disk and memory, and take two steps with images of each size; writes nothing.

    Args:
        config: settings of the training.
        data: folder of the prepared set.
        run: folder that the training would have.
        device: as of `trainer.fit`.

    Raises:
        InputError: the settings or the set cannot be used.
        Failure: there is not enough memory, or the disk has no room for the checkpoints.
    """
    data, run = Path(data), Path(run)
    processes = Processes(device)
    try:
        index, stages = open_stages(config, data, processes)
        state = TrainingState(config, processes)
        if config.initial is not None:
            state.begin_with(config.initial)
        times = _stage_times(config, stages, state)
        slices = validation.slices_of(data, index).get("validation")
        validation_s = 0.0
        if slices is not None:
            began = time.monotonic()
            validation.compare(slices, state.denoiser, device=str(processes.device), limit=1)
            validated = len(validation.evenly_spaced(len(slices), config.validation_slices))
            validation_s = (time.monotonic() - began) * validated
        checkpoint_bytes, disk_bytes = _size(state.state_dict()), _free(run)
        if disk_bytes < CHECKPOINTS * checkpoint_bytes:
            raise Failure(
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


def _stage_times(config: TrainConfig, stages: list[Stage], state: TrainingState) -> tuple[StageTime, ...]:
    """Steps of each stage and their measured time; a budget too short for all epochs is divided among the stages."""
    epochs = Counter(stage_at(stages, epoch / config.epochs) for epoch in range(config.epochs))
    times = []
    for number, stage in enumerate(stages):
        step_s = _seconds_of_a_step(state, BatchLoader(stage, 0, 0, 0, state.device))
        height, width = stage.items[0][0].shape[-2:]
        steps = epochs[number] * stage.batches.steps
        times.append(StageTime(len(stage.items), (height, width), stage.batches.batch, steps, step_s))
    budget_s = 60 * config.minutes if config.minutes else math.inf
    if budget_s < sum(time.steps * time.step_s for time in times):
        ends = [*(stage.begins for stage in stages[1:]), 1.0]
        parts_s = [budget_s * (end - stage.begins) for end, stage in zip(ends, stages, strict=True)]
        times = [replace(t, steps=max(1, round(part_s / t.step_s))) for t, part_s in zip(times, parts_s, strict=True)]
    return tuple(times)


def _seconds_of_a_step(state: TrainingState, loader: BatchLoader) -> float:
    """Of a second step, as at the end of the training, when all losses count; a first one allocates besides."""
    for fraction_done in (0.0, 0.999):
        ldct, ndct = loader.next()
        began = time.monotonic()
        state.train_step(ldct, ndct, fraction_done)
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
    """Largest use so far and all that exists: of the GPU, else of this process and its machine."""
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
