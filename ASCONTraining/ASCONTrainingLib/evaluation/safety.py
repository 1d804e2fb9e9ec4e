"""What a denoiser must not do to an image: shift HU, widen edges, lose lesions, take anatomy away, invent structure.

A denoiser is any function from LDCT (S, H, W) to its output; slices are looked at whole. Lesions are discs added to
real normal-dose slices before the noise of a low dose is. The contrast kept is what the output gains by the lesion
under the very same noise, over what the lesion is: < w, y(with) - y(without) > / < w, lesion >, w the lesion's shape.
The matched filter is the same w: SNR = < w, lesion > / SD(< w, noise >), without whitening, measured over realisations.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from ASCONDenoiseLib.imaging import image_quality
from ASCONDenoiseLib.physics.calibration import calibrate
from ASCONDenoiseLib.physics.cylinder import Insert, cylinder, standard_inserts
from ASCONDenoiseLib.physics.dose import noise_factor, scan, simulate
from ASCONDenoiseLib.physics.phantom_volume import PSF_SIGMA_MM, Phantom
from ASCONDenoiseLib.physics.settings import DoseSettings

Denoise = Callable[[np.ndarray], np.ndarray]
Spacing = tuple[float, float, float]

MAX_SHIFT_HU = 1.0
MAX_EDGE_RATIO = 1.1
MIN_KEPT = 0.9
MIN_SNR = 5.0
"""The limits: mean HU per tissue, edge widths against the NDCT's, contrast kept above this matched-filter SNR."""

LESION_TISSUE_HU = (10.0, 140.0)
"""Lesions lie in flat tissue of these HU: organs with and without contrast medium."""
SHARP_EDGE_HU = 100.0
"""Inserts of the cylinder with less contrast are reported, but do not count: noise hides their edges."""
PHOTONS = 3e5
"""Per ray at normal dose, in the cylinder: some 11 HU of noise in its middle."""


@dataclass(frozen=True)
class SafetySettings:
    """How much is measured. Lengths in mm, contrasts in HU.

    Attributes:
        contrasts_hu, diameters_mm, doses: of the lesions; every combination.
        realisations: of the noise for each combination, at least.
        edges: at most so many of each volume.
        cylinder_slices: realisations of the cylinder with inserts and of the one without, at `cylinder_dose`.
        views: of a simulated scan's full turn.
    """

    contrasts_hu: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0)
    diameters_mm: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0)
    doses: tuple[float, ...] = (0.10, 0.25, 0.50)
    realisations: int = 50
    edges: int = 200
    cylinder_slices: int = 24
    cylinder_side: int = 256
    cylinder_dose: float = 0.25
    views: int = 984
    seed: int = 0


@dataclass(frozen=True)
class LesionPoint:
    """Lesions of one contrast, size and dose: matched-filter SNR in the LDCT, and the share of contrast kept."""

    dose: float
    contrast_hu: float
    diameter_mm: float
    count: int
    snr: float
    kept: float
    kept_sd: float | None
    """Over realisations and places; None where there was one."""


@dataclass(frozen=True)
class Edge:
    """10-90 % widths of one kind of edge: medians of `count` fits in patients, one fit in the cylinder."""

    where: str
    contrast_hu: float
    count: int
    reference_mm: float
    output_mm: float

    @property
    def ratio(self) -> float:
        return self.output_mm / self.reference_mm


@dataclass(frozen=True)
class PureNoise:
    """A uniform cylinder: what looks most like a lesion of this size, before and after, in HU and in own deviations."""

    diameter_mm: float
    ldct_hu: float
    output_hu: float
    ldct_sd: float
    output_sd: float


