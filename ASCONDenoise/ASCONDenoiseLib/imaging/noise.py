"""The noise of a scan: its standard deviation in flat soft tissue, and as a map.

Volumes are (S, H, W) in HU, `spacing_mm` is (x, y, z): distance of columns, rows, slices. Everything is measured within
slices, one at a time. Definitions follow AAPM TG-233 (Samei et al., Med Phys 2019, 10.1002/mp.13763) where it has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import SOFT_TISSUE_HU, TISSUES_HU

WINDOW_PX = 11
"""Side of the square windows in which noise is measured."""
SMOOTHING_MM = 2.0
"""Standard deviation of the Gaussian that makes the smoothed image for tissues and edges."""
FLAT_SMOOTHING_MM = 3.0
"""The same for flat places: with 2 mm, the noise that is left steers the choice (variance 2 to 5 % too low)."""
MIN_WINDOWS = 20
"""Fewer windows than this give no noise figure."""
MAP_WINDOW_MM = 6.0
"""Side of the windows of a noise map (Christianson et al., AJR 2015, 10.2214/AJR.14.13613; TG-233)."""
EDGE_HU_PER_MM = 6.0
"""A smoothed image that is steeper than this, and than its noise alone would be, is an edge."""

Spacing = tuple[float, float, float]


def flat_soft_tissue_windows(
    voxels_hu: np.ndarray,
    spacing_mm: Spacing,
    *,
    window_px: int = WINDOW_PX,
    tissue_hu: tuple[float, float] = SOFT_TISSUE_HU,
    keep: float = 0.5,
) -> np.ndarray:
    """Find square windows in flat soft tissue.

    A window counts when the smoothed image is soft tissue everywhere in it. Of these, each slice keeps those with the
    least mean gradient of the SMOOTHED image; choosing by variance would choose the noise to be measured. They stand on
    a grid of half a window, so neighbours overlap. `window_variance` applies the same centres to any image of the same
    shape: denoised, or simulated noise. A window of n pixels is [centre - n // 2, centre - n // 2 + n).

    Args:
        voxels_hu: (S, H, W).
        spacing_mm: (x, y, z).
        window_px: side of the windows.
        tissue_hu: lowest and highest HU of the tissue.
        keep: fraction of the windows that each slice keeps.

    Returns:
        (N, 3) centres: slice, row, column; N may be 0.
    """
    low, high = tissue_hu
    half, step = window_px // 2, max(window_px // 2, 1)
    centres = [np.empty((0, 3), np.intp)]
    for s, image in enumerate(checked_volume(voxels_hu)):
        smooth, gradient = smooth_and_gradient(image, spacing_mm, FLAT_SMOOTHING_MM)
        rows = np.arange(half, image.shape[0] - (window_px - half) + 1, step)
        columns = np.arange(half, image.shape[1] - (window_px - half) + 1, step)
        grid = np.ix_(rows, columns)
        inside = ndimage.minimum_filter((smooth >= low) & (smooth <= high), window_px)[grid]
        slope = ndimage.uniform_filter(gradient, window_px)[grid]
        if inside.any():
            inside &= slope <= np.quantile(slope[inside], keep)
        r, c = np.nonzero(inside)
        centres.append(np.stack([np.full(r.size, s), rows[r], columns[c]], axis=1))
    return np.concatenate(centres)


def window_variance(voxels_hu: np.ndarray, centres: np.ndarray, *, window_px: int = WINDOW_PX) -> np.ndarray:
    """Measure the variance in windows, each less its best plane (3 degrees of freedom).

    Unbiased for white noise. Ratios between images of the same noise texture are unbiased whatever the texture.

    Args:
        voxels_hu: (S, H, W).
        centres: (N, 3), as of `flat_soft_tissue_windows`.
        window_px: side of the windows.

    Returns:
        (N,) HU^2.
    """
    basis = polynomials(window_px, order=1)
    out = np.empty(len(centres))
    for chosen, pixels in windows_at(voxels_hu, centres, window_px):
        out[chosen] = (detrended(pixels, basis) ** 2).sum(axis=1) / (window_px**2 - basis.shape[1])
    return out


def windows_at(voxels_hu: np.ndarray, centres: np.ndarray, window_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each slice which of the centres lie in it, and their windows as (n, window_px**2)."""
    for s in np.unique(centres[:, 0]):
        chosen = np.nonzero(centres[:, 0] == s)[0]
        view = np.lib.stride_tricks.sliding_window_view(np.asarray(voxels_hu[s]), (window_px, window_px))
        first = centres[chosen, 1:] - window_px // 2
        yield chosen, view[first[:, 0], first[:, 1]].reshape(len(chosen), -1).astype(np.float64)


def polynomials(side: int, order: int) -> np.ndarray:
    """Return an orthonormal basis (side**2, terms) of the polynomials in row and column up to a total order."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    terms = [(y**i * x**j).ravel() for i in range(order + 1) for j in range(order + 1 - i)]
    basis: np.ndarray = np.linalg.qr(np.stack(terms, axis=1))[0]
    return basis


def detrended(windows: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Return windows (n, window_px**2) less their best fit of the polynomials."""
    rest: np.ndarray = windows - (windows @ basis) @ basis.T
    return rest


def smooth_and_gradient(
    image: np.ndarray, spacing_mm: Spacing, sigma_mm: float = SMOOTHING_MM
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) -> the smoothed image [HU] and the magnitude of its gradient [HU/mm]."""
    x, y, _ = spacing_mm
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (sigma_mm / y, sigma_mm / x))
    if min(image.shape) < 2:
        return smooth, np.zeros_like(smooth)
    return smooth, np.hypot(*np.gradient(smooth, y, x))


def checked_volume(voxels_hu: np.ndarray) -> np.ndarray:
    """Return the volume. Raises InputError unless it is (S, H, W)."""
    if np.ndim(voxels_hu) != 3:
        raise InputError(f"A volume of (slices, rows, columns) is needed; got shape {np.shape(voxels_hu)}.")
    return voxels_hu


@dataclass(frozen=True)
class Noise:
    """Noise of a patient scan.

    Each window less its plane: what varies more slowly than a window is left out, 1 to 5 % of usual kernels' noise.

    Attributes:
        sd_hu: median over the windows of the local standard deviation.
        windows: how many were measured.
    """

    sd_hu: float
    windows: int


def noise_hu(
    voxels_hu: np.ndarray,
    spacing_mm: Spacing,
    *,
    centres: np.ndarray | None = None,
    tissue_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> Noise | None:
    """Measure the noise in soft tissue.

    The median forgives the windows that hold a vessel or a fat septum (Christianson et al., AJR 2015, take the mode of
    such local deviations).

    Args:
        voxels_hu: (S, H, W).
        spacing_mm: (x, y, z).
        centres: windows that were found in another image, to measure both in the same places.
        tissue_hu: lowest and highest HU of the tissue; water phantoms, at 0 HU, need their own.

    Returns:
        None where there are fewer than MIN_WINDOWS windows.
    """
    if centres is None:
        centres = flat_soft_tissue_windows(voxels_hu, spacing_mm, tissue_hu=tissue_hu)
    if len(centres) < MIN_WINDOWS:
        return None
    return Noise(float(np.sqrt(np.median(window_variance(voxels_hu, centres)))), len(centres))


def edge_mask(image_hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Return where a slice (H, W) has an edge, or is no patient.

    The smoothed image is steeper there than EDGE_HU_PER_MM and than 3.5 times what its noise alone gives, as the
    median of the slopes tells it.
    """
    return edges_of(*smooth_and_gradient(image_hu, spacing_mm))


def edges_of(smooth: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """As edge_mask, from what smooth_and_gradient returns."""
    outside: np.ndarray = smooth <= TISSUES_HU["lung"][0]
    if outside.all():
        return outside
    noise_slope = (
        float(np.median(gradient[~outside])) / 1.1774
    )  # a Rayleigh distribution's median in units of its scale
    return outside | (gradient > max(EDGE_HU_PER_MM, 3.5 * noise_slope))


def noise_map_hu(
    voxels_hu: np.ndarray,
    spacing_mm: Spacing,
    *,
    guide_hu: np.ndarray | None = None,
    window_mm: float = MAP_WINDOW_MM,
) -> np.ndarray:
    """Measure the local standard deviation around each voxel, edges left out.

    Noise that varies more slowly than the window is left out with the window's mean.

    Args:
        voxels_hu: (S, H, W).
        spacing_mm: (x, y, z).
        guide_hu: (S, H, W), in which the edges are found; the volume itself where there is none. To compare volumes,
            give all of them the same.
        window_mm: side of the square windows.

    Returns:
        (S, H, W) float32 HU; nan where less than half of the window is patient without an edge.

    Raises:
        InputError: the volumes differ in shape, or are none.
    """
    guide_hu = voxels_hu if guide_hu is None else guide_hu
    if np.shape(guide_hu) != np.shape(checked_volume(voxels_hu)):
        raise InputError(f"The volumes differ in shape: {np.shape(voxels_hu)} and {np.shape(guide_hu)}.")
    side = tuple(max(round(window_mm / d), 3) for d in (spacing_mm[1], spacing_mm[0]))
    out = np.full(np.shape(voxels_hu), np.nan, np.float32)
    for image, guide, sd in zip(voxels_hu, guide_hu, out, strict=True):
        flat = ~edge_mask(guide, spacing_mm)
        if not flat.any():
            continue
        values = np.where(flat, image - np.mean(image[flat]), 0.0)
        share, first, second = (
            ndimage.uniform_filter(v, side, mode="constant") for v in (flat.astype(float), values, values**2)
        )
        pixels = share * (side[0] * side[1])
        known = share >= 0.5
        variance = (second[known] - first[known] ** 2 / share[known]) * (side[0] * side[1]) / (pixels[known] - 1)
        sd[known] = np.sqrt(variance.clip(0))
    return out


def global_noise_hu(map_hu: np.ndarray, voxels_hu: np.ndarray, tissue_hu: tuple[float, float] = (0.0, 100.0)) -> float:
    """Return the global noise level: the mode of the noise map over soft tissue (Christianson et al. 2015; TG-233).

    Args:
        map_hu: (S, H, W), of `noise_map_hu`.
        voxels_hu: (S, H, W), of which the tissue is a range; best a denoised or a smoothed one.
        tissue_hu: lowest and highest HU.

    Returns:
        HU; nan where no voxel of the tissue has a noise level.
    """
    values = map_hu[np.isfinite(map_hu) & (voxels_hu >= tissue_hu[0]) & (voxels_hu <= tissue_hu[1])]
    if not values.size:
        return float("nan")
    low, high = np.quantile(values, (0.01, 0.99))
    if high <= low:
        return float(low)
    counts, edges = np.histogram(values, 100, (low, high))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 4, mode="nearest")
    return float((edges[:-1] + edges[1:])[smooth.argmax()] / 2)
