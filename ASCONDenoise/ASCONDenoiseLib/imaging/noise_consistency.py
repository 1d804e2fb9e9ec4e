"""Was it noise that denoising took away? A map of where the removed part is something else, and a list of places.

The removed part r = LDCT - output of a good denoiser is noise alone. Filtered at the scales of lesions, by Gaussians of
1 to 8 mm, noise stays within its own standard deviation there; structure that was taken away, or added, sticks out.
That deviation is measured in r itself, around each place: so it has the local level and the local spectrum, whatever
the scanner, the kernel or the denoiser. What sticks out far enough is a place.

How far is enough: the number of peaks that noise alone would have above a height is known (discrete local maxima of a
Gaussian field: Taylor, Worsley and Gosselin, Biometrika 94:1, 2007, 10.1093/biomet/asm004), and the height is chosen so
that it is at most a given fraction of the peaks found. That is Benjamini and Hochberg's rule (J R Stat Soc B 57:289,
1995) on peaks, as Chumbley et al. have it for brain maps (NeuroImage 49:3057, 2010), with the known number of null
peaks. In pure noise a volume has a place with that same probability.

What it cannot see: structure that is smaller than the noise allows, and what a denoiser does everywhere alike, since
that counts as its noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage, special

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import TISSUES_HU
from ASCONDenoiseLib.imaging.noise import (
    SMOOTHING_MM,
    Spacing,
    checked_volume,
    edge_mask,
    edges_of,
    smooth_and_gradient,
)

SCALES_MM = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the Gaussians. A disc of 3.2 times as many mm fits each best."""
DIAMETER_IN_SCALES = 3.17
DISC_IN_FIRST_SCALE = 1 - math.exp(-(DIAMETER_IN_SCALES**2) / 8)
"""What a Gaussian leaves of the contrast of that disc, in its middle."""
RATE = 0.05
"""Of false places among all places; in pure noise, of volumes with any."""
WINDOW_MM, WINDOW_IN_SCALES = 12.0, 6.0
"""Standard deviation of the Gaussian in which the local deviation is measured: the larger of the two."""
CLIP = 3.0
"""Beyond so many local deviations a value counts as this many: structure hardly raises the deviation around it."""
CLIPPED_VARIANCE = float(
    1 - 2 * (CLIP * math.exp(-(CLIP**2) / 2) / math.sqrt(2 * math.pi) + (1 - CLIP**2) * special.ndtr(-CLIP))
)
"""Variance of standard normal values that are cut so."""
LEAST_HEIGHT = 3.5
"""Peaks below this are not looked at."""
MOST_PLACES = 1000


@dataclass(frozen=True)
class Place:
    """Where something else than noise was removed, or added.

    Attributes:
        slice_index, row, column: voxel of the peak.
        diameter_mm: of the disc or ball that fits best, in octaves.
        contrast_hu: of that disc in what was removed, LDCT less output: positive where something bright was taken away
            or something dark added, negative the other way round.
        z: height of the peak in standard deviations of the noise there.
        at_edge: whether an edge of the output's anatomy is there.
        tissue: what the output is there, a name of hounsfield.TISSUES_HU or "between tissues".
    """

    slice_index: int
    row: int
    column: int
    diameter_mm: float
    contrast_hu: float
    z: float
    at_edge: bool
    tissue: str


