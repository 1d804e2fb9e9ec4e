"""How good a network is on whole slices, with the product's own inference and metrics; and a picture of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from ASCONDenoiseLib import hounsfield, inference, metrics
from ASCONTrainingLib.datasets import SlicePair

DIFFERENCE_HU = (-100.0, 100.0)
"""Window of the preview's difference image."""


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
            image = inference.denoise(image, network, device=device).voxels
        (row,) = metrics.compare(pair.ndct_hu[None], image, clip_test=False).rows
        rows.append(replace(row, index=pair.index))
        if progress is not None:
            progress(done, len(chosen))
    return metrics.Comparison(name, metrics.PAPER, False, tuple(rows))


def preview(network: nn.Module, pair: SlicePair, *, device: str) -> np.ndarray:
    """A slice as a row LDCT | denoised | NDCT | denoised - NDCT: (H, 4 W) uint8.

    The images in the paper's abdomen window, the difference from -100 to 100 HU.
    """
    ldct, ndct = (image.astype(np.float32) for image in (pair.ldct_hu, pair.ndct_hu))
    denoised = inference.denoise(ldct[None], network, device=device).voxels[0]
    window = hounsfield.DISPLAY_WINDOWS_HU["abdomen"]
    images = [hounsfield.to_gray(image, window) for image in (ldct, denoised, ndct)]
    return np.hstack([*images, hounsfield.to_gray(denoised - ndct, DIFFERENCE_HU)])
