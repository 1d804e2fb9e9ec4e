"""Image quality without a reference: noise, its spectrum, HU shift per tissue, structure in the residual.

Volumes are (S, H, W) in HU, `spacing_mm` is (x, y, z): distance of columns, rows, slices. Everything is measured within
slices, one at a time. Definitions follow AAPM TG-233 (Samei et al., Med Phys 2019, 10.1002/mp.13763) where it has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.errors import InputError
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
    """Measure the variance in windows, each less its best plane (3 degrees of freedom).

    Unbiased for white noise. Ratios between images of the same noise texture are unbiased whatever the texture.

    Args:
        voxels_hu: (S, H, W).
        centres: (N, 3), as of `flat_soft_tissue_windows`.
        window_px: side of the windows.

    Returns:
        (N,) HU^2.
    """
    basis = _polynomials(window_px, order=1)
    out = np.empty(len(centres))
    for chosen, patches in _patches(voxels_hu, centres, window_px):
        out[chosen] = (_detrend(patches, basis) ** 2).sum(axis=1) / (window_px**2 - basis.shape[1])
    return out


def _patches(voxels_hu: np.ndarray, centres: np.ndarray, window_px: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each slice which of the centres lie in it, and their windows as (n, window_px**2)."""
    for s in np.unique(centres[:, 0]):
        chosen = np.nonzero(centres[:, 0] == s)[0]
        view = np.lib.stride_tricks.sliding_window_view(np.asarray(voxels_hu[s]), (window_px, window_px))
        first = centres[chosen, 1:] - window_px // 2
        yield chosen, view[first[:, 0], first[:, 1]].reshape(len(chosen), -1).astype(np.float64)


def _polynomials(side: int, order: int) -> np.ndarray:
    """Return an orthonormal basis (side**2, terms) of the polynomials in row and column up to a total order."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    terms = [(y**i * x**j).ravel() for i in range(order + 1) for j in range(order + 1 - i)]
    basis: np.ndarray = np.linalg.qr(np.stack(terms, axis=1))[0]
    return basis


def _detrend(patches: np.ndarray, basis: np.ndarray) -> np.ndarray:
    rest: np.ndarray = patches - (patches @ basis) @ basis.T
    return rest


def _smooth_and_gradient(
    image: np.ndarray, spacing_mm: Spacing, sigma_mm: float = SMOOTHING_MM
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) -> the smoothed image [HU] and the magnitude of its gradient [HU/mm]."""
    x, y, _ = spacing_mm
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (sigma_mm / y, sigma_mm / x))
    if min(image.shape) < 2:
        return smooth, np.zeros_like(smooth)
    return smooth, np.hypot(*np.gradient(smooth, y, x))


def _slices(voxels_hu: np.ndarray) -> np.ndarray:
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


@dataclass(frozen=True)
class NoisePowerSpectrum:
    """Noise power spectrum (NPS), and its radial mean without zero frequency.

    Attributes:
        frequency: cycles/mm.
        power: HU^2 mm^2, radial mean at `frequency`.
        power_2d: (n, n) on `np.fft.fftfreq` axes; its integral over frequency is `variance_hu2` (Parseval).
        mean_frequency: integral(f NPS df) / integral(NPS df) of the radial curve, up to Nyquist.
        peak_frequency: where the radial curve is highest.
        variance_hu2: of the detrended regions.
        rois: how many regions were measured.
    """

    frequency: np.ndarray
    power: np.ndarray
    power_2d: np.ndarray
    mean_frequency: float
    peak_frequency: float
    variance_hu2: float
    rois: int


def nps(rois_hu: np.ndarray, spacing_mm: tuple[float, ...]) -> NoisePowerSpectrum:
    """Measure the noise power spectrum of square regions, each less its best second-order polynomial (TG-233).

    Args:
        rois_hu: (N, n, n).
        spacing_mm: (x, y, ...).

    Raises:
        InputError: the regions are not square or smaller than 8.
    """
    rois = np.asarray(rois_hu, np.float64)
    if rois.ndim != 3 or rois.shape[1] != rois.shape[2] or rois.shape[1] < 8 or not len(rois):
        raise InputError(f"A noise power spectrum needs regions of shape (N, n, n) with n >= 8; got {rois.shape}.")
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


