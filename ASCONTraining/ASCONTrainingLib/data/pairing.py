"""Slices of a full-dose and a low-dose volume that are pairs: those at the same place, whatever their order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.registration import misfit
from ASCONDenoiseLib.io.volume import Geometry, Volume

POSITION_TOLERANCE = 0.1
"""How far two slices of a pair may lie apart: this part of the slice spacing, and in the slice of a pixel."""


@dataclass(frozen=True)
class PairedVolume:
    """Arrays of one volume.

    Attributes:
        ndct, ldct: (S, H, W) int16 HU.
        spacing_mm: (x, y, z).
        unmatched: slices of the full-dose and of the low-dose volume without a partner.
        warnings: sentences about what fits badly.
    """

    ndct: np.ndarray
    ldct: np.ndarray
    spacing_mm: tuple[float, float, float]
    unmatched: tuple[int, int] = (0, 0)
    warnings: tuple[str, ...] = ()


def pair_volumes(full: Volume, low: Volume, where: str) -> PairedVolume:
    """Take the slices that both volumes have, in the order of the full-dose one.

    Args:
        full: the volume at full dose.
        low: the volume at low dose.
        where: names both in errors.

    Raises:
        InputError: sizes, pixels, orientation, place or slice thickness differ, no slice has a partner, both are the
            same, or the images show the anatomy at clearly different places, whatever their headers say.
    """
    _check_alike(full, low, where)
    in_full, in_low = match_slices(full.geometry, len(full.voxels), low.geometry, len(low.voxels))
    if not len(in_full):
        ranges = [_extent(volume) for volume in (full, low)]
        raise InputError(
            f"{where} have no slice at the same place: {len(full.voxels)} slices at {ranges[0]} and "
            f"{len(low.voxels)} at {ranges[1]}. They are not of one scan."
        )
    ndct, ldct = to_int16(full.voxels[in_full]), to_int16(low.voxels[in_low])
    if np.array_equal(ndct, ldct):
        raise InputError(f"{where} hold the same {len(ndct)} images: one of them is not what its name says.")
    found = misfit(ndct, ldct)
    if found and found.grave:
        raise InputError(f"{where} {found.text}. Pair series of one scan and one reconstruction.")
    warnings = (f"{where} {found.text}: a network learns to blur from such a pair.",) if found else ()
    unmatched = (len(full.voxels) - len(ndct), len(low.voxels) - len(ldct))
    return PairedVolume(ndct, ldct, full.geometry.spacing_mm, unmatched, (*full.notes, *low.notes, *warnings))


def match_slices(full: Geometry, n_full: int, low: Geometry, n_low: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the slices at the same place along the full-dose volume's slice axis.

    Args:
        full, n_full: geometry and number of slices of the volume at full dose.
        low, n_low: the same of the volume at low dose.

    Returns:
        Their numbers in both volumes.
    """
    axis = np.reshape(full.direction, (3, 3))[:, 2]
    offset = np.subtract(low.origin_mm, full.origin_mm) @ axis
    at = (offset + np.arange(n_low) * low.spacing_mm[2]) / full.spacing_mm[2]  # in slices of the full-dose volume
    nearest = np.rint(at).astype(int)
    tolerance = POSITION_TOLERANCE * min(1.0, low.spacing_mm[2] / full.spacing_mm[2])
    fits = (np.abs(at - nearest) <= tolerance) & (nearest >= 0) & (nearest < n_full)
    return nearest[fits], np.flatnonzero(fits)


def _check_alike(full: Volume, low: Volume, where: str) -> None:
    a, b = full.geometry, low.geometry
    shift = np.subtract(b.origin_mm, a.origin_mm) @ np.reshape(a.direction, (3, 3))
    thickness = [volume.description.get("slice_thickness_mm") for volume in (full, low)]
    known = [mm for mm in map(positive_number, thickness) if mm is not None]
    at_one_place = np.abs(shift[:2] / a.spacing_mm[:2]).max() <= POSITION_TOLERANCE
    differences: dict[str, tuple[Any, Any, bool]] = {
        "size": (full.voxels.shape[:0:-1], low.voxels.shape[:0:-1], full.voxels.shape[1:] == low.voxels.shape[1:]),
        "pixel spacing": (a.spacing_mm[:2], b.spacing_mm[:2], np.allclose(a.spacing_mm[:2], b.spacing_mm[:2], 0, 1e-3)),
        "orientation": (a.direction, b.direction, np.allclose(a.direction, b.direction, 0, 2e-3)),
        "place of the first pixel": (a.origin_mm, b.origin_mm, bool(at_one_place)),
        "slice thickness": (thickness[0], thickness[1], len(known) < 2 or abs(known[0] - known[1]) < 0.05),
    }
    for what, (of_full, of_low, same) in differences.items():
        if not same:
            raise InputError(
                f"{where} differ in {what}: {_numbers(of_full)} in {len(full.voxels)} full-dose slices, "
                f"{_numbers(of_low)} in {len(low.voxels)} low-dose slices. Pair series of one scan and one "
                "reconstruction."
            )


def _extent(volume: Volume) -> str:
    axis = np.reshape(volume.geometry.direction, (3, 3))[:, 2]
    first = float(np.dot(volume.geometry.origin_mm, axis))
    last = first + (len(volume.voxels) - 1) * volume.geometry.spacing_mm[2]
    return f"{first:g} to {last:g} mm"


def _numbers(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values) if isinstance(values, tuple) else str(values)


def positive_number(text: Any) -> float | None:
    """The value of a header as a number; None where it is none that can be."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf else None


def to_int16(voxels: np.ndarray) -> np.ndarray:
    """HU as int16, rounded where a rescale slope left fractions, clipped where metal is beyond the type."""
    if voxels.dtype == np.int16:
        return voxels
    limits = np.iinfo(np.int16)
    return np.rint(voxels).clip(limits.min, limits.max).astype(np.int16)