@dataclass(frozen=True)
class Safety:
    """All measurements of one denoiser."""

    name: str
    shifts: tuple[image_quality.TissueShift, ...]
    edges: tuple[Edge, ...]
    lesions: tuple[LesionPoint, ...]
    residual_structure: float | None
    ideal_structure: float | None
    """The same for a denoiser that removes exactly the noise which was added."""
    pure_noise: tuple[PureNoise, ...]
    fixed_pattern_hu: float
    """SD over pixels of what two halves of a uniform cylinder's realisations have in common after denoising."""

    def worst_shift(self) -> image_quality.TissueShift | None:
        return max(self.shifts, key=lambda shift: abs(shift.shift_hu), default=None)

    def judgements(self) -> dict[str, bool]:
        """Each limit in words, and whether it is kept. What could not be measured is not kept."""
        counted = [e for e in self.edges if abs(e.contrast_hu) >= SHARP_EDGE_HU]
        seen = [point for point in self.lesions if point.snr > MIN_SNR]
        return {
            f"mean HU of every tissue within {MAX_SHIFT_HU:g} HU": bool(self.shifts)
            and abs(self.worst_shift().shift_hu) <= MAX_SHIFT_HU,
            f"edges at most {MAX_EDGE_RATIO:g} times as wide": bool(counted)
            and max(e.ratio for e in counted) <= MAX_EDGE_RATIO,
            f"lesions of SNR above {MIN_SNR:g} keep {MIN_KEPT:.0%} of their contrast": bool(seen)
            and min(point.kept for point in seen) >= MIN_KEPT,
            "nothing in pure noise looks more like a lesion than before": bool(self.pure_noise)
            and all(found.output_hu <= 1.01 * found.ldct_hu for found in self.pure_noise),
        }

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"judgements": self.judgements()}


@dataclass(frozen=True)
class Pair:
    """Slices of one patient: NDCT and LDCT, (S, H, W) in HU."""

    name: str
    ndct_hu: np.ndarray
    ldct_hu: np.ndarray
    spacing_mm: Spacing


def measure(
    name: str,
    denoise: Denoise,
    pairs: Sequence[Pair],
    settings: SafetySettings = SafetySettings(),
    say: Callable[[str], None] | None = None,
) -> Safety:
    """Everything of one denoiser, on real or phantom pairs that it has not seen.

    Raises ValueError where there are no pairs.
    """
    if not pairs:
        raise ValueError("The safety of a denoiser is measured on slices; there are none.")
    say = say or (lambda text: None)
    say(f"{name}: tissues, edges and the residual of {len(pairs)} volumes")
    outputs = [denoise(pair.ldct_hu) for pair in pairs]
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
    say(f"{name}: lesions")
    lesions = lesion_points(denoise, pairs, settings, say)
    found = tuple(edge for edge in edges if edge is not None)
    return Safety(name, _together(shifts), found, lesions, residual, ideal, pure_noise, fixed_pattern)


def _together(volumes: Sequence[Sequence[image_quality.TissueShift]]) -> tuple[image_quality.TissueShift, ...]:
    """Shifts of several volumes as one, each voxel counted alike."""
    found = []
    for tissue in image_quality.TISSUE_NAMES.values():
        parts = [shift for volume in volumes for shift in volume if shift.tissue == tissue]
        if voxels := sum(part.voxels for part in parts):
            means = [sum(p.voxels * value(p) for p in parts) / voxels for value in (_reference, _shift)]
            found.append(image_quality.TissueShift(tissue, voxels, *means))
    return tuple(found)


def _reference(part: image_quality.TissueShift) -> float:
    return part.reference_hu


def _shift(part: image_quality.TissueShift) -> float:
    return part.shift_hu


# ------------------------------------------------------------------------------------------------------------ edges


PROFILE_MM, PLATEAU_MM, LATERAL_MM = 8.0, 4.0, 2.0
"""Half the length of a profile; from where on it must be flat; how far to each side of it lines are averaged."""
PATIENT_EDGES_HU = ((120.0, 300.0), (300.0, 2000.0))
"""Contrasts of the edges in patients: organs against fat, vessels and bone; skin and lung."""
MIN_EDGES = 20
"""Fewer give no figure."""


