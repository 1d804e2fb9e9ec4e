"""What the tests of trainings share: comparing checkpoints, reading logs, interrupting, child programs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ASCONTrainingLib.data.batches import Batches, BatchLoader, Stage
from ASCONTrainingLib.data.training_set import TrainingSet
from ASCONTrainingLib.trainer.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
CPU = "cpu"


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two checkpoints differ in a single bit; seconds used are no part of the comparison."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = (a.keys() | b.keys()) - {"used_s"}
        return [d for key in sorted(keys, key=str) for d in differences(a.get(key), b.get(key), f"{place}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{place}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    return [] if type(a) is type(b) and a == b else [place]


def fingerprint(folder: Path, name: str) -> str:
    """That of a volume of `make_set`, as set_index.scan_fingerprints describes it."""
    middle = np.load(folder / f"{name}.ndct.npy")[2]
    return hashlib.sha256(b"64x64:" + middle.tobytes()).hexdigest()[:16]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def a_loader(a_set: Path) -> BatchLoader:
    return BatchLoader(Stage(0.0, TrainingSet(a_set, "train", 32), Batches(100, 2)), 0, 0, 0, torch.device(CPU))


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of the log that have a column `kind`."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in line]


def interrupt_at(step: int) -> Callable[[Progress], None]:
    """Ctrl-C while this step is under way."""

    def progress(now: Progress) -> None:
        if now.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


def child(program: str, *arguments: object) -> list[str]:
    """The command line of a child program in Testing/training/trainer."""
    return [sys.executable, str(ROOT / "Testing" / "training" / "trainer" / program), *map(str, arguments)]


def child_environment(**settings: object) -> dict[str, str]:
    """The environment in which a child program finds both packages and the fixtures."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("ASCONDenoise", "ASCONTraining", "Testing"))
    return os.environ | {"PYTHONPATH": paths} | {name: str(value) for name, value in settings.items()}
