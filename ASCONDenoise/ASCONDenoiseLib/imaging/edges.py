"""How sharp an edge is: its 10-90 % width, by a fit of an error function."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, special

from ASCONDenoiseLib.errors import InputError

TEN_TO_NINETY = 2 * special.ndtri(0.9)
"""10-90 % width of an error function in units of its standard deviation: 2.563."""


def edge_width_mm(distance_mm: np.ndarray, values_hu: np.ndarray) -> float:
    """Measure the 10-90 % width [mm] of one edge along a line, or of any points at known distances from an edge.

    Least-squares fit of an error function: noise does not widen it. Raises InputError where no edge is found.
    """
    d, v = np.asarray(distance_mm, np.float64).ravel(), np.asarray(values_hu, np.float64).ravel()
    if d.size != v.size or d.size < 6:
        raise InputError(f"An edge needs at least 6 points with as many distances; got {v.size} and {d.size}.")
    order = np.argsort(d)
    low, high = (v[part].mean() for part in (order[: d.size // 5 + 1], order[-(d.size // 5 + 1) :]))
    below = np.clip((high - v.mean()) / (high - low), 0.1, 0.9) if high != low else 0.5  # left of a sharp step
    start = [low, high, np.quantile(d, below), np.ptp(d) / 10]
    return _fit_edge(
        lambda p: p[0] + (p[1] - p[0]) * special.ndtr((d - p[2]) / p[3]), v, start, limit_mm=float(np.ptp(d))
    )


def circular_edge_width_mm(
    image_hu: np.ndarray, spacing_mm: tuple[float, ...], centre_px: tuple[float, float], radius_mm: float
) -> float:
    """Measure the 10-90 % width [mm] of the edge of a round insert, over all directions (Yu et al. 2015).

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
    inside, outside = v[r < 0.8 * radius_mm], v[r > 1.2 * radius_mm]
    if min(inside.size, outside.size) < 8:
        raise InputError(f"An insert of radius {radius_mm:g} mm covers too few pixels; choose a larger one.")
    start = [inside.mean(), outside.mean(), radius_mm, max(dx, dy), 0.0, 0.0]

    def edge(p: np.ndarray) -> np.ndarray:
        shape: np.ndarray = special.ndtr((np.hypot(y - p[4], x - p[5]) - p[2]) / p[3])
        curve: np.ndarray = p[0] + (p[1] - p[0]) * shape
        return curve

    return _fit_edge(edge, v, start, limit_mm=radius_mm)


def _fit_edge(
    edge: Callable[[np.ndarray], np.ndarray], values_hu: np.ndarray, start: list[float], *, limit_mm: float
) -> float:
    fit = optimize.least_squares(lambda p: edge(p) - values_hu, start, x_scale=np.maximum(np.abs(start), 0.1))
    width, step, noise = TEN_TO_NINETY * abs(fit.x[3]), abs(fit.x[1] - fit.x[0]), np.sqrt(np.mean(fit.fun**2))
    if not fit.success or width > limit_mm or step < max(0.5 * noise, 1e-6):
        raise InputError("No edge was found: the step is lost in the noise or wider than the region given.")
    return float(width)