def patient_edges(
    pairs: Sequence[Pair], outputs: Sequence[np.ndarray], contrast_hu: tuple[float, float], limit: int
) -> Edge | None:
    """Median 10-90 % widths along the same profiles in NDCT and output; None where there are too few clean edges.

    Profiles cross straight edges of a contrast in the band, between two flat sides, found in the smoothed NDCT; each is
    the mean of lines within LATERAL_MM, and an error function is fitted to it.
    """
    widths, contrasts = [], []
    for pair, output in zip(pairs, outputs, strict=True):
        places = [place for s in range(len(pair.ndct_hu)) for place in _edge_places(pair, s, contrast_hu)]
        chosen = np.random.default_rng(0).permutation(len(places))[: 2 * limit]  # some fits fail
        fitted = 0
        for i in chosen:
            s, row, column, ny, nx, contrast = places[i]
            both = [_profile(image[s], pair.spacing_mm, row, column, ny, nx) for image in (pair.ndct_hu, output)]
            distance = np.linspace(-PROFILE_MM, PROFILE_MM, len(both[0]))
            try:
                widths.append([image_quality.edge_width_mm(distance, profile) for profile in both])
            except ValueError:
                continue
            contrasts.append(contrast)
            fitted += 1
            if fitted == limit:
                break
    if len(widths) < MIN_EDGES:
        return None
    reference, after = np.median(widths, axis=0)
    return Edge("patients", float(np.median(contrasts)), len(widths), float(reference), float(after))


def _edge_places(
    pair: Pair, s: int, contrast_hu: tuple[float, float]
) -> list[tuple[int, float, float, float, float, float]]:
    """(slice, row, column, unit normal in y and x, contrast) of clean edges in one slice; the normal points uphill."""
    dx, dy, _ = pair.spacing_mm
    smooth = ndimage.gaussian_filter(pair.ndct_hu[s].astype(np.float32), (1.0 / dy, 1.0 / dx))
    gy, gx = np.gradient(smooth, dy, dx)
    size = np.hypot(gy, gx)
    border = int(np.ceil((PROFILE_MM + LATERAL_MM) / min(dx, dy))) + 1
    rows, columns = np.nonzero(size > contrast_hu[0] / 10)
    inside = (rows >= border) & (rows < size.shape[0] - border)
    inside &= (columns >= border) & (columns < size.shape[1] - border)
    rows, columns = rows[inside], columns[inside]
    ny, nx = gy[rows, columns] / size[rows, columns], gx[rows, columns] / size[rows, columns]

    def at(image: np.ndarray, along_mm: float) -> np.ndarray:
        where = [rows + along_mm * ny / dy, columns + along_mm * nx / dx]
        return ndimage.map_coordinates(image, where, order=1, mode="nearest")

    low, high = [at(smooth, -d) for d in (PLATEAU_MM, PROFILE_MM)], [at(smooth, d) for d in (PLATEAU_MM, PROFILE_MM)]
    contrast = (high[0] + high[1] - low[0] - low[1]) / 2
    clean = (contrast >= contrast_hu[0]) & (contrast < contrast_hu[1])
    for side in (low, high):
        clean &= np.abs(side[1] - side[0]) < 0.1 * contrast
    middle = at(smooth, 0)
    clean &= np.abs(middle - (low[0] + high[0]) / 2) < 0.15 * contrast  # the profile is centred on the edge
    return [(s, *numbers) for numbers in zip(*(a[clean] for a in (rows, columns, ny, nx, contrast)), strict=True)]


def _profile(image: np.ndarray, spacing_mm: Spacing, row: float, column: float, ny: float, nx: float) -> np.ndarray:
    """Values along the normal, in steps of half a mm, mean over parallel lines."""
    dx, dy, _ = spacing_mm
    along = np.linspace(-PROFILE_MM, PROFILE_MM, int(4 * PROFILE_MM) + 1)[None]
    across = np.linspace(-LATERAL_MM, LATERAL_MM, 5)[:, None]
    where = [row + (along * ny + across * nx) / dy, column + (along * nx - across * ny) / dx]
    top, left = (max(0, int(np.floor(w.min())) - 3) for w in where)
    part = image[top : int(where[0].max()) + 5, left : int(where[1].max()) + 5].astype(np.float32)
    return ndimage.map_coordinates(part, [where[0] - top, where[1] - left], order=3, mode="nearest").mean(0)


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
    """The edge of each insert in the mean output of all realisations, against that in the mean of the same LDCT."""
    inserts = [insert for insert in standard_inserts() if not insert.texture_sd_hu]
    phantom = _cylinder(settings, tuple(inserts))
    ldct = _low_dose(phantom, settings, settings.seed + 1)
    means = [volume.astype(np.float64).mean(0) for volume in (ldct, denoise(ldct))]
    middle, pixel = (settings.cylinder_side - 1) / 2, phantom.spacing_mm[0]
    edges: list[Edge | None] = []
    for insert in inserts:
        angle = math.radians(insert.angle_deg)
        place = (
            middle + insert.distance_mm * math.sin(angle) / pixel,
            middle + insert.distance_mm * math.cos(angle) / pixel,
        )
        try:
            widths = [
                image_quality.circular_edge_width_mm(image, phantom.spacing_mm, place, insert.diameter_mm / 2)
                for image in means
            ]
        except ValueError:  # lost in the noise
            edges.append(None)
        else:
            edges.append(Edge(f"insert {insert.name}", insert.hu, settings.cylinder_slices, *widths))
    return edges


