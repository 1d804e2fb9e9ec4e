"""What all phantoms are: noise-free voxels with labels, partial volume, blur and texture; and spheres added to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from ASCONDenoiseLib.errors import InputError

PSF_SIGMA_MM = 0.65
"""In-plane Gaussian blur of a body kernel such as B30: MTF 50 % at 2.9, 10 % at 5.3 line pairs per cm."""

FIRST_LESION_LABEL = 100

Rng = np.random.Generator


@dataclass(frozen=True)
class Lesion:
    """A sphere that differs from what surrounds it.

    Attributes:
        centre_ijk: columns, rows, slices.
        diameter_mm: of the sphere.
        contrast_hu: what it has more than its surroundings.
        label: in the phantom; 0 before it is added.
    """

    centre_ijk: tuple[float, float, float]
    diameter_mm: float
    contrast_hu: float
    label: int = 0


@dataclass(frozen=True)
class Phantom:
    """A volume of which everything is known.

    Attributes:
        voxels_hu: (S, H, W) float32, free of noise.
        labels: (S, H, W) uint8, the tissue that fills most of each voxel.
        label_names: the tissue of each label.
        spacing_mm: (x, y, z).
        lesions: what was added.
    """

    voxels_hu: np.ndarray
    labels: np.ndarray
    label_names: dict[int, str]
    spacing_mm: tuple[float, float, float]
    lesions: tuple[Lesion, ...] = ()


def checked_spacing(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float, float]:
    """Return the spacing. Raises InputError unless shape and spacing are three positive numbers each."""
    if len(shape) != 3 or min(shape) < 1 or len(spacing_mm) != 3 or not min(spacing_mm) > 0:
        raise InputError(f"A phantom needs three sizes and three spacings above 0; got {shape} and {spacing_mm} mm.")
    x_mm, y_mm, z_mm = map(float, spacing_mm)
    return x_mm, y_mm, z_mm


def blurred(hu: np.ndarray, spacing_mm: Sequence[float], psf_mm: float = PSF_SIGMA_MM) -> np.ndarray:
    sigma = (0, psf_mm / spacing_mm[1], psf_mm / spacing_mm[0])
    return gaussian_filter(hu, sigma, mode="nearest", output=np.float32)


def coverage(f: np.ndarray, pixel: float) -> np.ndarray:
    """Return which fraction of each voxel lies inside f < 0, to first order: f over its change across one voxel."""
    width = np.zeros_like(f)
    for axis in range(f.ndim):
        if f.shape[axis] > 1:
            width += np.gradient(f, axis=axis) ** 2
    return np.clip(0.5 - f / np.maximum(np.sqrt(width), pixel), 0, 1)


def random_field(
    rng: Rng, axes: Sequence[np.ndarray], length_mm: float, step: Sequence[float] | np.ndarray, count: int
) -> np.ndarray:
    """Return a Gaussian random field of unit SD and autocorrelation exp(-r^2 / 2 length^2), as `count` plane waves.

    It is known in millimetres, not voxels: the same draw looks the same at any matrix. Voxels average over their size.

    Args:
        rng: draws the waves.
        axes: mm of the voxels along z, y and x.
        length_mm: of the autocorrelation.
        step: size of a voxel along z, y and x.
        count: of the waves.
    """
    k = rng.normal(0, 1 / length_mm, (count, 3))
    box = np.prod(np.sinc(k * np.asarray(step) / (2 * np.pi)), 1)
    weight = np.sqrt(2 / count) * box * np.exp(2j * np.pi * rng.random(count))
    ez, ey, ex = (np.exp(1j * np.outer(k[:, i], axes[i])).astype(np.complex64) for i in range(3))
    ez *= weight[:, None].astype(np.complex64)
    right = np.concatenate([ex.real, -ex.imag])
    field = np.empty([len(a) for a in axes], np.float32)
    for s in range(len(field)):
        left = ez[:, s, None] * ey
        field[s] = np.concatenate([left.real, left.imag]).T @ right
    return field


def add_lesions(phantom: Phantom, lesions: Sequence[Lesion], psf_mm: float = PSF_SIGMA_MM) -> Phantom:
    """Add spheres on top of what is there, blurred like the rest (sigma `psf_mm`); labels are numbered on.

    Raises InputError where a centre lies outside the volume or the labels run out.
    """
    hu, labels, names = phantom.voxels_hu.copy(), phantom.labels.copy(), dict(phantom.label_names)
    placed: list[Lesion] = []
    for lesion in lesions:
        label = FIRST_LESION_LABEL + len(phantom.lesions) + len(placed)
        if label > 255 or not all(0 <= i <= n - 1 for i, n in zip(lesion.centre_ijk, hu.shape[::-1], strict=True)):
            raise InputError(f"The lesion at {lesion.centre_ijk} lies outside the volume, or there are more than 156.")
        reach = lesion.diameter_mm / 2 + 5 * psf_mm
        region, axes = [], []
        for i, n, s in zip(lesion.centre_ijk[::-1], hu.shape, phantom.spacing_mm[::-1], strict=True):
            region.append(slice(max(0, int(i - reach / s - 1)), min(n, int(i + reach / s + 3))))
            axes.append((np.arange(n)[region[-1]] - i) * s)
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        f = np.sqrt(x * x + y * y + z * z) - lesion.diameter_mm / 2
        part = coverage(f.astype(np.float32), phantom.spacing_mm[0])
        hu[tuple(region)] += lesion.contrast_hu * blurred(part, phantom.spacing_mm, psf_mm)
        labels[tuple(region)][part > 0.5] = label
        names[label] = f"lesion {label - FIRST_LESION_LABEL + 1}"
        placed.append(replace(lesion, label=label))
    return replace(phantom, voxels_hu=hu, labels=labels, label_names=names, lesions=phantom.lesions + tuple(placed))
