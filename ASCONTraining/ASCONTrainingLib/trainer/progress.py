"""How far a training is, how fast it is, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a training is after a step.

    Attributes:
        step: steps done.
        steps: steps of all epochs.
        fraction: of the training that is done, 0..1; of its steps or of its budget, whichever is used up first.
        loss: of the denoiser, in this step.
        learning_rate: of this step.
        images_per_s: since the last mark of the clock.
        left_s: seconds to the end.
    """

    step: int
    steps: int
    fraction: float
    loss: float
    learning_rate: float
    images_per_s: float
    left_s: float


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


def duration(seconds: float) -> str:
    """Whole minutes above two minutes."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
