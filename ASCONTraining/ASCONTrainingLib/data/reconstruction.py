"""A crop as another reconstruction of the same scan shows it: with other pixels, and with another kernel.

Filtered back projection is linear. Other pixels sample the same image at other places; another kernel multiplies its
spectrum by a function of the radial frequency alone. Both are done to the NDCT and to the noise that the LDCT has on
top, so a pair stays a pair of the same dose: the noise of NDCT and of LDCT keeps one spectrum, and what cannot be told
apart in one reconstruction cannot be in another. What this cannot make is detail that the scan's own pixels do not
hold: pixels smaller than those look like a small field of view with a smooth kernel.

Spectra are cosine transforms, as of an image that is mirrored at its borders: they have no edge there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, optimize

from ASCONDenoiseLib.physics.settings import KERNELS, STANDARD_KERNEL, Kernel
from ASCONTrainingLib.data.augmentation import log_uniform

ORDERS = (1.8, 3.0)
"""Of the kernels that are drawn: those of the soft and the sharp one of `physics.settings.KERNELS`."""

MARGIN = 8
"""Pixels that are made on each side besides and cut off: what mirroring has changed."""

MOST_GAIN = 4.0
"""The finest detail is made at most so many times as strong: a smooth kernel has left little of it, and rounding."""

WINDOW = 32
"""Side, in pixels, of the regions that a kernel is measured in."""
SLICES = 12
LEAST_WINDOWS = 8


@dataclass(frozen=True)
class Reconstruction:
    """How a square of source pixels becomes a crop.

    Attributes:
        source_side: pixels of the scan, each way.
        side: pixels that are made of them, margins included.
        margin: of these, cut off on each side.
        response: (k, k) gain of the cosine coefficients, k the smaller of both sides; None: 1.
        noise_response: (k, k) the same for the noise besides; its variance is kept. None: 1.
    """

    source_side: int
    side: int
    margin: int
    response: np.ndarray | None = None
    noise_response: np.ndarray | None = None

    def of(self, ndct_hu: np.ndarray, noise_hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m, m) NDCT and noise of the scan, float32 -> both as reconstructed, (n, n) each."""
        kept = min(self.source_side, self.side)
        coefficients = fft.dctn(np.stack([ndct_hu, noise_hu]), axes=(1, 2), norm="ortho")[:, :kept, :kept]
        coefficients *= np.float32(self.side / self.source_side)
        if self.response is not None:
            coefficients *= self.response
        if self.noise_response is not None:
            coarser = coefficients[1] * self.noise_response
            coefficients[1] = coarser * math.sqrt(
                np.vdot(coefficients[1], coefficients[1]) / max(np.vdot(coarser, coarser), 1e-6)
            )
        images = fft.idctn(coefficients, s=(self.side, self.side), axes=(1, 2), norm="ortho")
        inner = slice(self.margin, self.side - self.margin)
        return images[0, inner, inner], images[1, inner, inner]


@dataclass(frozen=True)
class Reconstructions:
    """What reconstructions are drawn from. None leaves as it is; numbers are drawn uniformly in their logarithm.

    Attributes:
        pixels_mm: smallest and largest pixel.
        cutoffs: lowest and highest cutoff of the kernel, in cycles per pixel of the crop, of both images.
        noise_cutoffs: the same of a filter on the noise alone, whose variance is kept. No scanner does that: the noise
            of the NDCT then has another spectrum than that of the LDCT.
    """

    pixels_mm: tuple[float, float] | None = None
    cutoffs: tuple[float, float] | None = None
    noise_cutoffs: tuple[float, float] | None = None

    def draw(
        self, patch: int, most: int, scan_pixel_mm: float, own: Kernel | None, random: np.random.Generator
    ) -> Reconstruction:
        """Plan the reconstruction of a crop.

        Args:
            patch: its side in pixels.
            most: side of the largest square of the scan that there is, in its pixels: a pixel for which that is too
                small is drawn no larger than fits.
            scan_pixel_mm: of the scan.
            own: kernel of the scan; needed where there are `cutoffs`.
            random: where the numbers come from.
        """
        pixel_mm = log_uniform(self.pixels_mm, random) if self.pixels_mm else scan_pixel_mm
        step = pixel_mm / scan_pixel_mm  # a pixel of the crop, in those of the scan
        margin = max(0, min(MARGIN, int((most / step - patch) / 2)))
        side = patch + 2 * margin
        source_side = min(most, round(side * step))
        step = source_side / side
        along = np.arange(min(side, source_side)) / (2 * side)  # cycles per pixel of the crop
        radius = np.hypot(along[:, None], along)
        response = noise_response = None
        if self.cutoffs and own is not None:
            low, high = self.cutoffs
            most_cutoff = 0.5 * step if step < 1 else high  # where the scan's pixels end, the kernel has fallen to 1/e
            cutoff = log_uniform((min(low, most_cutoff), min(high, most_cutoff)), random)
            gain = (radius / (own.cutoff_per_mm * scan_pixel_mm * step)) ** own.order
            gain -= (radius / cutoff) ** random.uniform(*ORDERS)
            response = np.exp(np.minimum(gain, math.log(MOST_GAIN))).astype(np.float32)
        if self.noise_cutoffs:
            cutoff = log_uniform(self.noise_cutoffs, random)
            noise_response = np.exp(-((radius / cutoff) ** random.uniform(*ORDERS))).astype(np.float32)
        return Reconstruction(source_side, side, margin, response, noise_response)


