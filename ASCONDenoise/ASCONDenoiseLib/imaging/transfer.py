"""Resolution of an image at one contrast: the task transfer function (TTF) of a round insert or of a straight edge.

Denoisers keep sharp what differs much and blur what differs little, so a TTF holds for the contrast of its edge, at
its noise (Richard et al., Med Phys 39:4115, 2012, 10.1118/1.4725171; AAPM TG-233). Images have to be averaged before
their TTF says something: TG-233 asks for a contrast of 15 times the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.edges import LATERAL_MM, FittedEdge, fit_circle, fit_line

LEAST_CNR = 15.0
"""Contrast over noise of the edge's image, from which on a TTF can be trusted (TG-233)."""
BINS_PER_PIXEL = 4
FLAT_WIDTHS, WHOLE_WIDTHS = 1.5, 2.5
"""The line spread function counts fully up to so many 10-90 % widths from the edge, and fades until so many."""
POINTS = 65


@dataclass(frozen=True)
class TransferFunction:
    """How much of a contrast is left at each frequency.

    Attributes:
        frequency: cycles/mm, from 0 to the pixels' Nyquist frequency.
        ttf: at `frequency`; 1 at 0.
        ttf50, ttf10: frequency at which it falls to a half, to a tenth; None where it never does.
        width_mm: of the edge, from 10 to 90 %, by the fit of an error function.
        contrast_hu: of the edge.
        cnr: contrast over the noise of the pixels that were used; below LEAST_CNR the curve is mostly noise.
    """

    frequency: tuple[float, ...]
    ttf: tuple[float, ...]
    ttf50: float | None
    ttf10: float | None
    width_mm: float
    contrast_hu: float
    cnr: float


def ttf_of_insert(
    image_hu: np.ndarray, spacing_mm: tuple[float, ...], centre_px: tuple[float, float], radius_mm: float
) -> TransferFunction:
    """Measure the TTF of the edge of a round insert.

    Args:
        image_hu: (H, W), or (S, H, W) of which the mean is measured.
        spacing_mm: (x, y, ...).
        centre_px: row and column, a first guess.
        radius_mm: a first guess.

    Raises:
        InputError: no edge is found, or the insert is too small for the edge's width.
    """
    return transfer_function(fit_circle(_mean(image_hu), spacing_mm, centre_px, radius_mm), spacing_mm)


def ttf_of_edge(
    image_hu: np.ndarray,
    spacing_mm: tuple[float, ...],
    start_px: tuple[float, float],
    end_px: tuple[float, float],
    lateral_mm: float = LATERAL_MM,
) -> TransferFunction:
    """Measure the TTF of a straight edge that a line crosses. An edge slanted against the pixels is sampled best.

    Args:
        image_hu: (H, W), or (S, H, W) of which the mean is measured.
        spacing_mm: (x, y, ...).
        start_px: row and column of the line's start.
        end_px: of its end.
        lateral_mm: how far to each side of the line pixels are taken.

    Raises:
        InputError: no edge is found, or the line is too short for the edge's width.
    """
    return transfer_function(fit_line(_mean(image_hu), spacing_mm, start_px, end_px, lateral_mm), spacing_mm)


def transfer_function(edge: FittedEdge, spacing_mm: tuple[float, ...]) -> TransferFunction:
    """Turn an edge into its TTF: edge spread function in bins of a fraction of a pixel, its slope, Fourier transform.

    Args:
        edge: with the distance of each pixel.
        spacing_mm: (x, y, ...) of the pixels.

    Raises:
        InputError: the pixels do not reach far enough from the edge for its width.
    """
    pixel = min(spacing_mm[:2])
    reach = min(-edge.distance_mm.min(), edge.distance_mm.max(), WHOLE_WIDTHS * max(edge.width_mm, 2 * pixel))
    if reach < FLAT_WIDTHS * edge.width_mm:
        raise InputError(
            f"The region reaches {reach:.1f} mm from an edge that is {edge.width_mm:.1f} mm wide; take a larger one."
        )
    step = pixel / BINS_PER_PIXEL
    half = int(reach / step)
    number = np.rint(edge.distance_mm / step).astype(int) + half
    inside = (number >= 0) & (number <= 2 * half)
    number, values, offsets = number[inside], edge.values_hu[inside], edge.distance_mm[inside]
    counts = np.bincount(number, minlength=2 * half + 1)
    filled = np.nonzero(counts)[0]
    place, spread = (np.bincount(number, v, 2 * half + 1)[filled] / counts[filled] for v in (offsets, values))
    where = (np.arange(2 * half + 1) - half) * step
    slope = np.diff(np.interp(where, place, spread)) / step
    middle = where[:-1] + step / 2
    flat = FLAT_WIDTHS / WHOLE_WIDTHS * reach if reach < WHOLE_WIDTHS * edge.width_mm else FLAT_WIDTHS * edge.width_mm
    fade = np.clip((np.abs(middle) - flat) / max(reach - flat, 1e-9), 0, 1)
    slope *= np.cos(np.pi / 2 * fade) ** 2
    frequency = np.linspace(0, 0.5 / max(spacing_mm[:2]), POINTS)
    transform = np.abs(np.exp(-2j * np.pi * np.outer(frequency, middle)) @ slope)
    if transform[0] <= 0:
        raise InputError("No edge was found: the step is lost in the noise.")
    ttf = transform / transform[0] / np.sinc(frequency * step)  # a difference over one bin is a mean over it
    contrast = edge.high_hu - edge.low_hu
    return TransferFunction(
        tuple(map(float, frequency)),
        tuple(map(float, ttf)),
        _falls_to(0.5, frequency, ttf),
        _falls_to(0.1, frequency, ttf),
        edge.width_mm,
        abs(contrast),
        abs(contrast) / edge.noise_hu if edge.noise_hu > 0 else float("inf"),
    )


def _falls_to(level: float, frequency: np.ndarray, ttf: np.ndarray) -> float | None:
    below = np.nonzero(ttf < level)[0]
    if not below.size:
        return None
    k = int(below[0])
    share = (ttf[k - 1] - level) / (ttf[k - 1] - ttf[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))


def _mean(image_hu: np.ndarray) -> np.ndarray:
    return np.asarray(np.mean(image_hu, axis=0, dtype=np.float64) if np.ndim(image_hu) == 3 else image_hu)
