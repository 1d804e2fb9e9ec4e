"""Low-dose CT from normal-dose CT: projection-domain noise insertion, on torch (CPU or CUDA).

The way of the Mayo data sets (Yu et al., J Comput Assist Tomogr 36:477, 2012): the image is projected, each ray gets
the noise that separates the low from the normal dose, that noise alone is reconstructed and added to the image.
The scan itself tells how much (its photons, from the noise measured in soft tissue) and which texture (its kernel,
from the noise power spectrum), so "quarter dose" means a quarter of this scan's dose.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.physics import scanner as ct
from ASCONDenoiseLib.physics.calibration import CalibrationError, calibrate, doubts
from ASCONDenoiseLib.physics.scanner import SLICES_AT_ONCE
from ASCONDenoiseLib.physics.settings import (
    ASSUMED_PHOTONS,
    KERNELS,
    QUARTER_DOSE,
    STANDARD_KERNEL,
    DoseSettings,
    Kernel,
)


@dataclass(frozen=True)
class Simulation:
    """A simulated low-dose volume and what it was made with.

    Attributes:
        voxels: (S, H, W) HU, of the input's dtype.
        photons: (S,) per ray in air at normal dose.
        kernel: as set, or as measured in the scan.
        notes: sentences for the user about what was assumed.
    """

    voxels: np.ndarray
    photons: np.ndarray
    kernel: Kernel
    notes: tuple[str, ...] = ()


def simulate(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings = QUARTER_DOSE,
    *,
    device: str | torch.device = "cpu",
    padding_hu: hounsfield.Padding = None,
    calibration: tuple[np.ndarray, Kernel] | None = None,
    assume_photons: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate the same scan at `settings.dose` of its dose.

    Slices get independent noise. The added noise has no mean, and (1/d - 1) times the variance of the normal-dose
    scan; electronic noise adds its (1/d^2 - 1). A seed gives the same noise on the same device; another device rounds
    the photons otherwise, and draws by rejection then go other ways: noise of the same strength and colour, no more.

    Args:
        voxels_hu: (S, H, W) normal-dose image. Padding keeps its value (`hounsfield.padding_mask`).
        spacing_mm: (x, y, z) distance of columns, rows and slices.
        settings: the low-dose scan.
        device: where torch computes.
        padding_hu: a value that is padding besides what `hounsfield.padding_mask` takes for it.
        calibration: photons (S,) and kernel, of `calibrate` or an earlier simulation of this scan, in place of those of
            the settings and of measuring, which is more work than the simulation itself.
        assume_photons: take ASSUMED_PHOTONS, with a note, where the scan's own noise cannot be measured.
        progress: called with (slices done, slices in all).

    Raises:
        InputError: the settings or the calibration do not fit the image.
        CalibrationError: the scan has no flat soft tissue to measure its noise in, `photons` is not given and not to be
            assumed.
    """
    ct.scanner_for(voxels_hu.shape[1:], spacing_mm[:2], settings)  # refuses what cannot be, before anything is measured
    if calibration is not None and calibration[0].shape != voxels_hu.shape[:1]:
        raise InputError(f"The calibration is of {len(calibration[0])} slices, and the scan has {len(voxels_hu)}.")
    notes: tuple[str, ...] = ()
    try:
        photons, kernel = calibration or calibrate(voxels_hu, spacing_mm, settings, device=device)
        notes = doubts(photons, kernel, settings)
    except CalibrationError:
        if not assume_photons:
            raise
        photons, kernel = np.full(len(voxels_hu), ASSUMED_PHOTONS), KERNELS[STANDARD_KERNEL]
        notes = (
            "The scan has no flat soft tissue to measure its noise in. The low dose is simulated from "
            f"{ASSUMED_PHOTONS:,.0f} photons per ray, not from this scan's own dose.",
        )
    d = settings.dose
    out = _insert(
        voxels_hu, spacing_mm, settings, photons, kernel, 1 / d - 1, 1 / d**2 - 1, device, padding_hu, progress
    )
    return Simulation(out, photons, kernel, notes)


def noise_factor(dose: float, wanted: float) -> float:
    """Return the factor on the noise of an LDCT simulated at `dose` that gives it the variance of dose `wanted`.

    Inserted noise has the variance 1 / dose - 1 in units of the NDCT's own.
    """
    return math.sqrt((1 / wanted - 1) / (1 / dose - 1))