@dataclass(frozen=True)
class Consistency:
    """The map and the places.

    Attributes:
        z: (S, H, W) float32; of the scale where it is largest, the height in standard deviations, with its sign:
            positive where the LDCT is brighter than the output. 0 outside the patient.
        threshold_z: from which height on peaks are places; infinite where there are none.
        places: the highest first, at most MOST_PLACES.
        rate: of false places among them.
    """

    z: np.ndarray
    threshold_z: float
    places: tuple[Place, ...]
    rate: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the map."""
        threshold = self.threshold_z if math.isfinite(self.threshold_z) else None
        return {"threshold_z": threshold, "rate": self.rate, "places": [asdict(place) for place in self.places]}


@dataclass(frozen=True)
class _Layer:
    """One scale on its own, coarser lattice. `contrast_hu` is that of a disc that fits the scale."""

    scale_mm: float
    steps: tuple[int, int, int]
    contrast_hu: np.ndarray
    z: np.ndarray
    tested: np.ndarray
    correlations: tuple[float, ...]


def measure(
    input_hu: np.ndarray,
    output_hu: np.ndarray,
    spacing_mm: Spacing,
    *,
    rate: float = RATE,
    progress: Callable[[int, int], None] | None = None,
) -> Consistency:
    """Find where a denoiser removed or added something else than noise.

    Args:
        input_hu: (S, H, W) the LDCT.
        output_hu: (S, H, W) denoised.
        spacing_mm: (x, y, z).
        rate: wanted of false places among all.
        progress: called with (scales done, scales in all).

    Raises:
        InputError: shapes differ, or the rate is not between 0 and 1.
    """
    if np.shape(input_hu) != np.shape(checked_volume(output_hu)):
        raise InputError(f"The volumes differ in shape: {np.shape(input_hu)} and {np.shape(output_hu)}.")
    if not 0 < rate < 1:
        raise InputError(f"A rate is a number between 0 and 1; got {rate}.")
    removed = np.subtract(input_hu, output_hu, dtype=np.float32)
    flat, patient = _masks(output_hu, removed, spacing_mm)
    largest = np.zeros(removed.shape, np.float32)
    peaks, expected = [], []
    for number, layer in enumerate(_layers(removed, flat, patient, spacing_mm)):
        _raise_to(largest, layer)
        peaks.append(_peaks(layer))
        expected.append(_null_peaks(layer))
        if progress:
            progress(number + 1, len(SCALES_MM))
    largest[~patient] = 0
    found = _apart(np.concatenate(peaks), spacing_mm)
    null = sum(np.interp(np.abs(found[:, 5]), HEIGHTS, counts) for counts in expected)
    enough = np.nonzero(null <= rate * np.arange(1, len(found) + 1))[0]
    kept = found[: enough[-1] + 1] if enough.size else found[:0]
    threshold = float(np.abs(kept[-1, 5])) if len(kept) else math.inf
    edges = {int(s): edge_mask(output_hu[int(s)], spacing_mm) for s in np.unique(kept[:MOST_PLACES, 0])}
    places = tuple(_place(peak, output_hu, edges, spacing_mm) for peak in kept[:MOST_PLACES])
    return Consistency(largest, threshold, places, rate)


def _masks(output_hu: np.ndarray, removed: np.ndarray, spacing_mm: Spacing) -> tuple[np.ndarray, np.ndarray]:
    """Where the patient is flat, and where the patient is; both without voxels that the denoiser left alone."""
    flat, patient = np.empty(removed.shape, bool), np.empty(removed.shape, bool)
    for image, rest, flat_here, here in zip(output_hu, removed, flat, patient, strict=True):
        touched = ndimage.uniform_filter((rest != 0).astype(np.float32), 5) > 0.2
        smooth, gradient = smooth_and_gradient(image, spacing_mm)
        here[...] = touched & (smooth > TISSUES_HU["lung"][0])
        flat_here[...] = here & ~edges_of(smooth, gradient)
    return flat, patient


def _layers(removed: np.ndarray, flat: np.ndarray, patient: np.ndarray, spacing_mm: Spacing) -> Iterator[_Layer]:
    """Filter at each scale, the coarser ones from the finer on a lattice with fewer points."""
    voxel_mm = np.array([spacing_mm[2], spacing_mm[1], spacing_mm[0]])
    filtered, steps, last_mm = removed, np.ones(3, int), 0.0
    (between_slices,) = _neighbours(removed, flat, axes=(0,))
    for scale_mm in SCALES_MM:
        wanted = np.maximum((last_mm / 1.4 / voxel_mm).astype(int), 1)
        more = np.maximum(wanted // steps, 1)
        filtered, steps = filtered[tuple(slice(None, None, int(k)) for k in more)], steps * more
        step_mm = steps * voxel_mm
        finer = filtered  # at half the scale a disc keeps its contrast in the middle, whatever its size exactly is
        sigma = np.sqrt(scale_mm**2 - last_mm**2) / step_mm
        filtered = ndimage.gaussian_filter(filtered, np.where(sigma < 0.25, 0, sigma), truncate=3.5)
        contrast = finer if last_mm else filtered / np.float32(DISC_IN_FIRST_SCALE)
        last_mm = scale_mm
        lattice = tuple(slice(None, None, int(k)) for k in steps)
        level = _end_slices(removed.shape[0], scale_mm / voxel_mm[0], between_slices)[lattice[0]]
        even = filtered / level[:, None, None].astype(np.float32)
        on_flat, tested = flat[lattice], patient[lattice].copy()
        for axis in (1, 2):  # a filter that is mirrored at the image's border has more noise there
            width = min(math.ceil(2 * scale_mm / step_mm[axis]), tested.shape[axis])
            border = np.moveaxis(tested, axis, 0)
            border[:width] = border[-width:] = False
        window = max(WINDOW_MM, WINDOW_IN_SCALES * scale_mm) / step_mm
        sd = _local_deviation(even, on_flat, window)
        z = even / np.maximum(sd, np.float32(1e-6))
        correlations = _neighbours(z.clip(-CLIP, CLIP), on_flat)
        freedom = _freedom(z.shape, window, correlations)
        z = _normal(z, freedom)
        yield _Layer(scale_mm, (int(steps[0]), int(steps[1]), int(steps[2])), contrast, z, tested, correlations)


def _local_deviation(values: np.ndarray, flat: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Root of the mean square of `values` around each point, over flat places, single large values cut."""
    squares = values * values
    squares *= flat
    local_mean = _LocalMean(flat, window)
    most = local_mean(squares)
    most *= np.float32(CLIP**2)
    variance = local_mean(np.minimum(squares, most, out=squares))
    variance *= np.float32(1 / CLIPPED_VARIANCE)
    deviation: np.ndarray = np.sqrt(variance, out=variance)
    return deviation


