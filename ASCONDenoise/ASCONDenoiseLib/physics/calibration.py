"""What a scan's own noise tells: the photons behind it, and the reconstruction kernel that shaped it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows, window_variance
from ASCONDenoiseLib.physics import scanner as ct
from ASCONDenoiseLib.physics.scanner import SLICES_AT_ONCE
from ASCONDenoiseLib.physics.settings import KERNELS, STANDARD_KERNEL, DoseSettings, Kernel

CALIBRATION_SLICES = 12

WINDOWS_PER_SLICE = 12
"""Flat soft tissue windows that a slice, or the whole spectrum, needs to be measured."""

NPS_LEAST_FREQUENCIES = 24
"""Points of the spectrum that a kernel, which has a height and two numbers of its own, is fitted to."""

NPS_WINDOW_PX = 16
"""Side of the windows of the noise power spectrum: small, so that many of them hold no anatomy."""

CALIBRATION_TISSUE_HU = (-30.0, 130.0)
"""Soft tissue and water, so that phantoms can be calibrated too."""


class CalibrationError(InputError):
    """The scan has no noise that could be measured."""


def calibrate(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    *,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, Kernel]:
    """Return photons per ray in air at normal dose, (S,), and the kernel: as set, or as the scan's own noise shows.

    A reference scan of the same anatomy is simulated; the photons are those that make its noise equal to the scan's,
    in the same flat soft tissue windows. Up to CALIBRATION_SLICES slices are measured, the others interpolated, so a
    tube current that follows the patient along z is found too.

    Args:
        voxels_hu: (S, H, W) the scan.
        spacing_mm: (x, y, z) distance of columns, rows and slices.
        settings: what is known of the scan.
        device: where torch computes.

    Raises:
        CalibrationError: there is nothing to measure.
    """
    kernel = measure_kernel(voxels_hu, spacing_mm) if settings.kernel == "scan" else settings.named_kernel
    if settings.photons is not None:
        return np.full(len(voxels_hu), float(settings.photons)), kernel
    chosen = np.unique(np.linspace(0, len(voxels_hu) - 1, CALIBRATION_SLICES).round().astype(int))
    part = np.ascontiguousarray(voxels_hu[chosen], np.float32)
    centres = flat_soft_tissue_windows(part, spacing_mm, tissue_hu=CALIBRATION_TISSUE_HU)
    centres = centres[np.bincount(centres[:, 0], minlength=len(part))[centres[:, 0]] >= WINDOWS_PER_SLICE]
    used = np.unique(centres[:, 0])
    measured = _noise_variance(window_variance(part, centres), centres[:, 0], used)
    if not len(used) or not measured.min() > 1e-6:  # HU^2; rounding to whole HU alone makes 0.08
        raise CalibrationError(
            "The scan's own noise cannot be measured: no noisy, flat soft tissue was found. "
            "Give the number of photons per ray at normal dose (photons)."
        )
    quantum, electronic = _reference_variance(part, spacing_mm, settings, kernel, centres, used, device)
    # measured = quantum / n + electronic / n^2, solved for the photons n
    photons = (quantum + np.sqrt(quantum**2 + 4 * measured * electronic)) / (2 * measured)
    weights = np.bincount(centres[:, 0])[used]
    return _along_z(chosen[used], photons, weights, len(voxels_hu)), kernel


def _noise_variance(variances: np.ndarray, slices: np.ndarray, used: np.ndarray) -> np.ndarray:
    """(2, len(used)) lower quartile and median of the variances of each slice's windows."""
    return np.array([np.quantile(variances[slices == s], (0.25, 0.5)) for s in used]).reshape(-1, 2).T


