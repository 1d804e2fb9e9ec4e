"""Where the slices of a DICOM stack lie: their order, spacing and axes; a doubtful stack is refused.

PS3.3 of the standard: C.7.6.2 (image plane).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_headers import DicomImage
from ASCONDenoiseLib.io.volume import Geometry

SAME_PLACE_MM = 0.01
"""Slices closer than this along the normal lie at the same place."""

GRID_TOLERANCE = 0.1
"""How far a slice may lie from the even grid: this part of the spacing, at most 0.1 mm (headers round positions)."""

TILT_TOLERANCE_DEG = 0.1
"""A stack sheared by more is tilted (headers round orientations to about a thousandth)."""


def stack(images: list[DicomImage], name: str) -> tuple[list[int], Geometry]:
    """Slice number of each image, ascending along rows x columns, and the geometry of the stack.

    Raises:
        InputError: the header of an image is malformed, or slices are missing, uneven, sheared or beside the line.
    """
    first = images[0]
    cosines = first.numbers("ImageOrientationPatient", 6).reshape(2, 3)
    lengths = np.linalg.norm(cosines, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(cosines[0] @ cosines[1]) > 1e-2:
        raise InputError(f"{first.file} has an ImageOrientationPatient that is not two unit vectors at right angles.")
    i, j = cosines / lengths[:, None]
    normal = np.cross(i, j)
    normal /= np.linalg.norm(normal)
    positions = np.array([image.numbers("ImagePositionPatient", 3) for image in images])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    new_place = np.diff(heights[order], prepend=-np.inf) > SAME_PLACE_MM
    slots = np.empty(len(images), int)
    slots[order] = np.cumsum(new_place) - 1
    places = order[new_place]  # one image for each place, ascending
    if len(places) > 1:
        axis = _stack_axis(positions, heights, places, normal, name)
        k, spacing_k = axis / np.linalg.norm(axis), float(np.linalg.norm(axis)) / (len(places) - 1)
    else:
        k, spacing_k = normal, _thickness_mm(first)
    spacing_j, spacing_i = first.numbers("PixelSpacing", 2)
    if min(spacing_i, spacing_j) <= 0:
        raise InputError(f"{first.file} has a PixelSpacing of zero or less: export the series again.")
    direction = np.column_stack([i, j, k])
    geometry = Geometry(
        spacing_mm=(float(spacing_i), float(spacing_j), spacing_k),
        origin_mm=tuple(positions[places[0]].tolist()),
        direction=tuple(direction.ravel().tolist()),
    )
    return slots.tolist(), geometry


def _stack_axis(
    positions: np.ndarray, heights: np.ndarray, places: np.ndarray, normal: np.ndarray, name: str
) -> np.ndarray:
    """Vector from the first to the last slice, mm; InputError unless they form a straight, even, complete stack."""
    at = heights[places]
    axis: np.ndarray = positions[places[-1]] - positions[places[0]]
    span = at[-1] - at[0]
    shear_mm = np.linalg.norm(axis - span * normal)
    tilt_deg = np.degrees(np.arctan2(shear_mm, span))
    if tilt_deg > TILT_TOLERANCE_DEG and shear_mm > 0.1:
        raise InputError(
            f"{name} is sheared by {tilt_deg:.1f} degrees (gantry tilt): its slices form no straight stack. Choose a "
            "series without tilt, or regrid it (3D Slicer, DICOM module: acquisition geometry regularization)."
        )
    on_axis = positions[places[0]] + ((heights - at[0]) / span)[:, None] * axis
    astray = np.linalg.norm(positions - on_axis, axis=1)
    if astray.max() > 0.1:
        raise InputError(
            f"{name} has slices beside the line through the others, by up to {astray.max():.1f} mm at "
            f"{_mm(heights[astray > 0.1])}: several stacks share the series, so put each in its own folder."
        )
    gaps = np.diff(at)
    base = np.sort(gaps)[(len(gaps) - 1) // 2]
    tolerance_mm = min(0.1, GRID_TOLERANCE * base)
    if np.abs(at - np.linspace(at[0], at[-1], len(at))).max() <= tolerance_mm:
        return axis
    steps = np.rint(gaps / base)
    if steps.min() >= 1 and steps.max() >= 2 and np.abs(gaps / base - steps).max() <= 0.2:
        missing = [at[k] + base * m for k, n in enumerate(steps) for m in range(1, int(n))]
        raise InputError(
            f"{name} lacks {len(missing)} slice(s), at {_mm(missing)} along the slice normal ({base:.6g} mm spacing): "
            "copy the series again, complete, or split it at the gap."
        )
    odd = np.abs(gaps - base) > tolerance_mm
    raise InputError(
        f"{name} is unevenly spaced: {base:.6g} mm in general, but {gaps[odd][0]:.6g} mm after {_mm(at[:-1][odd])}. "
        "Choose an evenly spaced reconstruction, or resample it."
    )


def _thickness_mm(image: DicomImage) -> float:
    """What stands for the slice spacing of a single slice: its thickness, else SpacingBetweenSlices, else 1 mm."""
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        if image.get(keyword) and (thickness_mm := abs(float(image.numbers(keyword, 1)[0]))) > 0:
            return thickness_mm
    return 1.0


def _mm(values: Sequence[float] | np.ndarray) -> str:
    """Positions in mm, the first ten of them."""
    shown = ", ".join(f"{value:.6g}" for value in values[:10])
    return f"{shown}{', ...' if len(values) > 10 else ''} mm"