def scan(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    *,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Add all the noise of a scan at normal dose, that of `settings.photons`, to a noise-free phantom.

    Args:
        voxels_hu: (S, H, W) the phantom.
        spacing_mm: (x, y, z) distance of columns, rows and slices.
        settings: the scan; its dose does not matter.
        device: where torch computes.

    Raises:
        InputError: `photons` or the kernel is left to be measured: a phantom has no noise to measure.
    """
    if settings.photons is None or settings.kernel == "scan":
        raise InputError("A noise-free phantom has no noise to measure; set photons and kernel.")
    photons = np.full(len(voxels_hu), settings.photons)
    return _insert(voxels_hu, spacing_mm, settings, photons, settings.named_kernel, 1.0, 1.0, device, None, None)


def _insert(
    voxels_hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    settings: DoseSettings,
    photons: np.ndarray,
    kernel: Kernel,
    quantum: float,
    electronic: float,
    device: str | torch.device,
    padding_hu: hounsfield.Padding,
    progress: Callable[[int, int], None] | None,
) -> np.ndarray:
    """Add noise of variance quantum / photons + electronic * (SD / photons)^2 per ray, reconstructed with `kernel`."""
    out = np.empty_like(voxels_hu)
    rows, columns = voxels_hu.shape[1:]
    scanner = ct.scanner_for((rows, columns), spacing_mm[:2], settings)
    for first in range(0, len(voxels_hu), SLICES_AT_ONCE):
        part = slice(first, min(first + SLICES_AT_ONCE, len(voxels_hu)))
        image = torch.from_numpy(np.ascontiguousarray(voxels_hu[part], np.float32)).to(device)
        counts = ct.photons_behind(image, spacing_mm[:2], settings, scanner)
        counts = counts * torch.from_numpy(np.asarray(photons[part], np.float32)).to(counts)[:, None, None]
        rays = _rays_noise(counts, settings, quantum, electronic, first)
        noise = ct.filtered_back_projection(rays, (rows, columns), spacing_mm[:2], scanner, kernel)
        noisy = (image + noise * ct.HU_PER_ATTENUATION).cpu().numpy()
        if not np.isfinite(noisy).all():
            raise InputError(
                f"Slices {part.start + 1} to {part.stop} cannot be simulated: their values or the settings are beyond "
                "those of a CT. Check that the scan is in HU."
            )
        out[part] = _like(noisy, voxels_hu[part], padding_hu)
        if progress:
            progress(part.stop, len(voxels_hu))
    return out


def _rays_noise(
    counts: torch.Tensor, settings: DoseSettings, quantum: float, electronic: float, first_slice: int
) -> torch.Tensor:
    """(B, V, N) photons -> noise of the line integrals. Each slice has its own seed, whatever the batch."""
    noise = torch.zeros_like(counts)
    for i, count in enumerate(counts):
        random = torch.Generator().manual_seed((settings.seed * 1_000_003 + first_slice + i) % 2**63)
        if quantum > 0:
            # n counts of expectation m stand for -ln(n / m), to first order (m - n) / m: no bias, variance 1 / m,
            # skewed as counts are. The clamp keeps a ray that lets nothing through finite.
            mean = (count / quantum).clamp(min=1).cpu()
            noise[i] += ((mean - torch.poisson(mean, generator=random)) / mean).to(noise)
        if electronic > 0 and settings.electronic_noise > 0:
            sd = settings.electronic_noise * math.sqrt(electronic) / count.clamp(min=1)
            noise[i] += sd * torch.randn(count.shape, generator=random).to(sd)
    return noise


def _like(noisy: np.ndarray, original: np.ndarray, padding_hu: hounsfield.Padding) -> np.ndarray:
    """Round to the dtype of `original` and keep its padding."""
    if np.issubdtype(original.dtype, np.integer):
        limits = np.iinfo(original.dtype)
        noisy = np.rint(noisy).clip(limits.min, limits.max)
    keep = np.stack([hounsfield.padding_mask(image, padding_hu) for image in original])
    return np.where(keep, original, noisy.astype(original.dtype))