# ------------------------------------------------------------------------------------------------------- pure noise


def pure_noise_structure(denoise: Denoise, settings: SafetySettings) -> tuple[tuple[PureNoise, ...], float]:
    """What a uniform cylinder's noise is turned into: apparent lesions of each size, and a fixed pattern in HU."""
    phantom = _cylinder(settings, ())
    ldct = _low_dose(phantom, settings, settings.seed + 2)
    output = denoise(ldct)
    middle, pixel = (settings.cylinder_side - 1) / 2, phantom.spacing_mm[0]
    y, x = np.indices(ldct.shape[1:])
    distance_mm = np.hypot(y - middle, x - middle) * pixel
    found = []
    for diameter in settings.diameters_mm:
        inside = distance_mm < 100 - 1.5 * diameter
        responses = [_apparent_contrast(volume, diameter, pixel)[:, inside] for volume in (ldct, output)]
        strongest = [float(np.abs(r).max()) for r in responses]
        own = [s / max(float(r.std()), 1e-9) for s, r in zip(strongest, responses, strict=True)]
        found.append(PureNoise(diameter, *strongest, *own))
    inside = distance_mm < 85
    halves = [output[first::2, inside].astype(np.float64).mean(0) for first in (0, 1)]
    common = float(np.mean((halves[0] - halves[0].mean()) * (halves[1] - halves[1].mean())))  # noise is not common
    return tuple(found), math.sqrt(max(common, 0.0))


def _apparent_contrast(volume: np.ndarray, diameter_mm: float, pixel_mm: float) -> np.ndarray:
    """(S, H, W): mean in a disc less mean in the ring of the same area around it, at each pixel."""
    reach = int(np.ceil(diameter_mm / pixel_mm))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] * pixel_mm
    r = np.hypot(y, x)
    disc = r <= diameter_mm / 2
    ring = (r > diameter_mm / 2) & (r <= diameter_mm / 2 * math.sqrt(2))
    kernel = disc / disc.sum() - ring / ring.sum()
    return fftconvolve(volume.astype(np.float64), kernel[None], mode="same", axes=(1, 2))


# ---------------------------------------------------------------------------------------------------------- lesions


def lesion_shape(diameter_mm: float, spacing_mm: Spacing, side: tuple[int, int]) -> np.ndarray:
    """(rows, columns) of 0 to 1: a disc in the middle with the blur of a body kernel (PSF_SIGMA_MM)."""
    dx, dy, _ = spacing_mm
    y, x = np.indices(side)
    r = np.hypot((y - (side[0] - 1) / 2) * dy, (x - (side[1] - 1) / 2) * dx)
    disc = np.clip(0.5 + (diameter_mm / 2 - r) / math.sqrt(dx * dy), 0, 1)
    return ndimage.gaussian_filter(disc, (PSF_SIGMA_MM / dy, PSF_SIGMA_MM / dx))