class _LocalMean:
    """Gaussian mean over the points in `where`, made from sums over blocks; where none is near, that of all."""

    def __init__(self, where: np.ndarray, window: np.ndarray) -> None:
        blocks = np.maximum((window / 3).astype(int), 1)
        self._sums = [_block_sums(n, int(k)) for n, k in zip(where.shape[1:], blocks[1:], strict=True)]
        self._spread = [
            _interpolation((np.arange(n) + 0.5) / k - 0.5, len(m))
            for n, k, m in zip(where.shape[1:], blocks[1:], self._sums, strict=True)
        ]
        self._sigma = window / np.array([1, blocks[1], blocks[2]])
        self._some = 0.02 * float(blocks[1] * blocks[2])  # of a block: far from any, the mean of all takes over
        self._counts = self._blurred_sums(where.astype(np.float32)) + self._some
        self._count = max(int(np.count_nonzero(where)), 1)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(S, H, W) float32, 0 at points that are not in `where`."""
        everywhere = float(values.sum(dtype=np.float64)) / self._count
        mean = (self._blurred_sums(values) + self._some * everywhere) / self._counts
        local: np.ndarray = self._spread[0] @ mean @ self._spread[1].T
        return local

    def _blurred_sums(self, values: np.ndarray) -> np.ndarray:
        rows, columns = self._sums
        blurred: np.ndarray = ndimage.gaussian_filter(
            rows @ values @ columns.T, self._sigma, mode="constant", truncate=3
        )
        return blurred


def _block_sums(points: int, block: int) -> np.ndarray:
    """(blocks, points): sums over blocks of so many points, as a matrix."""
    number = np.arange(points) // block
    return np.equal.outer(np.arange(number[-1] + 1), number).astype(np.float32)


def _interpolation(places: np.ndarray, points: int) -> np.ndarray:
    """(places, points): linear interpolation at places among points 0, 1, ..., constant beyond them, as a matrix."""
    distance = np.abs(np.subtract.outer(places.clip(0, points - 1), np.arange(points)))
    weights: np.ndarray = (1 - distance).clip(0).astype(np.float32)
    return weights


def _end_slices(slices: int, sigma: float, correlation: float) -> np.ndarray:
    """Deviation of filtered noise in each slice in units of the middle one's: mirrored, the last slices have more."""
    if sigma < 0.25 or slices == 1:
        return np.ones(slices)
    reach = int(3.5 * sigma + 0.5)
    weights = ndimage.gaussian_filter1d(np.eye(slices), sigma, axis=0, truncate=3.5)
    middle = ndimage.gaussian_filter1d(np.eye(2 * reach + 1)[reach], sigma, truncate=3.5)[None]
    deviations = []
    for rows in (weights, middle):
        lag = np.abs(np.subtract.outer(np.arange(rows.shape[1]), np.arange(rows.shape[1])))
        covariance = np.clip(correlation, 0, 0.99) ** lag
        deviations.append(np.sqrt(np.einsum("ij,jk,ik->i", rows, covariance, rows)))
    level: np.ndarray = deviations[0] / deviations[1][0]
    return level


