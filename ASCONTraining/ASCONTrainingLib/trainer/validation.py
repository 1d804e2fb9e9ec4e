"""Whole slices, with the product's own inference and metrics: how good a network is, its gain, a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ASCONDenoiseLib.imaging import hounsfield, metrics
from ASCONDenoiseLib.models import inference
from ASCONTrainingLib.data.training_set import SlicePair

DIFFERENCE_HU = (-100.0, 100.0)
"""Window of the preview's difference image."""

GAIN_SLICES = 32
"""Training slices that `fitted_gain` looks at."""


def evenly_spaced(count: int, limit: int | None) -> np.ndarray:
    """`limit` of the indices 0 to count - 1, each in the middle of its share; None or more than there are: all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return ((np.arange(limit) + 0.5) * count / limit).astype(int)


def compare(
    pairs: Sequence[SlicePair],
    network: nn.Module | None = None,
    *,
    device: str = "cpu",
    limit: int | None = None,
    name: str = "denoised",
    progress: Callable[[int, int], None] | None = None,
) -> metrics.Comparison:
    """Denoised slices against the NDCT, in the units of the paper's tables; without a network, the LDCT itself.

    As in the paper the LDCT is clipped to the training window first, and the prediction is left as it is. `limit`
    slices, evenly spaced, stand for all.
    """
    chosen = evenly_spaced(len(pairs), limit)
    rows = []
    for done, i in enumerate(chosen, 1):  # one at a time: a test patient has hundreds
        pair = pairs[i]
        image = hounsfield.clip_to_window(pair.ldct_hu[None]).astype(np.float32)
        if network is not None:
            image = _denoised(image, network, device)
        (row,) = metrics.compare(pair.ndct_hu[None], image, clip_test=False).rows
        rows.append(replace(row, index=pair.index))
        if progress is not None:
            progress(done, len(chosen))
    return metrics.Comparison(name, metrics.PAPER, False, tuple(rows))


def _denoised(image_hu: np.ndarray, network: nn.Module, device: str) -> np.ndarray:
    """In fp32: whether bf16 is faithful changes while a network learns, and to ask for each slice takes its time."""
    return inference.denoise(image_hu, network, device=device, precision="fp32").voxels


def fitted_gain(
    pairs: Sequence[SlicePair],
    network: nn.Module,
    *,
    device: str = "cpu",
    limit: int = GAIN_SLICES,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """The factor g on a network G for which x + g G(c) - c is nearest to the NDCT, by least squares in unit range.

    x: LDCT, c: the same clipped to the training window; pixels that lie in the window in both images count, of `limit`
    slices, evenly spaced. Not in the paper: a training in bfloat16, whose rounding fp32 inference does not repeat, has
    been seen to leave an output that is 0.25 % too bright, 2.6 HU in soft tissue.
    """
    low, high = hounsfield.TRAINING_WINDOW_HU
    along, square = 0.0, 0.0
    chosen = evenly_spaced(len(pairs), limit)
    for done, i in enumerate(chosen, 1):
        ldct, ndct = (image.astype(np.float32) for image in (pairs[i].ldct_hu, pairs[i].ndct_hu))
        inside = (ldct > low) & (ldct < high) & (ndct > low) & (ndct < high)
        denoised = _denoised(ldct[None], network, device)[0]
        output, wanted = (hounsfield.to_unit(image[inside].astype(np.float64)) for image in (denoised, ndct))
        along, square = along + output @ wanted, square + output @ output
        if progress is not None:
            progress(done, len(chosen))
    return float(along / square)


def preview(network: nn.Module, pair: SlicePair, *, device: str) -> np.ndarray:
    """A slice as a row LDCT | denoised | NDCT | denoised - NDCT: (H, 4 W) uint8.

    The images in the paper's abdomen window, the difference from -100 to 100 HU.
    """
    ldct, ndct = (image.astype(np.float32) for image in (pair.ldct_hu, pair.ndct_hu))
    denoised = _denoised(ldct[None], network, device)[0]
    window = hounsfield.DISPLAY_WINDOWS_HU["abdomen"]
    images = [hounsfield.to_gray(image, window) for image in (ldct, denoised, ndct)]
    return np.hstack([*images, hounsfield.to_gray(denoised - ndct, DIFFERENCE_HU)])
