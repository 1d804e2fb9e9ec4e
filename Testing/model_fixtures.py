"""Model cards, model files and networks whose output is known, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

_A_CARD = ModelCard(
    name="A test model",
    version="0.1",
    architecture="esau_net",
    settings={},
    window_hu=(-1000.0, 2000.0),
    preset="none",
    training_data=["nothing", "at all"],
    dose="0.25, simulated",
    date="2025-06-01",
    licence="Apache-2.0",
    intended_use="Tests.",
    limits=["knows nothing"],
    scope=Scope(),
    metrics={},
)


def a_card(**changes: Any) -> ModelCard:
    """A card of an ESAU-Net, with other values for the fields in `changes`."""
    return replace(_A_CARD, **changes)


def a_random_model(path: Path, seed: int = 0, **changes: Any) -> ModelCard:
    """Writes an ESAU-Net with random weights, the same for each seed; `changes` are for its card, which it returns."""
    torch.manual_seed(seed)
    return save_model(ESAUNet(), a_card(**changes), path)


class PointNetwork(nn.Module):
    """Applies a function to each voxel, and writes down what came in."""

    SIDE_MULTIPLE = 8

    def __init__(self, function=lambda x: x):
        super().__init__()
        self.function = function
        self.batches: list[int] = []
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32 and x.shape[1] == 1 and x.shape[2] % 8 == x.shape[3] % 8 == 0
        assert not torch.is_grad_enabled() and not self.training
        self.batches.append(len(x))
        self.inputs.append(x.clone())
        return self.function(x)


def adds(hu: float) -> PointNetwork:
    return PointNetwork(lambda x: x + hu / 3000)


def a_noisy_volume(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Soft tissue with air, padding, bone and metal in it."""
    rng = np.random.default_rng(seed)
    volume = rng.normal(40, 20, shape)
    rare = rng.choice([-3024, -2000, -1024, -1023, -1010, -1000, 1500, 1999, 2000, 3071], shape)
    volume = np.where(rng.random(shape) < 0.3, rare, volume)
    if np.dtype(dtype).kind == "u":
        volume = volume.clip(0)
    return (np.rint(volume) if np.dtype(dtype).kind in "iu" else volume).astype(dtype)


def cuda_error() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


SPOT_SIDE = 192


def noise_with_a_spot(height: float) -> np.ndarray:
    """(192, 192), noise as coarse as what denoisers leave, SD 1, and a disc of 7 pixels in the middle."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(SPOT_SIDE, SPOT_SIDE)), 1.5)
    y, x = np.mgrid[:SPOT_SIDE, :SPOT_SIDE] - SPOT_SIDE // 2
    return noise / noise.std() + height * (np.hypot(y, x) <= 3.5)
