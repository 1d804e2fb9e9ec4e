"""Hounsfield units: the training window, display windows and tissue ranges. Written once, here."""

from __future__ import annotations

import numpy as np

TRAINING_WINDOW_HU = (-1000.0, 2000.0)
"""What the network sees; values outside are clipped before it (paper, section 3.1)."""

PRESERVED_BELOW_HU = -1024.0
"""Padding outside the scan circle is stored at -1024 and below; such voxels keep their value."""

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


def to_unit(hu):
    """HU -> unit range, (HU + 1000) / 3000; arrays and tensors alike. Not clipped."""
    low, high = TRAINING_WINDOW_HU
    return (hu - low) / (high - low)


def to_hu(unit):
    """Unit range -> HU, the inverse of `to_unit`."""
    low, high = TRAINING_WINDOW_HU
    return unit * (high - low) + low


def clip_to_window(hu):
    """HU clipped to the training window; arrays and tensors alike."""
    low, high = TRAINING_WINDOW_HU
    return hu.clip(low, high)


def to_gray(hu: np.ndarray, window_hu: tuple[float, float]) -> np.ndarray:
    """HU -> uint8 gray levels of a display window, 0 at its lower and 255 at its upper end."""
    low, high = window_hu
    return np.round(np.clip((np.asarray(hu, np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
