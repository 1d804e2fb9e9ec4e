"""Classical filters that a denoiser has to beat, each at its best setting. Slices (H, W) in HU, filtered one by one.

Settings are given in units of the noise or of pixels, and `tuned` takes those with the least error on slices of the
very volume that is filtered afterwards. That favours the filters: a network has no such choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from ASCONDenoiseLib.imaging.hounsfield import clip_to_window, padding_mask
from ASCONDenoiseLib.imaging.output_rule import with_difference

BM3D = "BM3D"

Filter = Callable[[np.ndarray], np.ndarray]
"""(H, W) float32 HU in the training window -> (H, W) HU"""


def gaussian(sigma_px: float) -> Filter:
    """Gaussian blur."""
    from scipy.ndimage import gaussian_filter

    return lambda image: gaussian_filter(image, sigma_px)


def median(side_px: int) -> Filter:
    """Median of a square neighbourhood."""
    from scipy.ndimage import median_filter

    return lambda image: median_filter(image, side_px)


def bilateral(sigma_px: float, range_hu: float) -> Filter:
    """Bilateral filter (Tomasi and Manduchi, ICCV 1998; SimpleITK): weights fall with distance and with difference."""
    import SimpleITK as sitk

    return lambda image: sitk.GetArrayFromImage(sitk.Bilateral(sitk.GetImageFromArray(image), sigma_px, range_hu))


def anisotropic_diffusion(conductance: float, iterations: int) -> Filter:
    """Curvature anisotropic diffusion (Whitaker and Xue, ICIP 2001; SimpleITK)."""
    import SimpleITK as sitk

    def run(image: np.ndarray) -> np.ndarray:
        filtered = sitk.CurvatureAnisotropicDiffusion(
            sitk.GetImageFromArray(image),
            timeStep=0.125,  # the largest stable one in two dimensions
            conductanceParameter=conductance,
            numberOfIterations=iterations,
        )
        return sitk.GetArrayFromImage(filtered)

    return run


def non_local_means(h_hu: float, patch_px: int) -> Filter:
    """Non-local means (Buades et al., CVPR 2005; scikit-image), within 7 pixels."""
    from skimage.restoration import denoise_nl_means

    return lambda image: denoise_nl_means(image, patch_size=patch_px, patch_distance=7, h=h_hu, fast_mode=True)


def total_variation(weight_hu: float) -> Filter:
    """Total variation (Rudin et al., Physica D 1992, by Chambolle's algorithm; scikit-image)."""
    from skimage.restoration import denoise_tv_chambolle

    # the weight counts in the image's own units; its tolerance is relative
    return lambda image: denoise_tv_chambolle(image, weight=weight_hu, eps=1e-5, max_num_iter=300)


def bm3d(sigma_hu: float) -> Filter:
    """BM3D (Dabov et al., IEEE TIP 2007), where its package is installed; it is for non-commercial use only."""
    import bm3d as package

    return lambda image: package.bm3d(image, sigma_hu)


def candidates(noise_hu: float) -> dict[str, dict[str, Filter]]:
    """Name of each filter -> its settings in words -> the filter, for images of about so much noise."""
    sd = noise_hu
    settings = {
        "Gaussian": {f"sigma {s:g} px": gaussian(s) for s in (0.4, 0.5, 0.6, 0.7, 0.9, 1.2)},
        "median": {f"{n}x{n}": median(n) for n in (3, 5, 7)},
        "bilateral": {
            f"sigma {s:g} px, {k:g} sd": bilateral(s, k * sd) for s in (0.7, 1.0, 1.5, 2.5) for k in (1.5, 2.5, 4.0)
        },
        "anisotropic diffusion": {
            f"conductance {c:g}, {n} steps": anisotropic_diffusion(c, n)
            for c in (0.5, 1.0, 2.0, 4.0)
            for n in (2, 5, 10)
        },
        "non-local means": {
            f"h {k:g} sd, patch {p}": non_local_means(k * sd, p) for k in (0.5, 0.7, 0.9, 1.2) for p in (3, 5, 7)
        },
        "total variation": {f"weight {k:g} sd": total_variation(k * sd) for k in (0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 1.2)},
    }
    if find_spec("bm3d") is not None:
        settings[BM3D] = {"sigma 1 sd": bm3d(sd)}  # it takes seconds a slice: the noise is measured, not tried out
    return settings


def apply(ldct_hu: np.ndarray, run: Filter, padding_hu: float | None = None) -> np.ndarray:
    """Filter by the rule that networks follow: x + F(c) - c with c = x clipped to the window.

    Args:
        ldct_hu: (S, H, W); padding and voxels of 2000 HU and more keep their value.
        run: the filter F.
        padding_hu: a value that is padding besides those that always are.

    Returns:
        (S, H, W) of the input's dtype.
    """
    out = np.empty_like(ldct_hu)
    for x, y in zip(ldct_hu, out, strict=True):
        clipped = clip_to_window(x.astype(np.float32))
        y[...] = with_difference(x, run(clipped) - clipped, padding_mask(x, padding_hu))
    return out


def tuned(
    settings: Mapping[str, Filter], ndct_hu: np.ndarray, ldct_hu: np.ndarray, slices: Sequence[int] | np.ndarray
) -> str:
    """Choose the setting with the least mean squared error from the NDCT, in the training window.

    Args:
        settings: in words -> the filter.
        ndct_hu, ldct_hu: (S, H, W).
        slices: those that are looked at.
    """
    if len(settings) == 1:
        return next(iter(settings))
    chosen = list(slices)
    wanted = clip_to_window(ndct_hu[chosen].astype(np.float64))

    def error(name: str) -> float:
        return float(np.mean((clip_to_window(apply(ldct_hu[chosen], settings[name]).astype(np.float64)) - wanted) ** 2))

    return min(settings, key=error)
