"""What a denoiser must not do to an image: shift HU, widen edges, lose lesions, take anatomy away, invent structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import image_quality
from ASCONDenoiseLib.imaging.image_quality import TissueShift
from ASCONTrainingLib.evaluation.cylinder import (
    Detectability,
    PureNoise,
    cylinder_edges,
    disc_detectability,
    pure_noise_structure,
)
from ASCONTrainingLib.evaluation.edges import PATIENT_EDGES_HU, Edge, patient_edges
from ASCONTrainingLib.evaluation.lesions import LesionPoint, lesion_points
from ASCONTrainingLib.evaluation.safety_settings import EVERYTHING, SafetySettings
from ASCONTrainingLib.evaluation.volumes import Denoise, VolumePair

MAX_SHIFT_HU = 1.0
MAX_EDGE_RATIO = 1.1
MIN_KEPT = 0.9
MIN_SNR = 5.0
"""The limits: mean HU per tissue, edge widths against the NDCT's, contrast kept above this matched-filter SNR."""

SHARP_EDGE_HU = 100.0
"""Inserts of the cylinder with less contrast are reported, but do not count: noise hides their edges."""


@dataclass(frozen=True)
class Safety:
    """All measurements of one denoiser.

    Attributes:
        name: of the denoiser.
        shifts: of each tissue's mean HU.
        edges: in patients and in the cylinder.
        lesions: contrast kept by each kind at each dose.
        residual_structure: correlation of what was removed with the NDCT's gradient; None where it is not known.
        ideal_structure: the same for a denoiser that removes exactly the noise which was added.
        pure_noise: what looks most like a lesion in a uniform cylinder.
        fixed_pattern_hu: SD over pixels of what two halves of a uniform cylinder's realisations have in common after
            denoising.
        detectability: of faint discs in a uniform cylinder.
    """

    name: str
    shifts: tuple[TissueShift, ...]
    edges: tuple[Edge, ...]
    lesions: tuple[LesionPoint, ...]
    residual_structure: float | None
    ideal_structure: float | None
    pure_noise: tuple[PureNoise, ...]
    fixed_pattern_hu: float
    detectability: tuple[Detectability, ...] = ()

    def limits_kept(self) -> dict[str, bool | None]:
        """Each limit in words, and whether it is kept; None where that could not be measured."""
        counted = [e for e in self.edges if abs(e.contrast_hu) >= SHARP_EDGE_HU]
        seen = [point for point in self.lesions if point.snr > MIN_SNR]
        return {
            f"mean HU of every tissue within {MAX_SHIFT_HU:g} HU": _all(
                abs(shift.shift_hu) <= MAX_SHIFT_HU for shift in self.shifts
            ),
            f"edges at most {MAX_EDGE_RATIO:g} times as wide": _all(e.ratio <= MAX_EDGE_RATIO for e in counted),
            f"lesions of SNR above {MIN_SNR:g} keep {MIN_KEPT:.0%} of their contrast": _all(
                point.kept >= MIN_KEPT for point in seen
            ),
            "nothing in pure noise looks more like a lesion than before": _all(
                most.output_hu <= 1.01 * most.ldct_hu for most in self.pure_noise
            ),
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"judgements": self.limits_kept()}


def _all(kept: Iterable[bool]) -> bool | None:
    """Whether all of them are true; None where there are none."""
    found = list(kept)
    return all(found) if found else None


def measure(
    name: str,
    denoise: Denoise,
    pairs: Sequence[VolumePair],
    settings: SafetySettings = EVERYTHING,
    say: Callable[[str], None] = lambda text: None,
) -> Safety:
    """Measure everything of one denoiser.

    Args:
        name: of the denoiser.
        denoise: the denoiser.
        pairs: real or phantom volumes that it has not seen.
        settings: how much is measured.
        say: called with a sentence now and then.

    Raises:
        InputError: there are no pairs.
    """
    if not pairs:
        raise InputError("The safety of a denoiser is measured on slices; there are none.")
    say(f"{name}: tissues, edges and the residual of {len(pairs)} volumes")
    outputs = [denoise(pair.ldct_hu, pair.spacing_mm) for pair in pairs]
    labels = [image_quality.tissue_labels(pair.ndct_hu, pair.spacing_mm) for pair in pairs]
    shifts = [
        image_quality.hu_shift_per_tissue(p.ndct_hu, output, of_one)
        for p, output, of_one in zip(pairs, outputs, labels, strict=True)
    ]
    edges = [patient_edges(pairs, outputs, band, settings.edges) for band in PATIENT_EDGES_HU]
    residual, ideal = (
        _mean([image_quality.residual_structure(p.ldct_hu, after, p.spacing_mm, p.ndct_hu) for p, after in both])
        for both in (zip(pairs, outputs, strict=True), ((p, p.ndct_hu) for p in pairs))
    )
    say(f"{name}: cylinder with inserts, and without")
    edges += cylinder_edges(denoise, settings)
    pure_noise, fixed_pattern = pure_noise_structure(denoise, settings)
    discs = disc_detectability(denoise, settings)
    say(f"{name}: lesions")
    lesions = lesion_points(denoise, pairs, settings, say)
    fitted = tuple(edge for edge in edges if edge is not None)
    return Safety(name, _together(shifts), fitted, lesions, residual, ideal, pure_noise, fixed_pattern, discs)


def _together(volumes: Sequence[Sequence[TissueShift]]) -> tuple[TissueShift, ...]:
    """Shifts of several volumes as one, each voxel counted alike."""
    together = []
    for tissue in image_quality.TISSUE_NAMES.values():
        parts = [shift for volume in volumes for shift in volume if shift.tissue == tissue]
        if voxels := sum(part.voxels for part in parts):
            reference_hu = sum(part.voxels * part.reference_hu for part in parts) / voxels
            shift_hu = sum(part.voxels * part.shift_hu for part in parts) / voxels
            together.append(TissueShift(tissue, voxels, reference_hu, shift_hu))
    return tuple(together)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
