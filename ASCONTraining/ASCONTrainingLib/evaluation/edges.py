"""Widths of edges in patients, in the output of a denoiser against the NDCT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ASCONDenoiseLib.imaging.edges import edge_width_mm, line_profile
from ASCONDenoiseLib.imaging.noise import Spacing
from ASCONTrainingLib.evaluation.volumes import VolumePair

PROFILE_MM, PLATEAU_MM, LATERAL_MM = 8.0, 4.0, 2.0
"""Half the length of a profile; from where on it must be flat; how far to each side of it lines are averaged."""
PATIENT_EDGES_HU = ((120.0, 300.0), (300.0, 2000.0))
"""Contrasts of the edges in patients: organs against fat, vessels and bone; skin and lung."""
FAINT_EDGES_HU = (60.0, 150.0)
"""Those that suffer first: organs against fat, faint vessels."""
MIN_EDGES = 20
"""Fewer give no figure."""


@dataclass(frozen=True)
class Edge:
    """10-90 % widths of one kind of edge.

    Attributes:
        where: "patients", or an insert of the cylinder.
        contrast_hu: of the edge; in patients the median.
        count: fits in patients, of whose widths these are the medians; realisations of the cylinder, fitted once.
        reference_mm: width in the NDCT, or in the mean of the cylinder's LDCT.
        output_mm: width in the output; None where the edge is lost, or wider than its surroundings.
    """

    where: str
    contrast_hu: float
    count: int
    reference_mm: float
    output_mm: float | None

    @property
    def ratio(self) -> float:
        """Output over reference; infinite where the edge is lost."""
        return math.inf if self.output_mm is None else self.output_mm / self.reference_mm


def patient_edges(
    pairs: Sequence[VolumePair], outputs: Sequence[np.ndarray], contrast_hu: tuple[float, float], limit: int
) -> Edge | None:
    """Measure median 10-90 % widths along the same profiles in NDCT and output.

    Profiles cross straight edges, between two flat sides, found in the smoothed NDCT; each is the mean of lines within
    LATERAL_MM, and an error function is fitted to it.

    Args:
        pairs: the volumes.
        outputs: the output of each, (S, H, W).
        contrast_hu: band in which the contrast of an edge lies.
        limit: at most so many edges of each volume.

    Returns:
        None where there are too few clean edges.
    """
    fits = [
        fit
        for pair, output in zip(pairs, outputs, strict=True)
        for fit in fitted_edges(pair, output, contrast_hu, limit)
    ]
    return median_edge(fits)


def fitted_edges(
    pair: VolumePair, output: np.ndarray, contrast_hu: tuple[float, float], limit: int
) -> list[tuple[float, float, float]]:
    """Fit edges of one volume: width in the NDCT and in the output [mm], and contrast. See `patient_edges`."""
    places = [place for s in range(len(pair.ndct_hu)) for place in _edge_places(pair, s, contrast_hu)]
    fits: list[tuple[float, float, float]] = []
    for i in np.random.default_rng(0).permutation(len(places))[: 2 * limit]:  # some fits fail
        s, row, column, ny, nx, contrast = places[i]
        both = [_profile(image[s], pair.spacing_mm, row, column, ny, nx) for image in (pair.ndct_hu, output)]
        distance = np.linspace(-PROFILE_MM, PROFILE_MM, len(both[0]))
        try:
            reference, after = (edge_width_mm(distance, profile) for profile in both)
        except ValueError:
            continue
        fits.append((reference, after, contrast))
        if len(fits) == limit:
            break
    return fits


def median_edge(fits: Sequence[tuple[float, float, float]]) -> Edge | None:
    """Take the medians of `fitted_edges`; None where there are fewer than MIN_EDGES."""
    if len(fits) < MIN_EDGES:
        return None
    reference, after, contrast = np.median(fits, axis=0)
    return Edge("patients", float(contrast), len(fits), float(reference), float(after))


def _edge_places(
    pair: VolumePair, s: int, contrast_hu: tuple[float, float]
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
    dy, dx = PROFILE_MM * ny / spacing_mm[1], PROFILE_MM * nx / spacing_mm[0]
    ends = (row - dy, column - dx), (row + dy, column + dx)
    return line_profile(image, spacing_mm, *ends, lateral_mm=LATERAL_MM, step_mm=0.5)[1]