def lesion_points(
    denoise: Denoise, pairs: Sequence[Pair], settings: SafetySettings, say: Callable[[str], None] = lambda text: None
) -> tuple[LesionPoint, ...]:
    """Contrast kept by each kind of lesion at each dose; empty where no slice has room for one.

    Each round adds a lesion to every flat place of a slice, and another noise. The next round gives each place the next
    kind of lesion, so all kinds see all places. Noise at all doses is that of the lowest one, scaled.
    """
    kinds = [(c, d) for c in settings.contrasts_hu for d in settings.diameters_mm]
    slices = []
    for pair in pairs:
        found = [lesion_places(image, pair.spacing_mm, max(settings.diameters_mm)) for image in pair.ndct_hu]
        if any(map(len, found)):
            scanner = DoseSettings(min(settings.doses), views=settings.views)
            photons, kernel = calibrate(pair.ndct_hu, pair.spacing_mm, scanner)  # once for all its noise
            scanners = [replace(scanner, photons=float(p), kernel=kernel) for p in photons]
            slices += [(pair, s, places, scanners[s]) for s, places in enumerate(found) if len(places)]
    if not slices:
        return ()
    per_round = sum(len(places) for _, _, places, _ in slices)
    rounds = max(2, math.ceil(len(kinds) * settings.realisations / per_round))
    kept: dict[tuple[float, float, float], list[float]] = {}
    variances: dict[tuple[float, float, float], list[float]] = {}
    first = 0
    for number, (pair, s, places, scanner) in enumerate(slices):
        say(f"lesions: slice {number + 1} of {len(slices)}, {rounds} realisations of its noise")
        ndct, spacing_mm = pair.ndct_hu[s], pair.spacing_mm
        noise = _noise(ndct, spacing_mm, replace(scanner, seed=settings.seed + 100 + number), rounds)
        for dose in settings.doses:
            plain = ndct.astype(np.float32) + noise * noise_factor(min(settings.doses), dose)
            with_lesions, placed = plain.copy(), []
            for k in range(rounds):
                for i, place in enumerate(places):
                    contrast, diameter = kinds[(first + k * len(places) + i) % len(kinds)]
                    part, shape = _part(place, diameter, spacing_mm, max(settings.diameters_mm))
                    with_lesions[(k, *part)] += contrast * shape
                    placed.append((k, part, shape, contrast, diameter))
            gained = denoise(with_lesions).astype(np.float64) - denoise(plain)
            for k, part, shape, contrast, diameter in placed:
                kind = (dose, contrast, diameter)
                energy = float((shape**2).sum())
                kept.setdefault(kind, []).append(float((shape * gained[(k, *part)]).sum()) / (contrast * energy))
                sd = float((noise[(slice(None), *part)] * shape).sum((1, 2)).std(ddof=1)) / energy
                # noise of the whole LDCT, the NDCT's own with it: variance 1/d in units in which 1/d0 - 1 was added
                variances.setdefault(kind, []).append(sd**2 / (1 / min(settings.doses) - 1) / dose)
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


def lesion_places(image_hu: np.ndarray, spacing_mm: Spacing, diameter_mm: float) -> np.ndarray:
    """(N, 2) = (row, column) of flat tissue with room for such a lesion and a margin; none touches another."""
    side = _room_px(diameter_mm, spacing_mm)
    centres = image_quality.flat_soft_tissue_windows(
        image_hu[None], spacing_mm, window_px=side, tissue_hu=LESION_TISSUE_HU, keep=1.0
    )[:, 1:]
    chosen: list[np.ndarray] = []
    for centre in centres:
        if all(np.abs(centre - other).max() >= side for other in chosen):
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


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# ------------------------------------------------------------------------------------------------- text and pictures


