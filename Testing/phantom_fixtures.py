"""Geometry of phantoms, and bodies that the scan circle cuts, for tests."""

import numpy as np


def distance_from(phantom, centre_ijk):
    k, j, i = np.indices(phantom.labels.shape)
    sx, sy, sz = phantom.spacing_mm
    ci, cj, ck = centre_ijk
    return np.sqrt(((i - ci) * sx) ** 2 + ((j - cj) * sy) ** 2 + ((k - ck) * sz) ** 2)


def scan_circle(side, margin_px=0.0):
    """(side, side): True within the circle that touches the borders of a square slice, or `margin_px` inside it."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(x, y) < side / 2 - margin_px


def cut_by_the_scan_circle(voxels_hu, padding_hu=-2048):
    """A copy of square slices (S, N, N) as scanners deliver them: what lies beyond the scan circle is padding."""
    cut = voxels_hu.copy()
    cut[:, ~scan_circle(voxels_hu.shape[-1])] = padding_hu
    return cut


def large_body(slices=1, side=180, pixel_mm=1.5, half_axes_mm=(175.0, 115.0), hu=40.0):
    """(S, side, side) float32: an ellipse of soft tissue, wider than the scan circle of its slices and less high."""
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * pixel_mm
    inside = (x / half_axes_mm[0]) ** 2 + (y / half_axes_mm[1]) ** 2 < 1
    return np.repeat(np.where(inside, hu, -1000.0).astype(np.float32)[None], slices, axis=0)