def _neighbours(values: np.ndarray, flat: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)) -> tuple[float, ...]:
    """Correlation of neighbouring points, both flat, along each of the axes: slices, rows and columns."""
    found = []
    values, on_flat = values * flat, flat.astype(np.float32)
    squares = values * values
    for axis in axes:
        first, second = (
            tuple(slice(*ends) if a == axis else slice(None) for a in range(3)) for ends in ((None, -1), (1, None))
        )
        scale = math.sqrt(_sum(squares[first], on_flat[second]) * _sum(on_flat[first], squares[second]))
        found.append(_sum(values[first], values[second]) / scale if scale > 0 else 0.0)
    return tuple(found)


def _sum(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of the products, exact enough in float32 along one row at a time."""
    return float(np.einsum("ijk,ijk->ij", a, b).sum(dtype=np.float64))


def _freedom(shape: tuple[int, ...], window: np.ndarray, correlations: tuple[float, ...]) -> float:
    """Degrees of freedom of the local variance, where correlations fall as Gaussians: 2 over its relative variance."""
    shared = 1.0
    for points, sigma, correlation in zip(shape, window, correlations, strict=True):
        place = np.arange(points) - points // 2
        weight = np.exp(-0.5 * (place / sigma) ** 2)
        weight /= weight.sum()
        lags = np.arange(-min(points, 40), min(points, 40) + 1)
        squared = np.clip(correlation, 0, 0.9999) ** (2 * lags.astype(float) ** 2)
        overlap = np.correlate(weight, weight, "full")
        middle = len(overlap) // 2
        inside = np.abs(lags) <= middle
        shared *= float((squared[inside] * overlap[middle + lags[inside]]).sum())
    return 1 / shared


def _normal(t: np.ndarray, freedom: float) -> np.ndarray:
    """Turn values of Student's t into normal ones of the same probability (Wallace, Ann Math Stat 30:1124, 1959)."""
    scale = float((8 * freedom + 1) / (8 * freedom + 3))
    size = t * t
    size *= np.float32(1 / freedom)
    np.sqrt(np.log1p(size, out=size), out=size)
    size *= np.float32(math.sqrt(freedom) * scale)
    normal: np.ndarray = np.copysign(size, t, out=size)
    return normal


def _peaks(layer: _Layer) -> np.ndarray:
    """(N, 6): slice, row, column, scale [mm], contrast [HU], z of the local maxima of |z| above LEAST_HEIGHT."""
    height = np.abs(layer.z)
    high = layer.tested & (height >= LEAST_HEIGHT)
    cross = ndimage.generate_binary_structure(3, 1)
    places = np.argwhere(high)
    if not len(places):
        return np.empty((0, 6))
    padded = np.pad(height, 1)
    here = padded[tuple((places + 1).T)]
    best = np.ones(len(places), bool)
    for offset in np.argwhere(cross) - 1:
        best &= here >= padded[tuple((places + 1 + offset).T)]
    places = places[best]
    at = tuple(places.T)
    scale = np.full(len(places), layer.scale_mm)
    return np.column_stack([places * np.array(layer.steps), scale, layer.contrast_hu[at], layer.z[at]])


HEIGHTS = np.linspace(LEAST_HEIGHT, 30, 1326)


def _null_peaks(layer: _Layer) -> np.ndarray:
    """Number of local maxima of |z| above each of HEIGHTS that noise alone has at this scale."""
    density = np.exp(-(HEIGHTS**2) / 2) / math.sqrt(2 * math.pi)
    for points, correlation in zip(layer.z.shape, layer.correlations, strict=True):
        if points > 1:
            density = density * _above_both(HEIGHTS, min(max(correlation, 0.0), 0.9999))
    step = HEIGHTS[1] - HEIGHTS[0]
    above = np.cumsum(density[::-1])[::-1] * step - density * step / 2
    counts: np.ndarray = 2 * int(layer.tested.sum()) * above
    return counts


def _above_both(height: np.ndarray, correlation: float) -> np.ndarray:
    """Probability that a point of this height is higher than both neighbours along one axis (Taylor et al.)."""
    h = math.sqrt((1 - correlation) / (1 + correlation))
    alpha = math.asin(math.sqrt((1 - correlation**2) / 2))
    nodes, weights = np.polynomial.legendre.leggauss(40)
    theta = alpha * (nodes + 1) / 2
    both_below = np.exp(-0.5 * (h * height[:, None] / np.sin(theta)) ** 2) @ weights * alpha / (2 * math.pi)
    chance: np.ndarray = 1 - 2 * special.ndtr(-h * height) + both_below
    return chance


def _raise_to(largest: np.ndarray, layer: _Layer) -> None:
    """Put the layer's z where it is larger, interpolated within slices."""
    fine: np.ndarray | None = None
    rows, columns = (
        _interpolation(np.arange(n) / k, m)
        for n, k, m in zip(largest.shape[1:], layer.steps[1:], layer.z.shape[1:], strict=True)
    )
    for s, values in enumerate(largest):
        if s % layer.steps[0] == 0 or fine is None:
            coarse = layer.z[s // layer.steps[0]]
            fine = coarse if layer.steps[1:] == (1, 1) else rows @ coarse @ columns.T
        np.copyto(values, fine, where=np.abs(fine) > np.abs(values))


def _apart(peaks: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Sort peaks by height and leave out those of the same sign within the disc of a higher one."""
    from scipy.spatial import cKDTree

    peaks = peaks[np.argsort(-np.abs(peaks[:, 5]), kind="stable")]
    if len(peaks) < 2:
        return peaks
    where = peaks[:, :3] * np.array([spacing_mm[2], spacing_mm[1], spacing_mm[0]])
    tree = cKDTree(where)
    left = np.ones(len(peaks), bool)
    for i in range(len(peaks)):
        if left[i]:
            for j in tree.query_ball_point(where[i], DIAMETER_IN_SCALES / 2 * peaks[i, 3]):
                if j > i and peaks[j, 5] * peaks[i, 5] > 0:
                    left[j] = False
    return peaks[left]


def _place(peak: np.ndarray, output_hu: np.ndarray, edges: dict[int, np.ndarray], spacing_mm: Spacing) -> Place:
    s, row, column = (int(n) for n in peak[:3])
    scale, contrast, z = (float(v) for v in peak[3:])
    reach = [max(round(SMOOTHING_MM / d), 1) for d in (spacing_mm[1], spacing_mm[0])]
    rows, columns = (slice(max(n - r, 0), n + r + 1) for n, r in zip((row, column), reach, strict=True))
    hu = float(output_hu[s, rows, columns].mean())
    tissue = next((name for name, (low, high) in TISSUES_HU.items() if low <= hu <= high), "between tissues")
    at_edge = bool(edges[s][row, column])
    return Place(s, row, column, DIAMETER_IN_SCALES * scale, contrast, z, at_edge, tissue)
