"""How sharp an edge is: its 10-90 % width, by a fit of an error function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, optimize, special

from ASCONDenoiseLib.errors import InputError

TEN_TO_NINETY = 2 * special.ndtri(0.9)
"""10-90 % width of an error function in units of its standard deviation: 2.563."""
LATERAL_MM = 5.0
"""How far to each side of a line pixels are taken."""
STEP_MM = 0.25
"""Distance of the points of a profile."""


@dataclass(frozen=True)
class FittedEdge:
    """An error function that was fitted to an edge, and what it was fitted to.

    Attributes:
        distance_mm: (N,) of the pixels from the edge.
        values_hu: (N,) of the pixels.
        low_hu, high_hu: the levels at negative and at positive distances.
        sigma_mm: standard deviation of the error function.
        noise_hu: root mean square of what the fit leaves.
    """

    distance_mm: np.ndarray
    values_hu: np.ndarray
    low_hu: float
    high_hu: float
    sigma_mm: float
    noise_hu: float

    @property
    def width_mm(self) -> float:
        """From 10 to 90 % of the step."""
        return float(TEN_TO_NINETY * self.sigma_mm)


def edge_width_mm(distance_mm: np.ndarray, values_hu: np.ndarray) -> float:
    """Measure the 10-90 % width [mm] of one edge along a line, or of any points at known distances from an edge.

    Least-squares fit of an error function: noise does not widen it. Raises InputError where no edge is found.
    """
    d, v = np.asarray(distance_mm, np.float64).ravel(), np.asarray(values_hu, np.float64).ravel()
    if d.size != v.size or d.size < 6:
        raise InputError(f"An edge needs at least 6 points with as many distances; got {v.size} and {d.size}.")
    return _fit(lambda p: d - p[0], v, [_middle(d, v)], d, limit_mm=float(np.ptp(d))).width_mm


def circular_edge_width_mm(
    image_hu: np.ndarray, spacing_mm: tuple[float, ...], centre_px: tuple[float, float], radius_mm: float
) -> float:
    """Measure the 10-90 % width [mm] of the edge of a round insert; see `fit_circle`."""
    return fit_circle(image_hu, spacing_mm, centre_px, radius_mm).width_mm


def fit_circle(
    image_hu: np.ndarray, spacing_mm: tuple[float, ...], centre_px: tuple[float, float], radius_mm: float
) -> FittedEdge:
    """Fit the edge of a round insert, over all directions (Yu et al. 2015).

    Centre, radius, the two levels and the width are fitted to the pixels from half to one and a half radii (nothing
    else may lie there).

    Args:
        image_hu: (H, W).
        spacing_mm: (x, y, ...).
        centre_px: row and column, a first guess.
        radius_mm: a first guess.

    Raises:
        InputError: no edge is found.
    """
    dx, dy = spacing_mm[:2]
    row, column = np.indices((image_hu.shape[0], image_hu.shape[1]))
    y, x = (row - centre_px[0]) * dy, (column - centre_px[1]) * dx
    r = np.hypot(y, x)
    ring = (r >= 0.5 * radius_mm) & (r <= 1.5 * radius_mm)
    y, x, r, v = y[ring], x[ring], r[ring], image_hu[ring].astype(np.float64)
    if min((r < 0.8 * radius_mm).sum(), (r > 1.2 * radius_mm).sum()) < 8:
        raise InputError(f"An insert of radius {radius_mm:g} mm covers too few pixels; choose a larger one.")
    return _fit(
        lambda p: np.hypot(y - p[1], x - p[2]) - p[0],
        v,
        [radius_mm, 0.0, 0.0],
        r - radius_mm,
        limit_mm=radius_mm,
        sides=(v[r < 0.8 * radius_mm].mean(), v[r > 1.2 * radius_mm].mean()),
        sigma_mm=max(dx, dy),
    )


def fit_line(
    image_hu: np.ndarray,
    spacing_mm: tuple[float, ...],
    start_px: tuple[float, float],
    end_px: tuple[float, float],
    lateral_mm: float = LATERAL_MM,
) -> FittedEdge:
    """Fit a straight edge that a line crosses. The edge's place and its angle are fitted, so the line may be askew.

    Args:
        image_hu: (H, W).
        spacing_mm: (x, y, ...).
        start_px: row and column of the line's start, on one side of the edge.
        end_px: of its end, on the other side.
        lateral_mm: how far to each side of the line pixels are taken; the edge must be straight so far.

    Raises:
        InputError: no edge is found, or the line is too short.
    """
    scale = np.array([spacing_mm[1], spacing_mm[0]])
    start, end = np.asarray(start_px, float) * scale, np.asarray(end_px, float) * scale
    length = float(np.hypot(*(end - start)))
    if length < 4 * max(scale):
        raise InputError("The line across the edge is shorter than 4 pixels; draw a longer one.")
    ny, nx = (end - start) / length
    row, column = np.indices((image_hu.shape[0], image_hu.shape[1]))
    y, x = row * scale[0] - (start[0] + end[0]) / 2, column * scale[1] - (start[1] + end[1]) / 2
    along, across = y * ny + x * nx, x * ny - y * nx
    inside = (np.abs(along) <= length / 2) & (np.abs(across) <= lateral_mm)
    along, across, v = along[inside], across[inside], image_hu[inside].astype(np.float64)
    if v.size < 16:
        raise InputError("The line across the edge covers too few pixels of the image; draw a longer one.")
    return _fit(
        lambda p: along * np.cos(p[1]) + across * np.sin(p[1]) - p[0],
        v,
        [_middle(along, v), 0.0],
        along,
        limit_mm=length,
    )


def line_profile(
    image_hu: np.ndarray,
    spacing_mm: tuple[float, ...],
    start_px: tuple[float, float],
    end_px: tuple[float, float],
    *,
    lateral_mm: float = 0.0,
    step_mm: float = STEP_MM,
) -> tuple[np.ndarray, np.ndarray]:
    """Read values along a line, by cubic interpolation, as the mean over parallel lines.

    Args:
        image_hu: (H, W).
        spacing_mm: (x, y, ...).
        start_px: row and column of the start.
        end_px: of the end.
        lateral_mm: how far to each side the outermost parallel line lies; there are five.
        step_mm: distance of the points, about.

    Returns:
        Distance from the start in mm, and values in HU.
    """
    scale = np.array([spacing_mm[1], spacing_mm[0]])
    start, end = np.asarray(start_px, float) * scale, np.asarray(end_px, float) * scale
    length = float(np.hypot(*(end - start)))
    if length == 0:
        raise InputError("The line has no length: its ends are the same point.")
    ny, nx = (end - start) / length
    along = np.linspace(0, length, max(round(length / step_mm), 1) + 1)
    across = np.linspace(-lateral_mm, lateral_mm, 5 if lateral_mm > 0 else 1)[:, None]
    where = [
        (start[0] + along * ny + across * nx) / scale[0],
        (start[1] + along * nx - across * ny) / scale[1],
    ]
    top, left = (min(max(0, int(np.floor(w.min())) - 3), n - 1) for w, n in zip(where, image_hu.shape, strict=True))
    part = image_hu[top : int(where[0].max()) + 5, left : int(where[1].max()) + 5].astype(np.float32)
    values = ndimage.map_coordinates(part, [where[0] - top, where[1] - left], order=3, mode="nearest").mean(0)
    return along, values


def _middle(d: np.ndarray, v: np.ndarray) -> float:
    """Where a sharp step between the ends' levels would lie that has the same mean."""
    order = np.argsort(d)
    low, high = (v[part].mean() for part in (order[: d.size // 5 + 1], order[-(d.size // 5 + 1) :]))
    below = np.clip((high - v.mean()) / (high - low), 0.1, 0.9) if high != low else 0.5
    return float(np.quantile(d, below))


def _fit(
    distance: Callable[[np.ndarray], np.ndarray],
    values_hu: np.ndarray,
    place: list[float],
    first_mm: np.ndarray,
    *,
    limit_mm: float,
    sides: tuple[float, float] | None = None,
    sigma_mm: float | None = None,
) -> FittedEdge:
    """Fit levels, sigma and the numbers that `distance` takes; `first_mm` is about its result."""
    if sides is None:
        order = np.argsort(first_mm)
        fifth = first_mm.size // 5 + 1
        sides = values_hu[order[:fifth]].mean(), values_hu[order[-fifth:]].mean()
    start = np.array([*sides, np.ptp(first_mm) / 10 if sigma_mm is None else sigma_mm, *place])

    def misfit(p: np.ndarray) -> np.ndarray:
        rest: np.ndarray = p[0] + (p[1] - p[0]) * special.ndtr(distance(p[3:]) / p[2]) - values_hu
        return rest

    fit = optimize.least_squares(misfit, start, x_scale=np.maximum(np.abs(start), 0.1))
    low, high, sigma = fit.x[:3]
    if sigma < 0:  # the same curve, told the other way round
        low, high, sigma = high, low, -sigma
    noise = float(np.sqrt(np.mean(fit.fun**2)))
    edge = FittedEdge(distance(fit.x[3:]), values_hu, float(low), float(high), float(sigma), noise)
    if not fit.success or edge.width_mm > limit_mm or abs(high - low) < max(0.5 * noise, 1e-6):
        raise InputError("No edge was found: the step is lost in the noise or wider than the region given.")
    return edge
