"""Image quality without a reference: noise, its spectrum, edges, HU shift per tissue, structure in the residual.

Volumes are (S, H, W) in HU, `spacing_mm` is (x, y, z): distance of columns, rows, slices. Everything is measured within
slices, one at a time. Definitions follow AAPM TG-233 (Samei et al., Med Phys 2019, 10.1002/mp.13763) where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from scipy import ndimage, optimize, special

from ASCONDenoiseLib.imaging.hounsfield import PADDING_HU, SOFT_TISSUE_HU, TISSUES_HU

WINDOW_PX = 11
"""Side of the square windows in which noise is measured."""
SMOOTHING_MM = 2.0
"""Standard deviation of the Gaussian that makes the smoothed image for tissues and edges."""
FLAT_SMOOTHING_MM = 3.0
"""The same for flat places: with 2 mm, the noise that is left steers the choice (variance 2 to 5 % too low)."""
MIN_WINDOWS = 20
"""Fewer windows than this give no noise figure."""
MAX_SLICES = 48
"""`quality` measures at most so many slices, evenly spaced: more do not change its figures."""
TISSUE_NAMES = dict(enumerate(TISSUES_HU, start=1))
"""Label -> name of `tissue_labels`; 0 is no tissue."""

Spacing = tuple[float, float, float]


def flat_soft_tissue_windows(
    voxels_hu: np.ndarray,
    spacing_mm: Spacing,
    *,
    window_px: int = WINDOW_PX,
    tissue_hu: tuple[float, float] = SOFT_TISSUE_HU,
    keep: float = 0.5,
) -> np.ndarray:
    """Centres (N, 3) = (slice, row, column) of square windows in flat soft tissue; N may be 0.

    A window counts when the smoothed image is soft tissue everywhere in it. Of these, each slice keeps the share `keep`
    with the least mean gradient of the SMOOTHED image; choosing by variance would choose the noise to be measured. They
    stand on a grid of half a window, so neighbours overlap. `window_variance` applies the same centres to any image of
    the same shape: denoised, or simulated noise. A window of n pixels is [centre - n // 2, centre - n // 2 + n).
    """
    low, high = tissue_hu
    half, step = window_px // 2, max(window_px // 2, 1)
    centres = [np.empty((0, 3), np.intp)]
    for s, image in enumerate(_slices(voxels_hu)):
        smooth, gradient = _smooth_and_gradient(image, spacing_mm, FLAT_SMOOTHING_MM)
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
    """(N,) variance [HU^2] in the windows at `centres` (N, 3), each less its best plane (3 degrees of freedom).

    Unbiased for white noise. Ratios between images of the same noise texture are unbiased whatever the texture.
    """
    basis = _polynomials(window_px, order=1)
    out = np.empty(len(centres))
    for chosen, patches in _patches(voxels_hu, centres, window_px):
        out[chosen] = (_detrend(patches, basis) ** 2).sum(axis=1) / (window_px**2 - basis.shape[1])
    return out


def _patches(voxels_hu: np.ndarray, centres: np.ndarray, window_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per slice: which of the centres lie in it, and their windows as (n, window_px**2)."""
    for s in np.unique(centres[:, 0]):
        chosen = np.nonzero(centres[:, 0] == s)[0]
        view = np.lib.stride_tricks.sliding_window_view(np.asarray(voxels_hu[s]), (window_px, window_px))
        first = centres[chosen, 1:] - window_px // 2
        yield chosen, view[first[:, 0], first[:, 1]].reshape(len(chosen), -1).astype(np.float64)


def _polynomials(side: int, order: int) -> np.ndarray:
    """Orthonormal basis (side**2, terms) of the polynomials in row and column up to a total order."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    terms = [(y**i * x**j).ravel() for i in range(order + 1) for j in range(order + 1 - i)]
    return np.linalg.qr(np.stack(terms, axis=1))[0]


def _detrend(patches: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return patches - (patches @ basis) @ basis.T


def _smooth_and_gradient(image: np.ndarray, spacing_mm: Spacing, sigma_mm: float = SMOOTHING_MM) -> tuple:
    """(H, W) -> the smoothed image [HU] and the magnitude of its gradient [HU/mm]."""
    x, y, _ = spacing_mm
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (sigma_mm / y, sigma_mm / x))
    if min(image.shape) < 2:
        return smooth, np.zeros_like(smooth)
    return smooth, np.hypot(*np.gradient(smooth, y, x))


def _slices(voxels_hu: np.ndarray) -> np.ndarray:
    if np.ndim(voxels_hu) != 3:
        raise ValueError(f"A volume of (slices, rows, columns) is needed; got shape {np.shape(voxels_hu)}.")
    return voxels_hu


@dataclass(frozen=True)
class Noise:
    """Noise of a patient scan: the median over `windows` windows of the local standard deviation, in HU.

    Each window less its plane: what varies more slowly than a window is left out, 1 to 5 % of usual kernels' noise.
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
    """Soft tissue noise (S, H, W) -> Noise; None where there is too little flat soft tissue (MIN_WINDOWS).

    The median forgives the windows that hold a vessel or a fat septum (Christianson et al., AJR 2015, take the mode of
    such local deviations). `centres` from another image measures both in the same places. Water phantoms, at 0 HU,
    need their own `tissue_hu`.
    """
    if centres is None:
        centres = flat_soft_tissue_windows(voxels_hu, spacing_mm, tissue_hu=tissue_hu)
    if len(centres) < MIN_WINDOWS:
        return None
    return Noise(float(np.sqrt(np.median(window_variance(voxels_hu, centres)))), len(centres))


@dataclass(frozen=True)
class NoisePowerSpectrum:
    """NPS: `power` [HU^2 mm^2] on `frequency` [cycles/mm], the radial mean of `power_2d`; zero frequency is left out.

    `power_2d` is (n, n) on `np.fft.fftfreq` axes; its integral over frequency is `variance_hu2`, that of the detrended
    regions (Parseval). `mean_frequency` = integral(f NPS df) / integral(NPS df) of the radial curve, up to Nyquist.
    """

    frequency: np.ndarray
    power: np.ndarray
    power_2d: np.ndarray
    mean_frequency: float
    peak_frequency: float
    variance_hu2: float
    rois: int


def nps(rois_hu: np.ndarray, spacing_mm: tuple[float, ...]) -> NoisePowerSpectrum:
    """Noise power spectrum of square regions (N, n, n), each less its best second-order polynomial (TG-233).

    `spacing_mm` = (x, y, ...). Raises ValueError where the regions are not square or smaller than 8.
    """
    rois = np.asarray(rois_hu, np.float64)
    if rois.ndim != 3 or rois.shape[1] != rois.shape[2] or rois.shape[1] < 8 or not len(rois):
        raise ValueError(f"A noise power spectrum needs regions of shape (N, n, n) with n >= 8; got {rois.shape}.")
    count, n, _ = rois.shape
    dx, dy = spacing_mm[:2]
    flat = _detrend(rois.reshape(count, -1), _polynomials(n, order=2))
    power_2d = (np.abs(np.fft.fft2(flat.reshape(rois.shape))) ** 2).mean(axis=0) * dx * dy / n**2
    radius = np.hypot(np.fft.fftfreq(n, dy)[:, None], np.fft.fftfreq(n, dx)[None, :])
    width = 1 / (n * min(dx, dy))
    ring = np.rint(radius / width).astype(int).ravel()
    rings = np.arange(1, n // 2 + 1)
    rings = rings[rings * width <= 0.5 / max(dx, dy) + 1e-9]
    power = (np.bincount(ring, power_2d.ravel()) / np.maximum(np.bincount(ring), 1))[rings]
    frequency = rings * width
    total = power.sum()
    mean = float((frequency * power).sum() / total) if total > 0 else 0.0
    peak = float(frequency[power.argmax()])
    return NoisePowerSpectrum(frequency, power, power_2d, mean, peak, float((flat**2).mean()), count)


TEN_TO_NINETY = 2 * special.ndtri(0.9)
"""10-90 % width of an error function in units of its standard deviation: 2.563."""


def edge_width_mm(distance_mm: np.ndarray, values_hu: np.ndarray) -> float:
    """10-90 % width [mm] of one edge along a line, or of any points at known distances from an edge.

    Least-squares fit of an error function: noise does not widen it. Raises ValueError where no edge is found.
    """
    d, v = np.asarray(distance_mm, np.float64).ravel(), np.asarray(values_hu, np.float64).ravel()
    if d.size != v.size or d.size < 6:
        raise ValueError(f"An edge needs at least 6 points with as many distances; got {v.size} and {d.size}.")
    order = np.argsort(d)
    low, high = (v[part].mean() for part in (order[: d.size // 5 + 1], order[-(d.size // 5 + 1) :]))
    share = np.clip((high - v.mean()) / (high - low), 0.1, 0.9) if high != low else 0.5  # left of a sharp step
    start = [low, high, np.quantile(d, share), np.ptp(d) / 10]
    return _fit_edge(lambda p: p[0] + (p[1] - p[0]) * special.ndtr((d - p[2]) / p[3]), v, start, limit_mm=np.ptp(d))


def circular_edge_width_mm(
    image_hu: np.ndarray, spacing_mm: tuple[float, ...], centre_px: tuple[float, float], radius_mm: float
) -> float:
    """10-90 % width [mm] of the edge of a round insert in (H, W), over all directions (circular edge, Yu et al. 2015).

    `centre_px` = (row, column) and `radius_mm` are first guesses: both are fitted, with the two levels and the width,
    to the pixels from half to one and a half radii (nothing else may lie there). Raises ValueError without an edge.
    """
    dx, dy = spacing_mm[:2]
    row, column = np.indices(image_hu.shape)
    y, x = (row - centre_px[0]) * dy, (column - centre_px[1]) * dx
    r = np.hypot(y, x)
    ring = (r >= 0.5 * radius_mm) & (r <= 1.5 * radius_mm)
    y, x, r, v = y[ring], x[ring], r[ring], image_hu[ring].astype(np.float64)
    inside, outside = v[r < 0.8 * radius_mm], v[r > 1.2 * radius_mm]
    if min(inside.size, outside.size) < 8:
        raise ValueError(f"An insert of radius {radius_mm:g} mm covers too few pixels; choose a larger one.")
    start = [inside.mean(), outside.mean(), radius_mm, max(dx, dy), 0.0, 0.0]

    def edge(p: np.ndarray) -> np.ndarray:
        return p[0] + (p[1] - p[0]) * special.ndtr((np.hypot(y - p[4], x - p[5]) - p[2]) / p[3])

    return _fit_edge(edge, v, start, limit_mm=radius_mm)


def _fit_edge(edge: Callable, values_hu: np.ndarray, start: list[float], *, limit_mm: float) -> float:
    fit = optimize.least_squares(lambda p: edge(p) - values_hu, start, x_scale=np.maximum(np.abs(start), 0.1))
    width, step, noise = TEN_TO_NINETY * abs(fit.x[3]), abs(fit.x[1] - fit.x[0]), np.sqrt(np.mean(fit.fun**2))
    if not fit.success or width > limit_mm or step < max(0.5 * noise, 1e-6):
        raise ValueError("No edge was found: the step is lost in the noise or wider than the region given.")
    return float(width)


def tissue_labels(voxels_hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """(S, H, W) -> uint8 labels of TISSUE_NAMES: ranges of the smoothed image, eroded by SMOOTHING_MM.

    Classes cut from noisy voxels would punish denoising (regression to the mean): hence the smoothed image, of the
    NDCT where there is one. Padding (-1024 and below) has no label.
    """
    x, y, _ = spacing_mm
    size = tuple(2 * max(round(SMOOTHING_MM / d), 1) + 1 for d in (y, x))
    labels = np.zeros(np.shape(voxels_hu), np.uint8)
    for image, out in zip(_slices(voxels_hu), labels, strict=True):
        smooth, _ = _smooth_and_gradient(image, spacing_mm)
        for label, name in TISSUE_NAMES.items():
            low, high = TISSUES_HU[name]
            inside = (smooth >= max(low, PADDING_HU + 0.5)) & (smooth <= high)
            out[ndimage.minimum_filter(inside, size, mode="constant")] = label  # False beyond the border
    return labels


@dataclass(frozen=True)
class TissueShift:
    """Mean of (output - reference) over the voxels of one tissue, and the tissue's mean in the reference."""

    tissue: str
    voxels: int
    reference_hu: float
    shift_hu: float


def hu_shift_per_tissue(
    reference_hu: np.ndarray, output_hu: np.ndarray, labels: np.ndarray, names: dict[int, str] = TISSUE_NAMES
) -> tuple[TissueShift, ...]:
    """Mean HU shift per label (of `tissue_labels`, or of a phantom with its `names`); empty ones are left out."""
    bins = 256
    count, base, shift = np.zeros(bins, np.int64), np.zeros(bins), np.zeros(bins)
    for a, b, label in zip(reference_hu, output_hu, labels, strict=True):
        label, a, b = label.ravel(), a.ravel().astype(np.float64), b.ravel().astype(np.float64)
        count += np.bincount(label, minlength=bins)
        base += np.bincount(label, a, bins)
        shift += np.bincount(label, b - a, bins)
    return tuple(
        TissueShift(name, int(count[k]), float(base[k] / count[k]), float(shift[k] / count[k]))
        for k, name in names.items()
        if count[k]
    )


def residual_structure(
    input_hu: np.ndarray, output_hu: np.ndarray, spacing_mm: Spacing, reference_hu: np.ndarray | None = None
) -> float | None:
    """How much of what was removed follows anatomy: near 0 for pure noise, towards 1 where edges were removed.

    Pearson's correlation, in [-1, 1], of |output - input| with the gradient magnitude of the smoothed reference (of the
    input where there is none), over the voxels whose smoothed value is above -950 HU (the patient, with the lungs).
    Noise that differs between regions gives up to about 0.1 by itself. None where the same was removed everywhere.
    """
    n, sums, products = 0, np.zeros(2), np.zeros((2, 2))
    for before, after, guide in zip(
        input_hu, output_hu, input_hu if reference_hu is None else reference_hu, strict=True
    ):
        smooth, gradient = _smooth_and_gradient(guide, spacing_mm)
        patient = smooth > TISSUES_HU["lung"][0]
        pair = np.stack([np.abs(after[patient].astype(np.float64) - before[patient]), gradient[patient]])
        n, sums, products = n + pair.shape[1], sums + pair.sum(axis=1), products + pair @ pair.T
    if n < 2:
        return None
    covariance = products / n - np.outer(sums / n, sums / n)
    scale = np.sqrt(max(covariance[0, 0], 0) * max(covariance[1, 1], 0))
    return float(np.clip(covariance[0, 1] / scale, -1, 1)) if scale > 1e-9 else None


@dataclass(frozen=True)
class Quality:
    """What denoising did to one scan. None: could not be measured; `notes` says why."""

    noise_before: Noise | None
    noise_after: Noise | None
    noise_reference: Noise | None
    noise_reduction_percent: float | None
    nps_mean_before: float | None  # cycles/mm
    nps_mean_after: float | None
    hu_shift: tuple[TissueShift, ...]  # against the reference, or the input where there is none
    residual_structure: float | None
    has_reference: bool
    slices: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict:
        """Plain numbers, strings and lists, for JSON."""
        return asdict(self)


def quality(
    input_hu: np.ndarray,
    output_hu: np.ndarray,
    spacing_mm: Spacing,
    reference_hu: np.ndarray | None = None,
    *,
    tissue_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> Quality:
    """Compare a volume before and after denoising, each (S, H, W) in HU, with the NDCT as reference where there is one.

    At most MAX_SLICES slices are measured, evenly spaced. Windows are found once, in the reference or else the input,
    and used for all volumes; tissues in the reference or else the output (what a good denoiser removes is independent
    of its output, not of its input). Anatomy that denoising leaves behind counts as noise of low frequency, so in
    patients `nps_mean_after` is a lower bound. Raises ValueError where shapes differ.
    """
    if len({np.shape(v) for v in (input_hu, output_hu, reference_hu) if v is not None}) > 1:
        raise ValueError(
            f"The volumes to compare differ in shape: input {np.shape(input_hu)}, output {np.shape(output_hu)}"
            + ("." if reference_hu is None else f", reference {np.shape(reference_hu)}.")
        )
    total = len(_slices(input_hu))
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_SLICES)).round().astype(int))
    before, after = input_hu[chosen], output_hu[chosen]
    reference = None if reference_hu is None else reference_hu[chosen]
    guide = before if reference is None else reference
    centres = flat_soft_tissue_windows(guide, spacing_mm, tissue_hu=tissue_hu)
    noise_before, noise_after = (noise_hu(v, spacing_mm, centres=centres) for v in (before, after))
    spectra, notes = _mean_frequencies((before, after), guide, spacing_mm, tissue_hu)
    if noise_before is None:
        notes.insert(0, f"No noise figure: {len(centres)} windows of flat soft tissue, {MIN_WINDOWS} are needed.")
    return Quality(
        noise_before=noise_before,
        noise_after=noise_after,
        noise_reference=None if reference is None else noise_hu(reference, spacing_mm, centres=centres),
        noise_reduction_percent=_reduction_percent(noise_before, noise_after),
        nps_mean_before=spectra[0],
        nps_mean_after=spectra[1],
        hu_shift=hu_shift_per_tissue(guide, after, tissue_labels(after if reference is None else guide, spacing_mm)),
        residual_structure=residual_structure(before, after, spacing_mm, guide),
        has_reference=reference is not None,
        slices=len(chosen),
        notes=tuple(notes),
    )


def _reduction_percent(before: Noise | None, after: Noise | None) -> float | None:
    return 100 * (1 - after.sd_hu / before.sd_hu) if before and after and before.sd_hu > 0 else None


def _mean_frequencies(volumes, guide: np.ndarray, spacing_mm: Spacing, tissue_hu) -> tuple[list, list[str]]:
    """Mean NPS frequency of each volume, in the largest regions of which the guide has enough, and a note."""
    for side in (64, 48, 32, 24, 16):
        centres = flat_soft_tissue_windows(guide, spacing_mm, window_px=side, tissue_hu=tissue_hu)
        if len(centres) >= MIN_WINDOWS:
            break
    else:
        return [None] * len(volumes), [f"No noise spectrum: fewer than {MIN_WINDOWS} regions of 16 x 16 flat pixels."]
    found = []
    for volume in volumes:
        rois = np.concatenate([patches for _, patches in _patches(volume, centres, side)])
        found.append(nps(rois.reshape(-1, side, side), spacing_mm).mean_frequency)
    return found, [f"Noise spectrum from {len(centres)} regions of {side} x {side} pixels."]
