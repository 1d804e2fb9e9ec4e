"""What a scan's own noise tells: the photons behind it, and the reconstruction kernel that shaped it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows, window_variance
from ASCONDenoiseLib.physics import scanner as ct
from ASCONDenoiseLib.physics.kernel_fit import measure_kernel
from ASCONDenoiseLib.physics.scanner import SLICES_AT_ONCE
from ASCONDenoiseLib.physics.settings import (
    CALIBRATION_SLICES,
    CALIBRATION_TISSUE_HU,
    ORDERS,
    PLAUSIBLE_PHOTONS,
    WINDOWS_PER_SLICE,
    DoseSettings,
    Kernel,
)

FINE_MM = 1.5
"""What a Gaussian of this standard deviation takes away is fine: noise has most of its power there, anatomy little."""

MOST_MODULATION = 20.0
"""Ratio of most to fewest photons per ray along a scan: tube currents span a factor of 10."""

CHANCE = 0.9
"""Share of windows without anatomy that are kept."""


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
    in the same flat soft tissue windows. Windows whose variance exceeds that of their fine detail by more than noise
    alone does in the reference hold anatomy and are rejected. Up to CALIBRATION_SLICES slices are measured, the others
    interpolated, so a tube current that follows the patient along z is found too.

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
    own = _Windows.of(part, spacing_mm, centres)
    if not len(centres) or not _least_variance(own) > 1e-6:  # HU^2; rounding to whole HU alone makes 0.08
        raise CalibrationError(
            "The scan's own noise cannot be measured: no noisy, flat soft tissue was found. "
            "Give the number of photons per ray at normal dose (photons)."
        )

    def reference(power: float) -> _Windows:
        return _reference(part, spacing_mm, settings, kernel, centres, power, device)

    references = [reference(-0.5)] + [reference(-1.0)] * bool(settings.electronic_noise)
    limit = float(np.quantile(references[0].ratio, CHANCE))
    calm = own.below(limit, WINDOWS_PER_SLICE)
    if calm.slices.size:  # else there is anatomy everywhere, and less of it in the windows with less variance
        own, references = calm, [windows.below(limit, 1) for windows in references]
    used = np.unique(own.slices)
    measured, quantum, *rest = (windows.quantiles(used) for windows in (own, *references))
    electronic = rest[0] * settings.electronic_noise**2 if rest else 0 * quantum
    # measured = quantum / n + electronic / n^2, solved for the photons n
    photons = (quantum + np.sqrt(quantum**2 + 4 * measured * electronic)) / (2 * measured)
    weights = np.bincount(own.slices)[used]
    return _along_z(chosen[used], photons, weights, len(voxels_hu)), kernel


@dataclass(frozen=True)
class _Windows:
    """Windows of flat soft tissue: their slice (N,), their variance and that of their fine detail (N,), HU^2."""

    slices: np.ndarray
    variance: np.ndarray
    fine: np.ndarray

    @classmethod
    def of(cls, voxels_hu: np.ndarray, spacing_mm: tuple[float, float, float], centres: np.ndarray) -> _Windows:
        sigma = (0, FINE_MM / spacing_mm[1], FINE_MM / spacing_mm[0])
        fine = voxels_hu - ndimage.gaussian_filter(voxels_hu, sigma)
        return cls(centres[:, 0], window_variance(voxels_hu, centres), window_variance(fine, centres))

    @property
    def ratio(self) -> np.ndarray:
        return self.variance / np.maximum(self.fine, 1e-30)

    def below(self, ratio: float, least: int) -> _Windows:
        """Return the windows of at most this ratio, of the slices that have `least` of them."""
        keep = self.ratio <= ratio
        keep &= np.bincount(self.slices[keep], minlength=self.slices.max() + 1)[self.slices] >= least
        return _Windows(self.slices[keep], self.variance[keep], self.fine[keep])

    def quantiles(self, used: np.ndarray) -> np.ndarray:
        """(2, len(used)) lower quartile and median of the variances in each of the slices."""
        return np.array([np.quantile(self.variance[self.slices == s], (0.25, 0.5)) for s in used]).T


def _least_variance(windows: _Windows) -> float:
    return float(windows.quantiles(np.unique(windows.slices)).min())


def _reference(
    part: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    kernel: Kernel,
    centres: np.ndarray,
    power: float,
    device: str | torch.device,
) -> _Windows:
    """Simulate noise of standard deviation counts^power at 1 photon per ray, and measure it in the windows."""
    half = replace(settings, views=max(1, settings.views // 2))  # twice the noise per view, the same in the image
    rows, columns = part.shape[1:]
    scanner = ct.scanner_for((rows, columns), spacing_mm[:2], half)
    used = np.unique(centres[:, 0])
    jobs = np.repeat(used, math.ceil(CALIBRATION_SLICES / len(used)))
    random = torch.Generator().manual_seed(settings.seed)
    scale = ct.HU_PER_ATTENUATION * math.sqrt(scanner.views / settings.views)
    measured = []
    for first in range(0, len(jobs), SLICES_AT_ONCE):
        job = jobs[first : first + SLICES_AT_ONCE]
        counts = ct.photons_behind(torch.from_numpy(part[job]).to(device), spacing_mm[:2], half, scanner)
        noise = torch.randn(counts.shape, generator=random).to(counts) * counts**power
        image = ct.filtered_back_projection(noise, (rows, columns), spacing_mm[:2], scanner, kernel).cpu().numpy()
        for s, n in zip(job, image, strict=True):
            windows = _Windows.of(scale * n[None], spacing_mm, centres[centres[:, 0] == s] * [0, 1, 1])
            measured.append(replace(windows, slices=windows.slices + s))
    parts = ([getattr(windows, name) for windows in measured] for name in ("slices", "variance", "fine"))
    return _Windows(*(np.concatenate(part) for part in parts))


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


def doubts(photons: np.ndarray, kernel: Kernel, settings: DoseSettings) -> tuple[str, ...]:
    """Return sentences for the user about what was measured and is not what a scanner does; usually none.

    Args:
        photons: (S,) per ray, as of `calibrate`.
        kernel: as of `calibrate`.
        settings: what was given and need not be doubted.
    """
    if settings.photons is not None:
        return ()
    notes = []
    least, most = PLAUSIBLE_PHOTONS
    low, middle, high = (float(n) for n in np.quantile(photons, (0, 0.5, 1)))
    if not least <= middle <= most:
        notes.append(
            f"The scan's own noise stands for {middle:,.0f} photons per ray, and scans of patients have "
            f"{least:,.0f} to {most:,.0f}: the scan may have been denoised or hold anatomy everywhere. Look whether "
            "the noise of the result is what you expect, or give photons and kernel."
        )
    if high > MOST_MODULATION * low:
        notes.append(
            f"The noise of the slices stands for {low:,.0f} to {high:,.0f} photons per ray, which no tube current "
            "spans: streaks or anatomy were taken for noise in some of them. Give the number of photons."
        )
    if settings.kernel == "scan" and kernel.order <= ORDERS[0] + 0.01:
        notes.append(
            "The scan's noise is coarser than a ramp filter makes it, as that of iterative reconstruction or of a "
            f"smoothed image is; it was taken for that of a kernel of order {ORDERS[0]}."
        )
    return tuple(notes)