def tissue_labels(voxels_hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Label the tissues of a volume (S, H, W) as in TISSUE_NAMES: ranges of the smoothed image, eroded by SMOOTHING_MM.

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
    """What became of the HU of one tissue.

    Attributes:
        tissue: its name.
        voxels: how many it has.
        reference_hu: its mean in the reference.
        shift_hu: mean of output - reference.
    """

    tissue: str
    voxels: int
    reference_hu: float
    shift_hu: float


def hu_shift_per_tissue(
    reference_hu: np.ndarray, output_hu: np.ndarray, labels: np.ndarray, names: dict[int, str] = TISSUE_NAMES
) -> tuple[TissueShift, ...]:
    """Measure the mean HU shift of each tissue; tissues without voxels are left out.

    Args:
        reference_hu: (S, H, W).
        output_hu: (S, H, W).
        labels: (S, H, W) of `tissue_labels`, or of a phantom.
        names: tissue of each label.
    """
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
    """Measure how much of what was removed follows anatomy: near 0 for pure noise, towards 1 where edges were removed.

    Pearson's correlation, in [-1, 1], of |output - input| with the gradient magnitude of the smoothed reference, over
    the voxels whose smoothed value is above -950 HU (the patient, with the lungs). Noise that differs between regions
    gives up to about 0.1 by itself.

    Args:
        input_hu: (S, H, W).
        output_hu: (S, H, W).
        spacing_mm: (x, y, z).
        reference_hu: (S, H, W); the input where there is none.

    Returns:
        None where the same was removed everywhere.
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
    """What denoising did to one scan. None: could not be measured; `notes` says why.

    Attributes:
        noise_before: in the input.
        noise_after: in the output, in the same windows.
        noise_reference: in the reference, in the same windows.
        noise_reduction_percent: of the standard deviation.
        nps_mean_before: mean frequency of the input's noise, cycles/mm.
        nps_mean_after: the same of the output.
        hu_shift: against the reference, or the input where there is none.
        residual_structure: see the function of that name.
        has_reference: whether there was an NDCT.
        slices: how many were measured.
        notes: sentences for the user.
    """

    noise_before: Noise | None
    noise_after: Noise | None
    noise_reference: Noise | None
    noise_reduction_percent: float | None
    nps_mean_before: float | None
    nps_mean_after: float | None
    hu_shift: tuple[TissueShift, ...]
    residual_structure: float | None
    has_reference: bool
    slices: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and lists, for JSON."""
        return asdict(self)


def quality(
    input_hu: np.ndarray,
    output_hu: np.ndarray,
    spacing_mm: Spacing,
    reference_hu: np.ndarray | None = None,
    *,
    tissue_hu: tuple[float, float] = SOFT_TISSUE_HU,
) -> Quality:
    """Compare a volume before and after denoising.

    At most MAX_SLICES slices are measured, evenly spaced. Windows are found once, in the reference or else the input,
    and used for all volumes; tissues in the reference or else the output (what a good denoiser removes is independent
    of its output, not of its input). Anatomy that denoising leaves behind counts as noise of low frequency, so in
    patients `nps_mean_after` is a lower bound.

    Args:
        input_hu: (S, H, W).
        output_hu: (S, H, W).
        spacing_mm: (x, y, z).
        reference_hu: (S, H, W) the NDCT, where there is one.
        tissue_hu: lowest and highest HU of the tissue in which noise is measured.

    Raises:
        InputError: shapes differ.
    """
    if len({np.shape(v) for v in (input_hu, output_hu, reference_hu) if v is not None}) > 1:
        raise InputError(
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


def _mean_frequencies(
    volumes: Sequence[np.ndarray], guide: np.ndarray, spacing_mm: Spacing, tissue_hu: tuple[float, float]
) -> tuple[list[float | None], list[str]]:
    """Measure the mean NPS frequency of each volume, in the largest regions of which the guide has enough."""
    for side in (64, 48, 32, 24, 16):
        centres = flat_soft_tissue_windows(guide, spacing_mm, window_px=side, tissue_hu=tissue_hu)
        if len(centres) >= MIN_WINDOWS:
            break
    else:
        return [None] * len(volumes), [f"No noise spectrum: fewer than {MIN_WINDOWS} regions of 16 x 16 flat pixels."]
    frequencies: list[float | None] = []
    for volume in volumes:
        rois = np.concatenate([patches for _, patches in _patches(volume, centres, side)])
        frequencies.append(nps(rois.reshape(-1, side, side), spacing_mm).mean_frequency)
    return frequencies, [f"Noise spectrum from {len(centres)} regions of {side} x {side} pixels."]
