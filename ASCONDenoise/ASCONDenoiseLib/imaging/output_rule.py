"""How a denoiser's difference becomes an output, and a weaker result from that of full strength. Without torch."""

from __future__ import annotations

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU


def blend(
    voxels_hu: np.ndarray, denoised_hu: np.ndarray, strength: float, *, out: np.ndarray | None = None
) -> np.ndarray:
    """Return x + strength * (y - x) of the input x and the result y of strength 1, in x's dtype.

    For integers it is within 1 HU of `inference.denoise(..., strength=strength)`, since y is rounded already (and
    further off where y was clipped to the range of an unsigned dtype); exact at 0 and 1. Slices are blended one at a
    time.

    Args:
        voxels_hu: (..., H, W) the input.
        denoised_hu: (..., H, W) the result of strength 1.
        strength: 0 to 1.
        out: where the result goes, if it is given.

    Raises:
        InputError: strength is not in 0..1, or shape or dtype differ.
    """
    check_strength(strength)
    out = np.empty_like(voxels_hu) if out is None else out
    for other in (denoised_hu, out):
        if other.shape != voxels_hu.shape or other.dtype != voxels_hu.dtype:
            raise InputError(
                f"The volumes to blend differ in shape or type: {voxels_hu.shape} {voxels_hu.dtype}, "
                f"{other.shape} {other.dtype}."
            )
    if voxels_hu.ndim < 3:
        out[...] = added(voxels_hu, (denoised_hu.astype(np.float64) - voxels_hu) * strength)
    else:
        for x, y, blended in zip(voxels_hu, denoised_hu, out, strict=True):
            blend(x, y, strength, out=blended)
    return out


def with_difference(x: np.ndarray, difference_hu: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Apply the output rule: add what a denoiser changes; padding and 2000 HU and more keep their value.

    Args:
        x: (H, W) the input.
        difference_hu: (H, W), strength * (G(c) - c) with c = x clipped to the training window; it is overwritten.
        padding: (H, W), where it is padding, of `hounsfield.padding_mask`.

    Returns:
        (H, W) in x's dtype.
    """
    difference_hu[padding | (x >= TRAINING_WINDOW_HU[1])] = 0
    return added(x, difference_hu)


def added(x: np.ndarray, difference_hu: np.ndarray) -> np.ndarray:
    """Return x + difference in x's dtype; integers are rounded to nearest and clipped to its range."""
    y: np.ndarray = x + difference_hu  # float32 or float64, whichever holds every x of up to 32 bits, so x + 0 is x
    if x.dtype.kind in "iu":
        limits = np.iinfo(x.dtype)
        y = np.rint(y).clip(limits.min, limits.max)
    return y.astype(x.dtype)


def check_strength(strength: float) -> None:
    """Raise InputError unless strength is in 0..1."""
    if not 0 <= strength <= 1:
        raise InputError(f"Strength is a number from 0 to 1; got {strength}.")
