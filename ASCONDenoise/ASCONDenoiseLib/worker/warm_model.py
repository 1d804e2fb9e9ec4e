"""What the worker keeps from one job to the next: torch, and the model that was used last."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import find_model, load_network, verify
from ASCONDenoiseLib.worker.job import Job

if TYPE_CHECKING:
    from torch import nn


def import_torch(job: Job) -> None:
    """Imports torch, which takes seconds the first time; the job's answers and times say so."""
    if "torch" not in sys.modules:
        job.answer("stage", stage="torch")
        with job.timed("torch"):
            import torch
    import torch  # noqa: F401, F811 - raises where there is none

    job.check()


class WarmModel:
    """The model that was used last."""

    def __init__(self) -> None:
        self._loaded: tuple[Path, ModelCard, nn.Module] | None = None

    def load(self, job: Job, name: str | None) -> tuple[Path, ModelCard, nn.Module]:
        """Weights file, card and network of a model (None: the default): the warm one where its files are the same.

        Raises:
            InputError: there is no such model, or its files are wrong.
        """
        path = find_model(name).resolve()
        card = verify(path)
        if self._loaded is None or self._loaded[:2] != (path, card):
            import_torch(job)
            job.answer("stage", stage="model")
            self._loaded = None  # frees the old one first
            with job.timed("model"):
                network, card = load_network(path)
            self._loaded = path, card, network
            job.check()
        return self._loaded
