"""The reconstruction kernel of a scan, from the power spectrum of its own noise in flat soft tissue."""

from __future__ import annotations

import numpy as np

from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows
from ASCONDenoiseLib.physics.settings import (
    CALIBRATION_SLICES,
    CALIBRATION_TISSUE_HU,
    KERNELS,
    ORDERS,
    STANDARD_KERNEL,
    WINDOWS_PER_SLICE,
    Kernel,
)

NPS_WINDOW_PX = 16
"""Side of the windows of the noise power spectrum: small, so that many of them hold no anatomy."""

NPS_WINDOWS = 300
"""Windows that make a smooth spectrum: where there are more flat ones, the flattest are taken."""

LEAST_FREQUENCIES = 24
"""Points of the spectrum that a kernel, which has a height and two numbers of its own, is fitted to."""

CUTOFFS_PER_MM = (0.15, 3.0)

COARSE_PER_MM = 0.15
"""Anatomy that is left in a window lies below; it is what noise and anatomy are told apart by."""

CHANCE = 2.0
"""A window's power below COARSE_PER_MM exceeds that of its noise by this factor in one of some 50 windows."""

ANATOMY_EXPONENT = 3.0
"""Power of anatomy falls with frequency as f^-3 (Burgess et al., Med Phys 28:419, 2001)."""

ROUNDS = 3


def measure_kernel(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> Kernel:
    """Return the kernel whose noise power spectrum, f * exp(-2 (f / cutoff)^order), fits that of flat soft tissue best.

    White noise through the ramp and a filter H has the power f * H^2. Two things keep anatomy out: windows that have
    more power at low frequencies than their power at high ones and the kernel explain are rejected, kernel and choice
    in turns; and what anatomy is left is fitted besides, as a power that falls as f^-ANATOMY_EXPONENT. Where there is
    too little flat soft tissue for a spectrum, or pixels are so coarse that they hold too little of it, the kernel is
    STANDARD_KERNEL.

    Args:
        voxels_hu: (S, H, W) the scan.
        spacing_mm: (x, y, z).
    """
    periodograms = _periodograms(voxels_hu, spacing_mm)
    model = _Spectrum(spacing_mm)
    if len(periodograms) < WINDOWS_PER_SLICE or np.count_nonzero(model.fitted) < LEAST_FREQUENCIES:
        return KERNELS[STANDARD_KERNEL]
    low, high = (periodograms[:, part].mean(1) for part in (model.low, model.high))
    chosen = np.ones(len(periodograms), bool)
    kernel = KERNELS[STANDARD_KERNEL]
    for _ in range(ROUNDS):
        # the lower quartile forgives what anatomy is left; all frequencies share its factor to the mean
        power = np.quantile(periodograms[chosen], 0.25, axis=0)
        if not 0 < power[model.fitted].max() < np.inf:
            return KERNELS[STANDARD_KERNEL]
        kernel = model.fit(power)
        expected = model.noise(kernel)
        chosen = low <= CHANCE * high * expected[model.low].mean() / expected[model.high].mean()
        if np.count_nonzero(chosen) < WINDOWS_PER_SLICE:
            break
    return kernel


class _Spectrum:
    """What the periodogram of a tapered window of NPS_WINDOW_PX is expected to be, and where it is looked at.

    Attributes:
        fitted: (n, n) frequencies that a kernel is fitted to.
        low, high: those below and above COARSE_PER_MM that tell anatomy from noise.
    """

    def __init__(self, spacing_mm: tuple[float, float, float]):
        side, pixel_mm = NPS_WINDOW_PX, max(spacing_mm[:2])
        fine = 4 * side  # the expected periodogram of a tapered region is the spectrum smeared by the taper's own
        fy, fx = _frequencies(fine, spacing_mm)
        turns = (-1, 0, 1)  # frequencies beyond the pixels' own fold back into the spectrum
        self._folded = np.stack(
            [np.hypot(fy + i / spacing_mm[1], fx + j / spacing_mm[0]) for i in turns for j in turns]
        )
        taper = np.fft.fft2(_taper(side), (fine, fine))
        self._overlap = np.fft.ifft2(np.abs(taper) ** 2).real
        lowest = 1 / (side * pixel_mm)
        anatomy = self._smeared(np.maximum(np.hypot(fy, fx), lowest) ** -ANATOMY_EXPONENT)
        radius = np.hypot(*_frequencies(side, spacing_mm))
        within, edge = radius < 0.5 / pixel_mm, max(COARSE_PER_MM, 2.5 * lowest)
        self.fitted = within & (radius > 1.5 * lowest)  # the taper smears a window's mean and slope into the first
        self.low, self.high = (radius > 0) & (radius <= edge), within & (radius > edge)
        self._anatomy = anatomy[self.fitted]

    def _smeared(self, power: np.ndarray) -> np.ndarray:
        smeared: np.ndarray = np.fft.fft2(np.fft.ifft2(power).real * self._overlap).real[::4, ::4]
        return smeared

    def noise(self, kernel: Kernel) -> np.ndarray:
        """Return the expected periodogram of noise, (n, n) of any height."""
        f = self._folded
        return self._smeared((f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order)).sum(0))

    def fit(self, power: np.ndarray) -> Kernel:
        """Return the kernel that explains a power spectrum (n, n) best, together with a share of anatomy."""
        from scipy.optimize import least_squares, nnls

        measured = power[self.fitted] / power[self.fitted].max()

        def misfit(numbers: np.ndarray) -> np.ndarray:
            noise = self.noise(Kernel(*numbers))[self.fitted]
            parts = np.stack([noise / noise.max(), self._anatomy / self._anatomy.max()], 1)
            difference: np.ndarray = parts @ nnls(parts, measured)[0] - measured
            return difference

        bounds = tuple(zip(CUTOFFS_PER_MM, ORDERS, strict=True))
        cutoff, order = least_squares(misfit, (0.5, 2.2), bounds=bounds, x_scale=(0.1, 0.5)).x
        return Kernel(float(cutoff), float(order))


def _frequencies(side: int, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Return the frequencies along y and x, cycles per mm, of a (side, side) spectrum."""
    return np.meshgrid(np.fft.fftfreq(side, spacing_mm[1]), np.fft.fftfreq(side, spacing_mm[0]), indexing="ij")


def _taper(side: int) -> np.ndarray:
    hann = np.hanning(side + 2)[1:-1]
    return np.outer(hann, hann)


def _periodograms(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return tapered periodograms (N, n, n) of windows in flat soft tissue; N may be 0."""
    side = NPS_WINDOW_PX
    chosen = np.unique(np.linspace(0, len(voxels_hu) - 1, 2 * CALIBRATION_SLICES).round().astype(int))
    part = np.asarray(voxels_hu[chosen], np.float32)
    for keep in (0.15, 0.5):
        centres = flat_soft_tissue_windows(part, spacing_mm, window_px=side, tissue_hu=CALIBRATION_TISSUE_HU, keep=keep)
        if len(centres) >= NPS_WINDOWS:
            break
    taper = _taper(side)
    periodograms = np.empty((len(centres), side, side))
    for i, (s, row, column) in enumerate(centres):
        top, left = row - side // 2, column - side // 2
        region = part[s, top : top + side, left : left + side]
        mean = (region * taper).sum() / taper.sum()
        periodograms[i] = np.abs(np.fft.fft2((region - mean) * taper)) ** 2
    return periodograms
