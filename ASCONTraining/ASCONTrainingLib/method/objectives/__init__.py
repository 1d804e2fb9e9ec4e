"""The training objectives, one per file: ASCON's own and those of the methods that the paper compares with."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ASCONTrainingLib.config.settings import OBJECTIVE_NAMES
from ASCONTrainingLib.method.objective import Objective, TrainingContext

OBJECTIVES: dict[str, Callable[[TrainingContext], Objective]] = {
    name: import_module(f"{__name__}.{name}").make for name in OBJECTIVE_NAMES
}
"""The setting `objective` -> what makes it: `make` of the file of that name."""
