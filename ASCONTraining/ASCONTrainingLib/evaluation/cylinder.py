"""Measurements on scans of a cylinder: edges of its inserts, and what pure noise is turned into without them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.signal import fftconvolve

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.detectability import cho
from ASCONDenoiseLib.imaging.edges import circular_edge_width_mm
from ASCONDenoiseLib.imaging.noise import Spacing
from ASCONDenoiseLib.physics.cylinder import Insert, cylinder, standard_inserts
from ASCONDenoiseLib.physics.dose import scan
from ASCONDenoiseLib.physics.phantom_volume import Phantom
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONTrainingLib.evaluation.edges import Edge
from ASCONTrainingLib.evaluation.lesions import lesion_shape
from ASCONTrainingLib.evaluation.safety_settings import SafetySettings
from ASCONTrainingLib.evaluation.volumes import Denoise

DISC_HU = 10.0
CHANNELS = 4
"""Of the observer: few, so that few realisations are enough."""
PHOTONS = 3e5
"""Per ray at normal dose: some 11 HU of noise in the middle of the cylinder."""


@dataclass(frozen=True)
class PureNoise:
    """What looks most like a lesion in a uniform cylinder.

    Attributes:
        diameter_mm: of the lesion.
        ldct_hu, output_hu: apparent contrast before and after.
        ldct_sd, output_sd: the same in standard deviations of all apparent contrasts there.
    """

    diameter_mm: float
    ldct_hu: float
    output_hu: float
    ldct_sd: float
    output_sd: float


@dataclass(frozen=True)
class Detectability:
    """How well a disc is seen in a uniform cylinder, by the channelised Hotelling observer.

    Attributes:
        diameter_mm, contrast_hu: of the disc.
        count: of realisations with it; about as many without.
        ldct, output: d' before and after.
    """

    diameter_mm: float
    contrast_hu: float
    count: int
    ldct: float
    output: float


def _cylinder(settings: SafetySettings, inserts: tuple[Insert, ...] | None) -> Phantom:
    side = settings.cylinder_side
    shape, pixel = (settings.cylinder_slices, side, side), 256 / side
    return cylinder(shape, (pixel, pixel, 3.0), inserts=inserts)


def _low_dose(phantom: Phantom, settings: SafetySettings, seed: int) -> np.ndarray:
    """All the noise that a scan at the low dose has, in one go."""
    photons = PHOTONS * settings.cylinder_dose
    scanner = DoseSettings(1.0, kernel="standard", photons=photons, views=settings.views, seed=seed)
    return scan(phantom.voxels_hu, phantom.spacing_mm, scanner)


def cylinder_edges(denoise: Denoise, settings: SafetySettings) -> list[Edge | None]:
    """The edge of each insert in the mean output of all realisations, against that in the mean of the same LDCT.

    None for an insert that noise hides in the LDCT already.
    """
    inserts = [insert for insert in standard_inserts() if not insert.texture_sd_hu]
    phantom = _cylinder(settings, tuple(inserts))
    ldct = _low_dose(phantom, settings, settings.seed + 1)
    means = [volume.astype(np.float64).mean(0) for volume in (ldct, denoise(ldct, phantom.spacing_mm))]
    middle, pixel = (settings.cylinder_side - 1) / 2, phantom.spacing_mm[0]
    edges: list[Edge | None] = []
    for insert in inserts:
        angle = math.radians(insert.angle_deg)
        place = (
            middle + insert.distance_mm * math.sin(angle) / pixel,
            middle + insert.distance_mm * math.cos(angle) / pixel,
        )
        before, after = (_width_mm(image, phantom.spacing_mm, place, insert.diameter_mm / 2) for image in means)
        where, count = f"insert {insert.name}", settings.cylinder_slices
        edges.append(None if before is None else Edge(where, insert.hu, count, before, after))
    return edges


def _width_mm(image: np.ndarray, spacing_mm: Spacing, place: tuple[float, float], radius_mm: float) -> float | None:
    """Of the edge of an insert; None where it is lost."""
    try:
        return circular_edge_width_mm(image, spacing_mm, place, radius_mm)
    except InputError:
        return None


def pure_noise_structure(denoise: Denoise, settings: SafetySettings) -> tuple[tuple[PureNoise, ...], float]:
    """What a uniform cylinder's noise is turned into: apparent lesions of each size, and a fixed pattern in HU."""
    phantom = _cylinder(settings, ())
    ldct = _low_dose(phantom, settings, settings.seed + 2)
    output = denoise(ldct, phantom.spacing_mm)
    middle, pixel = (settings.cylinder_side - 1) / 2, phantom.spacing_mm[0]
    y, x = np.indices(ldct.shape[1:])
    distance_mm = np.hypot(y - middle, x - middle) * pixel
    strongest = []
    for diameter in settings.diameters_mm:
        inside = distance_mm < 100 - 1.5 * diameter
        responses = [_apparent_contrast(volume, diameter, pixel)[:, inside] for volume in (ldct, output)]
        hu = [float(np.abs(r).max()) for r in responses]
        sd = [most / max(float(r.std()), 1e-9) for most, r in zip(hu, responses, strict=True)]
        strongest.append(PureNoise(diameter, *hu, *sd))
    inside = distance_mm < 85
    halves = [output[first::2, inside].astype(np.float64).mean(0) for first in (0, 1)]
    common = float(np.mean((halves[0] - halves[0].mean()) * (halves[1] - halves[1].mean())))  # noise is not common
    return tuple(strongest), math.sqrt(max(common, 0.0))


