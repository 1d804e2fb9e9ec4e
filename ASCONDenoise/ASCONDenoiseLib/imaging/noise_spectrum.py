"""The texture of noise: its power spectrum within slices, its bands, its correlation between slices.

Definitions follow AAPM TG-233 (Samei et al., Med Phys 2019, 10.1002/mp.13763) and IEC 62220-1 for regions with a trend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import SOFT_TISSUE_HU
from ASCONDenoiseLib.imaging.noise import (
    MIN_WINDOWS,
    WINDOW_PX,
    Spacing,
    detrended,
    flat_soft_tissue_windows,
    polynomials,
    windows_at,
)

COARSE_PER_MM = 0.15
"""Noise of fewer cycles per mm is coarse: it looks like mottle, of the size of lesions."""
REGION_SIDES_PX = (64, 48, 32, 24, 16)
"""Sides of the regions of a spectrum, from the largest of which there are enough."""


@dataclass(frozen=True)
class Texture:
    """A noise power spectrum as plain numbers, for tables, plots and JSON.

    Attributes:
        frequency: cycles/mm.
        power: HU^2 mm^2, radial mean at `frequency`.
        mean_frequency, peak_frequency: cycles/mm.
        coarse_hu: SD of the noise below COARSE_PER_MM. What a region's trend takes away is missing in it.
        fine_hu: SD of the noise above.
        regions: how many were measured.
        region_px: their side.
        disc_detectability: d' of a disc in this noise, see `image_quality.DISC_MM`; None where it was not worked out.
    """

    frequency: tuple[float, ...]
    power: tuple[float, ...]
    mean_frequency: float
    peak_frequency: float
    coarse_hu: float
    fine_hu: float
    regions: int
    region_px: int
    disc_detectability: float | None = None


@dataclass(frozen=True)
class NoisePowerSpectrum:
    """Noise power spectrum (NPS), and its radial mean without zero frequency.

    Attributes:
        frequency: cycles/mm.
        power: HU^2 mm^2, radial mean at `frequency`.
        power_2d: (n, n) on `np.fft.fftfreq` axes; its integral over frequency is `variance_hu2` (Parseval).
        mean_frequency: integral(f NPS df) / integral(NPS df) of the radial curve, up to Nyquist.
        peak_frequency: where the radial curve is highest.
        variance_hu2: of the detrended regions.
        rois: how many regions were measured.
        spacing_mm: (x, y) of the pixels.
    """

    frequency: np.ndarray
    power: np.ndarray
    power_2d: np.ndarray
    mean_frequency: float
    peak_frequency: float
    variance_hu2: float
    rois: int
    spacing_mm: tuple[float, float]

    def sd_between(self, low: float, high: float = np.inf) -> float:
        """Return the standard deviation in HU of the noise of frequencies [low, high), in cycles/mm: its band."""
        n, (dx, dy) = len(self.power_2d), self.spacing_mm
        radius = np.hypot(np.fft.fftfreq(n, dy)[:, None], np.fft.fftfreq(n, dx)[None, :])
        band = (radius >= low) & (radius < high)
        return float(np.sqrt(self.power_2d[band].sum() / (n * dx * n * dy)))

    def summary(self) -> Texture:
        """Return what tables and plots show, as plain numbers."""
        return Texture(
            tuple(map(float, self.frequency)),
            tuple(map(float, self.power)),
            self.mean_frequency,
            self.peak_frequency,
            self.sd_between(0, COARSE_PER_MM),
            self.sd_between(COARSE_PER_MM),
            self.rois,
            len(self.power_2d),
        )


def nps(rois_hu: np.ndarray, spacing_mm: tuple[float, ...], *, trend: int | None = 2) -> NoisePowerSpectrum:
    """Measure the noise power spectrum of square regions, each less its best second-order polynomial (TG-233).

    Args:
        rois_hu: (N, n, n).
        spacing_mm: (x, y, ...).
        trend: order of the polynomial. Differences of two images of one anatomy have none: None takes nothing away.

    Raises:
        InputError: the regions are not square or smaller than 8.
    """
    rois = np.asarray(rois_hu, np.float64)
    if rois.ndim != 3 or rois.shape[1] != rois.shape[2] or rois.shape[1] < 8 or not len(rois):
        raise InputError(f"A noise power spectrum needs regions of shape (N, n, n) with n >= 8; got {rois.shape}.")
    count, n, _ = rois.shape
    dx, dy = spacing_mm[:2]
    flat = rois.reshape(count, -1)
    flat = flat if trend is None else detrended(flat, polynomials(n, trend))
    power_2d = (np.abs(np.fft.fft2(flat.reshape(rois.shape))) ** 2).mean(axis=0) * dx * dy / n**2
    radius = np.hypot(np.fft.fftfreq(n, dy)[:, None], np.fft.fftfreq(n, dx)[None, :])
    width = 1 / (n * min(dx, dy))
    ring = np.rint(radius / width).astype(int).ravel()
    rings = np.arange(1, n // 2 + 1)
    rings = rings[rings * width <= 0.5 / max(dx, dy) + 1e-9]
    power = (np.bincount(ring, power_2d.ravel()) / np.maximum(np.bincount(ring), 1))[rings]
    frequency = rings * width
    total = power.sum()
    mean = float((frequency * power).sum() / total) if total > 0 else 0.0
    peak = float(frequency[power.argmax()])
    return NoisePowerSpectrum(frequency, power, power_2d, mean, peak, float((flat**2).mean()), count, (dx, dy))


def flat_regions(
    guide_hu: np.ndarray, spacing_mm: Spacing, tissue_hu: tuple[float, float] = SOFT_TISSUE_HU
) -> tuple[np.ndarray, int] | None:
    """Find flat soft tissue for a spectrum: centres (N, 3) and the side of the regions, the largest that there are.

    Args:
        guide_hu: (S, H, W), in which they are found.
        spacing_mm: (x, y, z).
        tissue_hu: lowest and highest HU.

    Returns:
        None where fewer than MIN_WINDOWS of the smallest fit.
    """
    for side in REGION_SIDES_PX:
        centres = flat_soft_tissue_windows(guide_hu, spacing_mm, window_px=side, tissue_hu=tissue_hu)
        if len(centres) >= MIN_WINDOWS:
            return centres, side
    return None


def nps_at(voxels_hu: np.ndarray, centres: np.ndarray, side_px: int, spacing_mm: Spacing) -> NoisePowerSpectrum:
    """Measure the noise power spectrum of a volume (S, H, W) in `flat_regions`."""
    rois = np.concatenate([pixels for _, pixels in windows_at(voxels_hu, centres, side_px)])
    return nps(rois.reshape(-1, side_px, side_px), spacing_mm)


def slice_correlation(
    voxels_hu: np.ndarray, spacing_mm: Spacing, centres: np.ndarray | None = None, *, distance: int = 1
) -> float | None:
    """Measure how alike the noise of neighbouring slices is: Pearson's correlation, 0 for independent slices.

    Overlapping or thin slices, and denoisers that look at several slices, make it larger. Anatomy that runs through
    both slices counts too, so windows lie in flat tissue and lose their plane.

    Args:
        voxels_hu: (S, H, W).
        spacing_mm: (x, y, z).
        centres: windows of WINDOW_PX that were found in another image, to measure both in the same places.
        distance: of the two slices.

    Returns:
        None where fewer than MIN_WINDOWS windows have a neighbour.
    """
    if centres is None:
        centres = flat_soft_tissue_windows(voxels_hu, spacing_mm)
    centres = centres[centres[:, 0] + distance < len(voxels_hu)]
    if len(centres) < MIN_WINDOWS:
        return None
    basis = polynomials(WINDOW_PX, order=1)
    products = np.zeros(3)
    here, there = (windows_at(voxels_hu, centres + step, WINDOW_PX) for step in ((0, 0, 0), (distance, 0, 0)))
    for (_, a), (_, b) in zip(here, there, strict=True):
        a, b = detrended(a, basis), detrended(b, basis)
        products += (a * b).sum(), (a * a).sum(), (b * b).sum()
    scale = np.sqrt(products[1] * products[2])
    return float(products[0] / scale) if scale > 0 else None
