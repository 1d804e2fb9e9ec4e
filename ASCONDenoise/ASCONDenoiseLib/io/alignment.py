"""Two volumes of one scan that are stored in different orders: voxels brought into one order, none resampled."""

from __future__ import annotations

import itertools

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import Geometry, Volume

TURNED = 2e-3
"""Of unit vectors: what files round away, 0.1 degrees."""

PLACE_TOLERANCE = 0.1
"""How far the same voxel may lie apart in two files, as a part of its smallest side."""


def in_order_of(volume: Volume, reference: Volume) -> np.ndarray:
    """The voxels (S, H, W) of `volume`, with axes flipped and exchanged so that they lie as those of `reference` do.

    Raises:
        InputError: the axes are turned against each other, or the voxels lie at other places. The text follows "A and
            B ".
    """
    try:
        axes, signs = _axes(volume.geometry, reference.geometry)
    except InputError:
        if sorted(volume.voxels.shape) != sorted(reference.voxels.shape):  # the plainer of two reasons
            raise _other_size(reference.voxels, volume.voxels) from None
        raise
    voxels = volume.voxels.transpose([2 - axis for axis in axes[::-1]])
    voxels = voxels[tuple(slice(None, None, sign) for sign in signs[::-1])]
    if voxels.shape != reference.voxels.shape:
        raise _other_size(reference.voxels, voxels)
    apart = _farthest_apart_mm(volume, reference, axes, signs)
    if apart > PLACE_TOLERANCE * min(reference.geometry.spacing_mm):
        raise InputError(f"do not lie at the same place: their voxels are up to {apart:.3g} mm apart.")
    return voxels


def _other_size(*voxels: np.ndarray) -> InputError:
    a, b = (" x ".join(map(str, each.shape)) for each in voxels)
    return InputError(f"differ in size: {a} and {b} slices, rows and columns.")


def _axes(volume: Geometry, reference: Geometry) -> tuple[list[int], list[int]]:
    """For each axis (i, j, k) of the reference: which axis of the volume lies along it, and its sign."""
    unit = [np.reshape(one.direction, (3, 3)) / np.linalg.norm(np.reshape(one.direction, (3, 3)), axis=0)
            for one in (reference, volume)]  # fmt: skip
    cosines = unit[0].T @ unit[1]
    axes = [int(axis) for axis in np.abs(cosines).argmax(axis=1)]
    signs = [1 if cosines[i, axis] > 0 else -1 for i, axis in enumerate(axes)]
    along = [sign * unit[1][:, axis] for axis, sign in zip(axes, signs, strict=True)]
    off = max(float(np.linalg.norm(along[i] - unit[0][:, i])) for i in range(3))
    if sorted(axes) != [0, 1, 2] or off > TURNED:
        degrees = np.degrees(2 * np.arcsin(min(1.0, off / 2)))
        raise InputError(f"are turned against each other by {degrees:.3g} degrees.")
    return axes, signs


def _farthest_apart_mm(volume: Volume, reference: Volume, axes: list[int], signs: list[int]) -> float:
    """The largest distance of two voxels that are to be compared: one at a corner, since positions are linear."""
    sides = reference.voxels.shape[::-1]
    farthest = 0.0
    for corner in itertools.product(*((0, side - 1) for side in sides)):
        own = [0, 0, 0]
        for i, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            own[axis] = corner[i] if sign > 0 else sides[i] - 1 - corner[i]
        distance = _place_mm(volume.geometry, own) - _place_mm(reference.geometry, corner)
        farthest = max(farthest, float(np.linalg.norm(distance)))
    return farthest


def _place_mm(geometry: Geometry, ijk: tuple[int, ...] | list[int]) -> np.ndarray:
    steps_mm = np.multiply(geometry.spacing_mm, ijk)
    place: np.ndarray = np.asarray(geometry.origin_mm) + np.reshape(geometry.direction, (3, 3)) @ steps_mm
    return place
