"""Prepared sets, and a network that trains in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from ASCONDenoiseLib.commands import cli
from ASCONTrainingLib.commands.registration import add_commands
from ASCONTrainingLib.config.settings import LossConfig, MACConfig, OptimizerConfig, TrainConfig
from ASCONTrainingLib.data.background import background_cells
from ASCONTrainingLib.data.set_index import Index, PreparedVolume, write_index

LIMITS = {"train": 0.85, "validation": 0.85, "test": 0.85}


class Tiny(nn.Module):
    """Two convolutions, with the parts of a denoiser."""

    SIDE_MULTIPLE = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.first(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


def make_set(
    folder: Path, splits: tuple[str, ...] = ("train", "validation", "test"), slices: int = 4, side: int = 64
) -> Path:
    """A patient for each of `splits`: smooth anatomy of -100 to 300 HU and white noise of 40 HU."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(7)
    volumes = []
    for number, split in enumerate(splits):
        smooth = gaussian_filter(random.normal(size=(slices, side, side)), (0, 4, 4))
        ndct = np.rint(100 + 100 * smooth / smooth.std()).clip(-900, 1500).astype(np.int16)
        ldct = ndct + np.rint(random.normal(0, 40, ndct.shape)).astype(np.int16)
        name = f"P{number}"
        for what, array in (("ndct", ndct), ("ldct", ldct), ("background", background_cells(ndct))):
            np.save(folder / f"{name}.{what}.npy", array)
        volumes.append(PreparedVolume(name, name, split, ndct.shape, (0.7, 0.7, 3.0), 0.25, f"{name}.nrrd"))
    write_index(Index("simulate", {}, LIMITS, len(volumes), tuple(volumes)), folder)
    return folder


def some_hu(shape: tuple[int, int, int] = (3, 40, 56), seed: int = 0) -> np.ndarray:
    """(S, H, W) int16: air and body in blobs of 4 pixels, so that shares of background vary; beyond the window too."""
    random = np.random.default_rng(seed)
    s, h, w = shape
    blobs = random.random((s, -(-h // 4), -(-w // 4))) < random.random((s, 1, 1))
    air = blobs.repeat(4, 1).repeat(4, 2)[:, :h, :w]
    return np.where(air, random.integers(-1100, -499, shape), random.integers(-499, 2300, shape)).astype(np.int16)


def make_random_set(
    folder: Path,
    volumes: list[tuple],
    kind: str = "paired",
    planned: int | None = None,
    limits: dict[str, float] = LIMITS,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write a set of (name, patient, split, shape, dose) with the voxels of `some_hu`; returns {name: (ldct, ndct)}."""
    folder.mkdir(exist_ok=True)
    entries, arrays = [], {}
    for seed, (name, patient, split, shape, dose) in enumerate(volumes):
        ndct = some_hu(shape, seed)
        ldct = ndct + np.random.default_rng(seed + 100).integers(-50, 51, shape).astype(np.int16)
        for what, array in (("ndct", ndct), ("ldct", ldct), ("background", background_cells(ndct))):
            np.save(folder / f"{name}.{what}.npy", array)
        entries.append(PreparedVolume(name, patient, split, shape, (0.7, 0.7, 1.0), dose, f"there/{name}"))
        arrays[name] = ldct, ndct
    index = Index(kind, {"a": 1}, dict(limits), len(volumes) if planned is None else planned, tuple(entries))
    write_index(index, folder)
    return arrays


VOLUMES = [
    ("a", "A", "train", (4, 40, 56), None),
    ("b", "B", "train", (2, 64, 48), None),
    ("c", "C", "validation", (3, 32, 32), None),
    ("d", "D", "test", (3, 32, 32), None),
]


def tiny_config(**changes: Any) -> TrainConfig:
    """Two epochs of three steps of two patches of 32x32, fp32, without MAC-Net."""
    settings: dict[str, Any] = {
        "preset": "pixel",
        "network": "tiny",
        "mac": None,
        "loss": LossConfig(mse_weight=100.0, ssim_weight=1.0),
        "optimizer": OptimizerConfig(learning_rate=1e-2, betas=(0.9, 0.99), per_epoch=False),
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch": 2,
        "patch": 32,
        "precision": "fp32",
        "workers": 0,
        "validation_slices": 2,
    }
    return TrainConfig(**settings | changes)


SMALL_MAC = MACConfig(global_queries=4, local_queries=16)


TINY = ["--set", "network=tiny", "--set", "mac=null", "--precision", "fp32", "--patch", "32", "--batch", "2"]
SHORT = ["--epochs", "2", "--set", "steps_per_epoch=3", "--workers", "0", "--device", "cpu"]


def ascon(*arguments: object) -> int:
    """The exit code of a command line."""
    return cli.main([str(argument) for argument in arguments], plugins=[add_commands])


def train_tiny(a_set: Path, run: Path, *arguments: object) -> int:
    """The exit code of `ascon train` with the network Tiny, in two epochs of three steps."""
    return ascon(
        "train", "--preset", "pixel", "--set", "doses=null", "--data", a_set, "--out", run, *TINY, *SHORT, *arguments
    )
