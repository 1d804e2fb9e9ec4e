"""Hounsfield units: the training window, display windows and tissue ranges. Written once, here."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

Values = TypeVar("Values", bound=Any)
"""An array or a tensor."""

Padding = float | tuple[float, float] | None
"""A value that is padding by the file's own word, or the lowest and the highest of a range of them; None: not known."""

TRAINING_WINDOW_HU = (-1000.0, 2000.0)
"""What the network sees; values outside are clipped before it (paper, section 3.1)."""

PADDING_HU = -1024.0
"""Padding outside the scan circle is stored at -1024 and below."""

NOISY_AIR_HU = (-1016.0, -900.0)
"""Where the median around a voxel lies in here, the voxel is air, however far noise has taken it below -1024."""

NO_NOISE_BELOW_HU = -1500.0
"""Noise takes no air below this; padding of -2000, -2048 or -3024 lies there."""

DISPLAY_WINDOWS_HU = {
    "abdomen": (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-450.0, 1050.0),
    "brain": (0.0, 80.0),
}
"""(lowest, highest) HU shown; abdomen is the paper's window (Fig. 2)."""

TISSUES_HU = {
    "air": (-1024.0, -960.0),
    "lung": (-950.0, -600.0),
    "fat": (-130.0, -60.0),
    "soft tissue": (10.0, 90.0),
    "contrast": (110.0, 280.0),
    "bone": (300.0, 1500.0),
}
"""(lowest, highest) HU of tissues in a smoothed image. The gaps between them hold partial volume."""

SOFT_TISSUE_HU = TISSUES_HU["soft tissue"]


def to_unit(hu: Values) -> Values:
    """Turn HU into the unit range, (HU + 1000) / 3000, without clipping."""
    low, high = TRAINING_WINDOW_HU
    unit: Values = (hu - low) / (high - low)
    return unit


def to_hu(unit: Values) -> Values:
    """Turn the unit range into HU, the inverse of `to_unit`."""
    low, high = TRAINING_WINDOW_HU
    hu: Values = unit * (high - low) + low
    return hu


def clip_to_window(hu: Values) -> Values:
    """Clip HU to the training window."""
    low, high = TRAINING_WINDOW_HU
    clipped: Values = hu.clip(low, high)
    return clipped


def padding_mask(slice_hu: np.ndarray, padding_hu: Padding = None) -> np.ndarray:
    """Return where a slice (H, W) is padding: at `padding_hu`, or at -1024 HU and below unless that is noise.

    The noise of a low dose takes many voxels of air below -1024. To keep those and denoise their brighter neighbours
    would darken the air, so a voxel whose 7x7 neighbourhood has the median of air is air; unless it lies below
    -1500, or two or more of the eight voxels around it have its very value: noise reaches and does that rarely.
    """
    padding: np.ndarray = slice_hu <= PADDING_HU
    rare = padding & (slice_hu > NO_NOISE_BELOW_HU)
    if rare.any():
        reach = 3
        around = np.pad(slice_hu, reach, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(around, (2 * reach + 1, 2 * reach + 1))
        near = windows[:, :, reach - 1 : reach + 2, reach - 1 : reach + 2]
        same = sum((near[:, :, i, j] == slice_hu).view(np.uint8) for i in range(3) for j in range(3)) - 1
        rare &= same < 2
        if rare.any():  # the median lies where more than half of the values do
            half = (2 * reach + 1) ** 2 // 2
            air = (_count(around > NOISY_AIR_HU[0], reach) > half) & (_count(around < NOISY_AIR_HU[1], reach) > half)
            padding[rare & air] = False
    if padding_hu is not None:
        low, high = padding_hu if isinstance(padding_hu, tuple) else (padding_hu, padding_hu)
        padding[(slice_hu >= low) & (slice_hu <= high)] = True
    return padding


def _count(mask: np.ndarray, reach: int) -> np.ndarray:
    """(H + 2 reach, W + 2 reach) -> how many there are within `reach` rows and columns, (H, W)."""
    rows, columns = (side - 2 * reach for side in mask.shape)
    ones = mask.view(np.uint8)
    upright = np.add.reduce([ones[i : i + rows] for i in range(2 * reach + 1)], dtype=np.uint8)
    counts: np.ndarray = np.add.reduce([upright[:, i : i + columns] for i in range(2 * reach + 1)], dtype=np.uint8)
    return counts


def to_gray(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """Turn HU into the gray levels (uint8) of a display window, 0 at its lower and 255 at its upper end."""
    low, high = window_hu
    gray: np.ndarray = np.clip((np.asarray(hu, np.float32) - low) / (high - low), 0, 1) * 255
    return gray.round().astype(np.uint8)