def _reference_variance(
    part: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    kernel: Kernel,
    centres: np.ndarray,
    used: np.ndarray,
    device: str | torch.device,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate noise at 1 photon per ray, quantum and electronic, and measure both as `_noise_variance`."""
    half = replace(settings, views=max(1, settings.views // 2))  # twice the noise per view, the same in the image
    rows, columns = part.shape[1:]
    scanner = ct.scanner_for((rows, columns), spacing_mm[:2], half)
    repeats = math.ceil(CALIBRATION_SLICES / len(used))
    random = torch.Generator().manual_seed(settings.seed)
    views = scanner.views / settings.views

    def variance(power: float, factor: float) -> np.ndarray:
        jobs = np.repeat(used, repeats)
        windows = []
        for first in range(0, len(jobs), SLICES_AT_ONCE):
            job = jobs[first : first + SLICES_AT_ONCE]
            counts = ct.photons_behind(torch.from_numpy(part[job]).to(device), spacing_mm[:2], half, scanner)
            noise = torch.randn(counts.shape, generator=random).to(counts) * counts**power
            image = ct.filtered_back_projection(noise, (rows, columns), spacing_mm[:2], scanner, kernel).cpu().numpy()
            for s, n in zip(job, image, strict=True):
                windows.append((s, window_variance(n[None], centres[centres[:, 0] == s] * [0, 1, 1])))
        slices = np.concatenate([np.full(len(v), s) for s, v in windows])
        scale = factor * views * ct.HU_PER_ATTENUATION**2
        return _noise_variance(np.concatenate([v for _, v in windows]) * scale, slices, used)

    quantum = variance(-0.5, 1.0)
    return quantum, variance(-1.0, settings.electronic_noise**2) if settings.electronic_noise else 0 * quantum


def _along_z(slices: np.ndarray, photons: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """(2, n) photons by both quantiles of n slices -> (count,): smooth, since one slice alone is measured to some 5 %.

    Anatomy in a window can only add to its variance, so of the two quantiles the one with less noise is taken.
    """
    log = np.log(photons)
    log = log[np.argmax(log @ weights)]
    distance = slices[:, None] - slices[None, :]
    reach = max(1.0, count / CALIBRATION_SLICES)
    weight = np.exp(-0.5 * (distance / reach) ** 2) * weights
    smooth = (weight @ log) / weight.sum(1)
    return np.exp(np.interp(np.arange(count), slices, smooth))


def measure_kernel(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> Kernel:
    """Return the kernel whose noise power spectrum, f * exp(-2 (f / cutoff)^order), fits that of flat soft tissue best.

    White noise through the ramp and a filter H has the power f * H^2. Where there is too little flat soft tissue for a
    spectrum, or pixels are so coarse that they hold too little of it, the kernel is STANDARD_KERNEL.
    """
    from scipy.optimize import curve_fit

    side, pixel_mm = NPS_WINDOW_PX, max(spacing_mm[:2])
    power = _noise_power(voxels_hu, spacing_mm, side)
    if power is None or not power.max() > 0:
        return KERNELS[STANDARD_KERNEL]
    fine = 4 * side  # the expected periodogram of a tapered region is the spectrum smeared by the taper's own
    fy, fx = _frequencies(fine, spacing_mm)
    turns = (-1, 0, 1)  # frequencies beyond the pixels' own fold back into the spectrum
    folded = [np.hypot(fy + i / spacing_mm[1], fx + j / spacing_mm[0]) for i in turns for j in turns]
    taper = np.fft.fft2(_taper(side), (fine, fine))
    overlap = np.fft.ifft2(np.abs(taper) ** 2).real

    def expected(kernel: Kernel) -> np.ndarray:
        power = sum(f * np.exp(-2 * (f / kernel.cutoff_per_mm) ** kernel.order) for f in folded)
        return np.fft.fft2(np.fft.ifft2(power).real * overlap).real[::4, ::4]

    radius = np.hypot(*_frequencies(side, spacing_mm))
    # anatomy hides in the lowest frequencies
    use = (radius > max(0.15, 2.5 / (side * pixel_mm))) & (radius < 0.5 / pixel_mm)
    if np.count_nonzero(use) < NPS_LEAST_FREQUENCIES or not power[use].max() > 0:
        return KERNELS[STANDARD_KERNEL]

    def model(_: np.ndarray, height: float, cutoff: float, order: float) -> np.ndarray:
        return height * expected(Kernel(cutoff, order))[use]

    scale = power[use].max() / expected(KERNELS[STANDARD_KERNEL])[use].max()
    try:
        bounds = ((0, 0.15, 1), (np.inf, 3, 8))
        (_, cutoff, order), _ = curve_fit(model, radius[use], power[use] / scale, p0=(1, 0.5, 2), bounds=bounds)
    except (RuntimeError, ValueError):  # no convergence, or a spectrum that is not finite
        return KERNELS[STANDARD_KERNEL]
    return Kernel(float(cutoff), float(order))


def _frequencies(side: int, spacing_mm: tuple[float, float, float]) -> tuple[np.ndarray, ...]:
    """Return the frequencies along y and x, cycles per mm, of a (side, side) spectrum."""
    return np.meshgrid(np.fft.fftfreq(side, spacing_mm[1]), np.fft.fftfreq(side, spacing_mm[0]), indexing="ij")


def _taper(side: int) -> np.ndarray:
    hann = np.hanning(side + 2)[1:-1]
    return np.outer(hann, hann)


def _noise_power(voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float], side: int) -> np.ndarray | None:
    """Return the lower quartile (side, side) of tapered periodograms; None with too little flat soft tissue."""
    chosen = np.unique(np.linspace(0, len(voxels_hu) - 1, 2 * CALIBRATION_SLICES).round().astype(int))
    part = np.asarray(voxels_hu[chosen], np.float32)
    centres = flat_soft_tissue_windows(part, spacing_mm, window_px=side, tissue_hu=CALIBRATION_TISSUE_HU)
    if len(centres) < WINDOWS_PER_SLICE:
        return None
    taper = _taper(side)
    periodograms = []
    for s, row, column in centres:
        top, left = row - side // 2, column - side // 2
        region = part[s, top : top + side, left : left + side]
        mean = (region * taper).sum() / taper.sum()
        periodograms.append(np.abs(np.fft.fft2((region - mean) * taper)) ** 2)
    # the lower quartile forgives regions with anatomy in them; all frequencies share its factor to the mean
    return np.quantile(periodograms, 0.25, axis=0)
