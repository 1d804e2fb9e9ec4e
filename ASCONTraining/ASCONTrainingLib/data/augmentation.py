"""What a training pair may have that its scan did not: small lesions, and the sharpness of another kernel.

Both are put into LDCT and NDCT alike, so they stay a pair. Neither is in the paper. Patients have few small lesions of
low contrast, and a denoiser that has seen hardly any learns to take them for noise.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage, special

LESION_MM = (3.0, 25.0)
"""Longer diameters; the shorter one is half of it or more."""
LESION_HU = (8.0, 200.0)
"""Contrasts, brighter or darker: from a metastasis in the liver to a vessel with contrast medium."""
LESION_BLUR_MM = (0.4, 0.9)
"""Sigma of the edges: body kernels, from sharp to smooth."""
LEAST_HU = -200.0
"""The middle of a lesion lies in tissue, not in air or lung."""
LESION_AREA = 64 * 64
"""Pixels to which a number of lesions refers."""
KERNEL_SIGMA = 1.0
"""Pixels: detail finer than that is what another kernel makes weaker or stronger."""


def lesions(ndct_hu: np.ndarray, spacing_mm: tuple[float, ...], most: float, random: np.random.Generator) -> np.ndarray:
    """Draw ellipses with blurred edges, whose diameters and contrasts are uniform in their logarithm.

    Args:
        ndct_hu: (H, W) float32; ellipses whose middle would lie in air are left out.
        spacing_mm: (x, y, ...).
        most: ellipses for each 64x64 pixels; their number is uniform from 0 to that.
        random: where the numbers come from.

    Returns:
        HU to add to both images of the pair, float32 like `ndct_hu`.
    """
    height, width = ndct_hu.shape
    added = np.zeros((height, width), np.float32)
    pixel_mm = math.sqrt(spacing_mm[0] * spacing_mm[1])
    for _ in range(round(random.uniform(0, most) * ndct_hu.size / LESION_AREA)):
        row, column = (int(random.integers(side)) for side in ndct_hu.shape)
        radius_px = 0.5 * log_uniform(LESION_MM, random) / pixel_mm
        blur_px = random.uniform(*LESION_BLUR_MM) / pixel_mm
        contrast_hu = random.choice((-1.0, 1.0)) * log_uniform(LESION_HU, random)
        roundness, angle = random.uniform(0.5, 1.0), random.uniform(0.0, math.pi)
        if ndct_hu[row, column] > LEAST_HU:
            reach = math.ceil(radius_px + 3 * blur_px)
            rows = np.arange(max(0, row - reach), min(row + reach + 1, height))[:, None]
            columns = np.arange(max(0, column - reach), min(column + reach + 1, width))
            shape = _ellipse(rows - row, columns - column, radius_px, roundness, angle, blur_px)
            added[rows, columns] += np.float32(contrast_hu) * shape
    return added


def _ellipse(y: np.ndarray, x: np.ndarray, radius: float, roundness: float, angle: float, blur: float) -> np.ndarray:
    """An ellipse, 0 to 1, with its longer half axis `radius` at `angle` and the edge of an error function."""
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    relative = np.hypot(along / radius, across / (roundness * radius))
    # distance to the edge: exact for discs and on the axes
    distance = (relative - 1) * np.hypot(along, across) / np.maximum(relative, 1e-6)
    distance = np.where(relative < 1e-6, -roundness * radius, distance)
    return (0.5 * special.erfc(distance / (math.sqrt(2) * blur))).astype(np.float32)


def with_kernel(image_hu: np.ndarray, sharpness: float) -> np.ndarray:
    """(H, W) as a smoother (sharpness below 0) or sharper (above 0) kernel would have reconstructed it, in HU.

    A kernel filters anatomy and noise alike. The finest detail becomes 1 + sharpness times as strong, means stay.
    """
    return image_hu + np.float32(sharpness) * (image_hu - ndimage.gaussian_filter(image_hu, KERNEL_SIGMA))


def log_uniform(limits: tuple[float, float], random: np.random.Generator) -> float:
    """Draw a number between two that is uniform in its logarithm."""
    low, high = limits
    return low * (high / low) ** random.uniform()