def text(safety: Safety) -> str:
    """All of it as lines for a terminal."""
    lines = [safety.name]
    lines += [f"  {'yes' if kept else 'NO '}  {limit}" for limit, kept in safety.judgements().items()]
    shifts = ", ".join(f"{s.tissue} {s.shift_hu:+.2f}" for s in safety.shifts)
    lines.append(f"  mean HU shift against the NDCT: {shifts or 'no tissue found'}")
    for e in safety.edges:
        widths = f"{e.output_mm:.2f} mm against {e.reference_mm:.2f} mm, {e.ratio:.2f} times"
        lines.append(f"  edge, {e.where} ({e.contrast_hu:+.0f} HU, {e.count}): {widths}")
    if safety.residual_structure is not None:
        ideal = "" if safety.ideal_structure is None else f" ({safety.ideal_structure:.3f} if only noise were removed)"
        lines.append(f"  structure in the residual: {safety.residual_structure:.3f}{ideal}")
    for n in safety.pure_noise:
        change = f"{n.ldct_hu:.1f} HU before ({n.ldct_sd:.1f} sd), {n.output_hu:.1f} after ({n.output_sd:.1f} sd)"
        lines.append(f"  pure noise, what looks most like a lesion of {n.diameter_mm:g} mm: {change}")
    lines.append(f"  pure noise, fixed pattern: {safety.fixed_pattern_hu:.2f} HU")
    for p in safety.lesions:
        kind = f"{p.contrast_hu:g} HU, {p.diameter_mm:g} mm, dose {p.dose:g}"
        spread = f"{p.count} times" if p.kept_sd is None else f"sd {p.kept_sd:.1%}, {p.count} times"
        lines.append(f"  lesion of {kind}: SNR {p.snr:.1f}, keeps {p.kept:.1%} ({spread})")
    return "\n".join(lines)


def lesions_csv(found: Sequence[Safety]) -> str:
    """The curve of contrast kept against SNR, a row for each kind of lesion of each denoiser."""
    buffer = io.StringIO()
    names = ["name", *LesionPoint.__dataclass_fields__]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for safety in found:
        writer.writerows({"name": safety.name} | asdict(point) for point in safety.lesions)
    return buffer.getvalue()


COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (0, 0, 0))
"""Okabe and Ito's colours, which colour-blind people tell apart."""


def lesions_png(found: Sequence[Safety], path: Path) -> Path:
    """The same as a picture: SNR to the right (logarithmic), contrast kept upwards, a colour for each denoiser."""
    from PIL import Image, ImageDraw, ImageFont

    width, height, left, top, right, bottom = 900, 600, 80, 30, 30, 70
    canvas = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    points = [point for safety in found for point in safety.lesions]
    snr = [point.snr for point in points] or [1.0]
    low, high = math.log10(min(*snr, MIN_SNR) * 0.8), math.log10(max(*snr, MIN_SNR) * 1.25)
    ceiling = max([1.2, *(point.kept for point in points)])

    def place(value: float, kept: float) -> tuple[float, float]:
        x = left + (math.log10(value) - low) / (high - low) * (width - left - right)
        return x, height - bottom - max(kept, 0) / ceiling * (height - top - bottom)

    for kept in np.arange(0, ceiling + 0.01, 0.2):
        _, y = place(MIN_SNR, kept)
        draw.line((left, y, width - right, y), fill=(220, 220, 220))
        draw.text((left - 50, y - 9), f"{kept:.0%}", fill="black", font=font)
    for value in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if low <= math.log10(value) <= high:
            x, _ = place(value, 0)
            draw.line((x, top, x, height - bottom), fill=(220, 220, 220))
            draw.text((x - 8, height - bottom + 6), f"{value:g}", fill="black", font=font)
    corner, (end, base) = place(MIN_SNR, MIN_KEPT), place(10**high, 0)
    draw.line((*corner, end, corner[1]), fill=(120, 120, 120), width=2)
    draw.line((*corner, corner[0], base), fill=(120, 120, 120), width=2)
    for number, safety in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        for point in safety.lesions:
            x, y = place(point.snr, point.kept)
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline=colour, width=2)
        draw.text((left + 12, top + 4 + 20 * number), safety.name, fill=colour, font=font)
    title = "matched-filter SNR in the LDCT; upwards: contrast kept. Right of and above the grey corner is wanted."
    draw.text((left, height - 34), title, fill="black", font=font)
    canvas.save(path)
    return path


def quick(settings: SafetySettings) -> SafetySettings:
    """A version that takes minutes instead of hours, with wide margins of error."""
    return replace(
        settings,
        contrasts_hu=(20.0, 40.0),
        diameters_mm=(5.0, 15.0),
        doses=(0.25,),
        realisations=10,
        cylinder_slices=6,
        edges=50,
    )
