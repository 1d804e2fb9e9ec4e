"""How noise and a small lesion come through a denoiser in real anatomy: noise in bands, and detectability.

The LDCT is the NDCT and some noise, N + n. From it and from its mirror image N - n the denoiser D gives two results of
one anatomy with opposite noise, and (D(N + n) - D(N - n)) / 2 is what it makes of the noise alone: anatomy that it
leaves, or takes away, is in both and drops out. A disc s that is added gives its response, D(N + n + s) - D(N + n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.imaging.detectability import npwe_of_response
from ASCONDenoiseLib.imaging.noise import windows_at
from ASCONDenoiseLib.imaging.noise_spectrum import COARSE_PER_MM, nps
from ASCONTrainingLib.evaluation.lesions import flat_places, lesion_shape
from ASCONTrainingLib.evaluation.volumes import Denoise, VolumePair

DIAMETER_MM, CONTRAST_HU = 6.0, 20.0
"""The disc that is to be seen."""
SLICES = 4
"""Neighbouring slices of each volume, those with the most flat tissue."""
SIDES_PX = (32, 24, 20)
"""Sides of the windows, from the largest of which there are enough."""
LEAST_PLACES = 6


@dataclass(frozen=True)
class Probe:
    """Where the noise and the lesions of one volume are looked at.

    Attributes:
        first: of the SLICES.
        centres: (N, 3) of windows in flat tissue, slices counted from `first`; no two overlap.
        side_px: of the windows.
    """

    first: int
    centres: np.ndarray
    side_px: int


@dataclass(frozen=True)
class Response:
    """What a denoiser makes of noise and of the disc, in one volume.

    Attributes:
        coarse_hu: SD of the noise below COARSE_PER_MM.
        fine_hu: above.
        detectability: d' of the disc, by the non-prewhitening observer with an eye filter.
    """

    coarse_hu: float
    fine_hu: float
    detectability: float


def find_probe(pair: VolumePair) -> Probe | None:
    """Find flat tissue in the NDCT; None where there is too little."""
    for side in SIDES_PX:
        places = [flat_places(image, pair.spacing_mm, side) for image in pair.ndct_hu]
        counts = np.convolve([len(p) for p in places], np.ones(min(SLICES, len(places))), mode="valid")
        first = int(counts.argmax())
        if counts[first] >= LEAST_PLACES:
            chosen = places[first : first + SLICES]
            centres = [np.column_stack([np.full(len(p), s), p]) for s, p in enumerate(chosen)]
            return Probe(first, np.concatenate(centres), side)
    return None


def measure_response(run: Denoise, pair: VolumePair, probe: Probe) -> Response:
    """Measure a denoiser on the slices of a probe: it is run three times."""
    part = slice(probe.first, probe.first + SLICES)
    ndct = pair.ndct_hu[part].astype(np.float32)
    ldct, spacing_mm, side = pair.ldct_hu[part].astype(np.float32), pair.spacing_mm, probe.side_px
    shape = CONTRAST_HU * lesion_shape(DIAMETER_MM, spacing_mm, (side, side))
    with_discs = ldct.copy()
    for s, row, column in probe.centres:
        top, left = row - side // 2, column - side // 2
        with_discs[s, top : top + side, left : left + side] += shape
    plain, mirrored, seen = (run(v, spacing_mm).astype(np.float64) for v in (ldct, 2 * ndct - ldct, with_discs))
    noise, gained = (_windows(v, probe) for v in ((plain - mirrored) / 2, seen - plain))
    spectrum = nps(noise, spacing_mm, trend=None)
    return Response(
        spectrum.sd_between(0, COARSE_PER_MM),
        spectrum.sd_between(COARSE_PER_MM),
        npwe_of_response(gained.mean(axis=0), spectrum.power_2d, spacing_mm) if spectrum.variance_hu2 > 0 else math.inf,
    )


def _windows(volume: np.ndarray, probe: Probe) -> np.ndarray:
    found = np.concatenate([pixels for _, pixels in windows_at(volume, probe.centres, probe.side_px)])
    return found.reshape(-1, probe.side_px, probe.side_px)


def noise_left(responses: Sequence[tuple[Response, Response]], band: str) -> float:
    """Percent of the noise in a band, "coarse_hu" or "fine_hu", that is left: mean over volumes of LDCT and output."""
    left = [100 * getattr(after, band) / getattr(before, band) for before, after in responses]
    return float(np.mean(left)) if left else math.nan
