"""Measuring a network on whole slices, with the product's own inference and metrics: quality, gain, a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from ASCONDenoiseLib.imaging import hounsfield, metrics
from ASCONDenoiseLib.models import inference
from ASCONTrainingLib.data.set_index import Index
from ASCONTrainingLib.data.training_set import EvaluationSet, SlicePair, SlicePairs

DIFFERENCE_HU = (-100.0, 100.0)
"""Window of the preview's difference image."""


def slices_of(data: Path, index: Index) -> dict[str, EvaluationSet]:
    """The slices to measure on, of the splits that have patients; opened early, so that a lost file shows at once."""
    return {split: EvaluationSet(data, split) for split in ("validation", "test") if index.of(split)}


def evenly_spaced(count: int, limit: int | None) -> np.ndarray:
    """`limit` of the indices 0 to count - 1, each in the middle of an equal part; None or more than there are: all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return ((np.arange(limit) + 0.5) * count / limit).astype(int)


def compare(
    pairs: SlicePairs,
    network: nn.Module | None = None,
    *,
    device: str = "cpu",
    limit: int | None = None,
    name: str = "denoised",
    progress: Callable[[int, int], None] | None = None,
) -> metrics.Comparison:
    """Denoised slices against the NDCT, in the units of the paper's tables; without a network, the LDCT itself.

    As in the paper the LDCT is clipped to the training window first, and the prediction is left as it is.

    Args:
        pairs: the slices.
        network: a denoiser; None: the LDCT itself is compared.
        device: where the network runs.
        limit: number of slices, evenly spaced, that are compared; None: all.
        name: of the comparison.
        progress: called with the slices done and their number.
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
    """In fp32: whether bf16 is accurate enough changes while a network learns, and to test it takes time."""
    return inference.denoise(image_hu, network, device=device, precision="fp32").voxels


def preview(network: nn.Module, pair: SlicePair, *, device: str) -> np.ndarray:
    """One slice as four pictures in a row, LDCT | denoised | NDCT | denoised - NDCT: (H, 4 W) uint8.

    The images in the paper's abdomen window, the difference from -100 to 100 HU.
    """
    ldct, ndct = (image.astype(np.float32) for image in (pair.ldct_hu, pair.ndct_hu))
    denoised = _denoised(ldct[None], network, device)[0]
    window = hounsfield.DISPLAY_WINDOWS_HU["abdomen"]
    images = [hounsfield.to_gray(image, window) for image in (ldct, denoised, ndct)]
    return np.hstack([*images, hounsfield.to_gray(denoised - ndct, DIFFERENCE_HU)])
