"""How much of a lesion's contrast a denoiser keeps, against how well the lesion can be seen in the LDCT.

Lesions are discs added to real normal-dose slices before the noise of a low dose is. The contrast kept is what the
output gains by the lesion under the very same noise, over what the lesion is: < w, y(with) - y(without) > /
< w, lesion >, w the lesion's shape. The matched filter is the same w: SNR = < w, lesion > / SD(< w, noise >), without
whitening, measured over realisations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.imaging.noise import Spacing, flat_soft_tissue_windows
from ASCONDenoiseLib.physics.calibration import calibrate
from ASCONDenoiseLib.physics.dose import noise_factor, simulate
from ASCONDenoiseLib.physics.phantom_volume import PSF_SIGMA_MM
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONTrainingLib.evaluation.safety_settings import SafetySettings
from ASCONTrainingLib.evaluation.volumes import Denoise, VolumePair

LESION_TISSUE_HU = (10.0, 140.0)
"""Lesions lie in flat tissue of these HU: organs with and without contrast medium."""


@dataclass(frozen=True)
class LesionPoint:
    """Lesions of one contrast, size and dose.

    Attributes:
        dose: fraction of the normal dose.
        contrast_hu: of the lesions.
        diameter_mm: of the lesions.
        count: lesions measured.
        snr: of the matched filter in the LDCT.
        kept: fraction of the contrast that is kept.
        kept_sd: its standard deviation over realisations and places; None where there was one.
    """

    dose: float
    contrast_hu: float
    diameter_mm: float
    count: int
    snr: float
    kept: float
    kept_sd: float | None


def lesion_shape(diameter_mm: float, spacing_mm: Spacing, side: tuple[int, int]) -> np.ndarray:
    """A disc in the middle with the blur of a body kernel (PSF_SIGMA_MM).

    Args:
        diameter_mm: of the disc.
        spacing_mm: (x, y, z).
        side: rows and columns of the result.

    Returns:
        (rows, columns), 0 to 1.
    """
    dx, dy, _ = spacing_mm
    y, x = np.indices(side)
    r = np.hypot((y - (side[0] - 1) / 2) * dy, (x - (side[1] - 1) / 2) * dx)
    disc = np.clip(0.5 + (diameter_mm / 2 - r) / math.sqrt(dx * dy), 0, 1)
    return ndimage.gaussian_filter(disc, (PSF_SIGMA_MM / dy, PSF_SIGMA_MM / dx))


def lesion_points(
    denoise: Denoise,
    pairs: Sequence[VolumePair],
    settings: SafetySettings,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[LesionPoint, ...]:
    """Measure the contrast kept by each kind of lesion at each dose.

    Each round adds a lesion to every flat place of a slice, and another noise. Kinds of lesions take turns, and places
    are shuffled in each round, so that a kind is not always at the same places. Noise at all doses is that of the
    lowest one, scaled.

    Args:
        denoise: what is measured.
        pairs: volumes whose NDCT takes the lesions.
        settings: which lesions, doses, and how often.
        say: called with a sentence for each slice.

    Returns:
        Nothing where no slice has room for a lesion.
    """
    kinds = [(c, d) for c in settings.contrasts_hu for d in settings.diameters_mm]
    slices = []
    for pair in pairs:
        in_slices = [
            flat_places(image, pair.spacing_mm, _room_px(max(settings.diameters_mm), pair.spacing_mm))
            for image in pair.ndct_hu
        ]
        if any(map(len, in_slices)):
            scanner = DoseSettings(min(settings.doses), views=settings.views)
            photons, kernel = calibrate(pair.ndct_hu, pair.spacing_mm, scanner)  # once for all its noise
            scanners = [replace(scanner, photons=float(p), kernel=kernel) for p in photons]
            slices += [(pair, s, places, scanners[s]) for s, places in enumerate(in_slices) if len(places)]
    if not slices:
        return ()
    per_round = sum(len(places) for _, _, places, _ in slices)
    rounds = max(2, math.ceil(len(kinds) * settings.realisations / per_round))
    kept: dict[tuple[float, float, float], list[float]] = defaultdict(list)
    variances: dict[tuple[float, float, float], list[float]] = defaultdict(list)
    first = 0
    for number, (pair, s, places, scanner) in enumerate(slices):
        say(f"lesions: slice {number + 1} of {len(slices)}, {rounds} realisations of its noise")
        ndct, spacing_mm = pair.ndct_hu[s], pair.spacing_mm
        noise = _noise(ndct, spacing_mm, replace(scanner, seed=settings.seed + 100 + number), rounds)
        for dose in settings.doses:
            shuffled = np.random.default_rng((settings.seed, number))  # alike at all doses
            plain = ndct.astype(np.float32) + noise * noise_factor(min(settings.doses), dose)
            with_lesions, placed = plain.copy(), []
            for k in range(rounds):
                for i, place in enumerate(shuffled.permutation(places)):
                    contrast, diameter = kinds[(first + k * len(places) + i) % len(kinds)]
                    part, shape = _part(place, diameter, spacing_mm, max(settings.diameters_mm))
                    with_lesions[(k, *part)] += contrast * shape
                    placed.append((k, part, shape, contrast, diameter))
            gained = denoise(with_lesions, spacing_mm).astype(np.float64) - denoise(plain, spacing_mm)
            for k, part, shape, contrast, diameter in placed:
                kind = (dose, contrast, diameter)
                energy = float((shape**2).sum())
                kept[kind].append(float((shape * gained[(k, *part)]).sum()) / (contrast * energy))
                sd = float((noise[(slice(None), *part)] * shape).sum((1, 2)).std(ddof=1)) / energy
                # noise of the whole LDCT, the NDCT's own with it: variance 1/d in units in which 1/d0 - 1 was added
                variances[kind].append(sd**2 / (1 / min(settings.doses) - 1) / dose)
        first += rounds * len(places)
    return tuple(
        LesionPoint(
            *kind,
            count=len(values),
            snr=kind[1] / math.sqrt(np.mean(variances[kind])),
            kept=float(np.mean(values)),
            kept_sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
        )
        for kind, values in sorted(kept.items())
    )


def flat_places(image_hu: np.ndarray, spacing_mm: Spacing, side_px: int) -> np.ndarray:
    """Find flat tissue with room for a lesion; no place touches another.

    Args:
        image_hu: (H, W).
        spacing_mm: (x, y, z).
        side_px: of the square that is flat tissue.

    Returns:
        (N, 2): row, column.
    """
    centres = flat_soft_tissue_windows(
        image_hu[None], spacing_mm, window_px=side_px, tissue_hu=LESION_TISSUE_HU, keep=1.0
    )[:, 1:]
    chosen: list[np.ndarray] = []
    for centre in centres:
        if all(np.abs(centre - other).max() >= side_px for other in chosen):
            chosen.append(centre)
    return np.array(chosen, int).reshape(-1, 2)


def _room_px(diameter_mm: float, spacing_mm: Spacing) -> int:
    """Side of the window that holds a lesion and 3 mm around it, odd."""
    return 2 * math.ceil((diameter_mm / 2 + 3) / min(spacing_mm[:2])) + 1


def _part(place: np.ndarray, diameter_mm: float, spacing_mm: Spacing, largest_mm: float) -> tuple[tuple, np.ndarray]:
    """Where in the slice a lesion lies, and its shape there."""
    side = _room_px(largest_mm, spacing_mm)
    top, left = (int(n) - side // 2 for n in place)
    return (slice(top, top + side), slice(left, left + side)), lesion_shape(diameter_mm, spacing_mm, (side, side))


def _noise(ndct: np.ndarray, spacing_mm: Spacing, scanner: DoseSettings, count: int) -> np.ndarray:
    """(count, H, W) realisations of the noise that a scan at the scanner's dose has more than the NDCT."""
    image = np.repeat(ndct[None].astype(np.float32), count, axis=0)
    return simulate(image, spacing_mm, scanner).voxels - image
