"""Image quality without a reference: noise before and after, HU shift per tissue, structure in the residual.

Volumes are (S, H, W) in HU, `spacing_mm` is (x, y, z): distance of columns, rows, slices. Everything is measured within
slices, one at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.detectability import npwe
from ASCONDenoiseLib.imaging.hounsfield import PADDING_HU, SOFT_TISSUE_HU, TISSUES_HU
from ASCONDenoiseLib.imaging.noise import (
    MIN_WINDOWS,
    SMOOTHING_MM,
    Noise,
    Spacing,
    checked_volume,
    flat_soft_tissue_windows,
    noise_hu,
    smooth_and_gradient,
)
from ASCONDenoiseLib.imaging.noise_spectrum import (
    REGION_SIDES_PX,
    NoisePowerSpectrum,
    Texture,
    flat_regions,
    nps_at,
    slice_correlation,
)

MAX_SLICES = 48
"""`quality` measures at most so many slices, evenly spaced: more do not change its figures."""
DISC_MM, DISC_HU = 6.0, 20.0
"""Diameter and contrast of the disc whose detectability a noise spectrum gets: a faint lesion of the liver."""
TISSUE_NAMES = dict(enumerate(TISSUES_HU, start=1))
"""Label -> name of `tissue_labels`; 0 is no tissue."""


def tissue_labels(voxels_hu: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    """Label the tissues of a volume (S, H, W) as in TISSUE_NAMES: ranges of the smoothed image, eroded by SMOOTHING_MM.

    Classes cut from noisy voxels would punish denoising (regression to the mean): hence the smoothed image, of the
    NDCT where there is one. Padding (-1024 and below) has no label.
    """
    x, y, _ = spacing_mm
    size = tuple(2 * max(round(SMOOTHING_MM / d), 1) + 1 for d in (y, x))
    labels = np.zeros(np.shape(voxels_hu), np.uint8)
    for image, out in zip(checked_volume(voxels_hu), labels, strict=True):
        smooth, _ = smooth_and_gradient(image, spacing_mm)
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
        smooth, gradient = smooth_and_gradient(guide, spacing_mm)
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
        texture_before, texture_after, texture_reference: of the noise, in the same regions.
        slice_correlation_before, slice_correlation_after: of the noise of neighbouring slices.
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
    texture_before: Texture | None
    texture_after: Texture | None
    texture_reference: Texture | None
    slice_correlation_before: float | None
    slice_correlation_after: float | None
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
    patients the output's mean frequency is a lower bound, and its coarse noise an upper one.

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
    total = len(checked_volume(input_hu))
    chosen = np.unique(np.linspace(0, total - 1, min(total, MAX_SLICES)).round().astype(int))
    before, after = input_hu[chosen], output_hu[chosen]
    reference = None if reference_hu is None else reference_hu[chosen]
    guide = before if reference is None else reference
    centres = flat_soft_tissue_windows(guide, spacing_mm, tissue_hu=tissue_hu)
    noise_before, noise_after = (noise_hu(v, spacing_mm, centres=centres) for v in (before, after))
    textures, notes = _textures((before, after, reference), guide, spacing_mm, tissue_hu)
    in_volume = np.column_stack([chosen[centres[:, 0]], centres[:, 1:]])
    if noise_before is None:
        notes.insert(0, f"No noise figure: {len(centres)} windows of flat soft tissue, {MIN_WINDOWS} are needed.")
    return Quality(
        noise_before=noise_before,
        noise_after=noise_after,
        noise_reference=None if reference is None else noise_hu(reference, spacing_mm, centres=centres),
        noise_reduction_percent=_reduction_percent(noise_before, noise_after),
        texture_before=textures[0],
        texture_after=textures[1],
        texture_reference=textures[2],
        slice_correlation_before=slice_correlation(input_hu, spacing_mm, in_volume),
        slice_correlation_after=slice_correlation(output_hu, spacing_mm, in_volume),
        hu_shift=hu_shift_per_tissue(guide, after, tissue_labels(after if reference is None else guide, spacing_mm)),
        residual_structure=residual_structure(before, after, spacing_mm, guide),
        has_reference=reference is not None,
        slices=len(chosen),
        notes=tuple(notes),
    )


def _reduction_percent(before: Noise | None, after: Noise | None) -> float | None:
    return 100 * (1 - after.sd_hu / before.sd_hu) if before and after and before.sd_hu > 0 else None


def _with_detectability(spectrum: NoisePowerSpectrum) -> Texture:
    """The spectrum's numbers, with d' of a disc for an observer like the eye (NPWE); the image's blur is not in it."""
    texture = spectrum.summary()
    if not any(texture.power):
        return texture
    return replace(texture, disc_detectability=npwe(DISC_MM, DISC_HU, spectrum))


def _textures(
    volumes: Sequence[np.ndarray | None], guide: np.ndarray, spacing_mm: Spacing, tissue_hu: tuple[float, float]
) -> tuple[list[Texture | None], list[str]]:
    """Measure the texture of each volume in the same regions, and say which; None for a volume that is None."""
    found = flat_regions(guide, spacing_mm, tissue_hu)
    if found is None:
        side = REGION_SIDES_PX[-1]
        note = f"No noise spectrum: fewer than {MIN_WINDOWS} regions of {side} x {side} flat pixels."
        return [None] * len(volumes), [note]
    centres, side = found
    textures = [None if v is None else _with_detectability(nps_at(v, centres, side, spacing_mm)) for v in volumes]
    return textures, [f"Noise spectrum from {len(centres)} regions of {side} x {side} pixels."]