def disc_detectability(denoise: Denoise, settings: SafetySettings) -> tuple[Detectability, ...]:
    """Detectability of discs of each size in a uniform cylinder: in one half of its slices, against the other half."""
    phantom = _cylinder(settings, ())
    ldct = _low_dose(phantom, settings, settings.seed + 3).astype(np.float32)
    pixel, middle = phantom.spacing_mm[0], (settings.cylinder_side - 1) / 2
    half = len(ldct) // 2
    found = []
    for diameter in settings.diameters_mm:
        reach = math.ceil(diameter / pixel)
        step = 2 * reach + 1
        line = np.arange(-int(70 / pixel) + reach, int(70 / pixel) - reach + 1, step)
        places = [
            (round(middle + y), round(middle + x))
            for y in line
            for x in line
            if math.hypot(y, x) * pixel < 70 - diameter
        ]
        with_discs = ldct[:half].copy()
        for row, column in places:
            part = slice(row - reach, row + reach + 1), slice(column - reach, column + reach + 1)
            with_discs[(slice(None), *part)] += DISC_HU * lesion_shape(diameter, phantom.spacing_mm, (step, step))
        values = []
        for present, absent in (
            (with_discs, ldct[half:]),
            (denoise(with_discs, phantom.spacing_mm), denoise(ldct[half:], phantom.spacing_mm)),
        ):
            seen, empty = (
                np.concatenate([v[:, r - reach : r + reach + 1, c - reach : c + reach + 1] for r, c in places])
                for v in (present, absent)
            )
            values.append(cho(seen, empty, phantom.spacing_mm, diameter, CHANNELS))
        found.append(Detectability(diameter, DISC_HU, half * len(places), values[0], values[1]))
    return tuple(found)


def _apparent_contrast(volume: np.ndarray, diameter_mm: float, pixel_mm: float) -> np.ndarray:
    """(S, H, W): mean in a disc less mean in the ring of the same area around it, at each pixel."""
    reach = int(np.ceil(diameter_mm / pixel_mm))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * pixel_mm
    r = np.hypot(y, x)
    disc = r <= diameter_mm / 2
    ring = (r > diameter_mm / 2) & (r <= diameter_mm / 2 * math.sqrt(2))
    kernel = disc / disc.sum() - ring / ring.sum()
    return fftconvolve(volume.astype(np.float64), kernel[None], mode="same", axes=(1, 2))