def measured_kernel(ndct_hu: np.ndarray, ldct_hu: np.ndarray, pixel_mm: float) -> Kernel:
    """The kernel of a pair, from LDCT - NDCT: noise without anatomy, whose power is f * exp(-2 (f / cutoff)^order).

    Args:
        ndct_hu, ldct_hu: (S, H, W).
        pixel_mm: of both.

    Returns:
        The kernel; STANDARD_KERNEL where there is too little noise to measure, or none that looks like CT's.
    """
    power = _noise_power(ndct_hu, ldct_hu)
    if power is None:
        return KERNELS[STANDARD_KERNEL]
    axis = np.fft.fftfreq(WINDOW, pixel_mm)
    turns = (-1, 0, 1)  # frequencies beyond the pixels' own fold back into the spectrum
    folded = [np.hypot(axis[:, None] + i / pixel_mm, axis + j / pixel_mm) for i in turns for j in turns]
    radius = np.hypot(axis[:, None], axis)
    use = (radius > 2.5 / (WINDOW * pixel_mm)) & (radius < 0.5 / pixel_mm)
    amplitude = np.sqrt(power[use])  # scatters about alike at all frequencies

    def model(_: np.ndarray, height: float, cutoff: float, order: float) -> np.ndarray:
        return height * np.sqrt(sum(f * np.exp(-2 * (f / cutoff) ** order) for f in folded)[use])

    start, bounds = (amplitude.max(), 0.3 / pixel_mm, 2.0), ((0, 0.05 / pixel_mm, 1), (np.inf, 2 / pixel_mm, 6))
    try:
        (_, cutoff, order), _ = optimize.curve_fit(model, radius[use], amplitude, p0=start, bounds=bounds)
    except (RuntimeError, ValueError):  # no convergence
        return KERNELS[STANDARD_KERNEL]
    return Kernel(float(cutoff), float(order))


def _noise_power(ndct_hu: np.ndarray, ldct_hu: np.ndarray) -> np.ndarray | None:
    """Mean (WINDOW, WINDOW) periodogram of the noise inside the body, each window at the same variance."""
    hann = np.hanning(WINDOW + 2)[1:-1]
    taper = np.outer(hann, hann)
    total, count = np.zeros((WINDOW, WINDOW)), 0
    for s in np.unique(np.linspace(0, len(ndct_hu) - 1, SLICES).round().astype(int)):
        ndct, noise = np.asarray(ndct_hu[s], np.float32), np.subtract(ldct_hu[s], ndct_hu[s], dtype=np.float32)
        rows, columns = (side // WINDOW for side in ndct.shape)
        cells = [
            image[: rows * WINDOW, : columns * WINDOW].reshape(rows, WINDOW, columns, WINDOW).swapaxes(1, 2)
            for image in (ndct, noise)
        ]
        inside = (cells[0].min((2, 3)) > -500) & (cells[1].std((2, 3)) > 1)
        windows = cells[1][inside]
        windows = windows - windows.mean((1, 2), keepdims=True)
        windows /= windows.std((1, 2), keepdims=True)
        total += (np.abs(np.fft.fft2(windows * taper)) ** 2).sum(0)
        count += len(windows)
    return total / count if count >= LEAST_WINDOWS else None
