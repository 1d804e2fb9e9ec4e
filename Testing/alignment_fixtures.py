"""A volume stored in another order: the same voxels at the same places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ASCONDenoiseLib.io.volume import Geometry, Volume


def other_order(volume: Volume, axes: Sequence[int], signs: Sequence[int]) -> Volume:
    """New axis n (of i, j, k) is the volume's axis `axes[n]`, from its end where `signs[n]` is -1."""
    shape = volume.voxels.shape[::-1]
    directions = np.reshape(volume.geometry.direction, (3, 3)).T
    first = np.array(volume.geometry.origin_mm)
    voxels = volume.voxels.T  # (i, j, k)
    for axis, sign in zip(axes, signs, strict=True):
        if sign < 0:
            first = first + directions[axis] * volume.geometry.spacing_mm[axis] * (shape[axis] - 1)
            voxels = np.flip(voxels, axis)
    turned = np.stack([sign * directions[axis] for axis, sign in zip(axes, signs, strict=True)]).T
    x, y, z = (volume.geometry.spacing_mm[axis] for axis in axes)
    geometry = Geometry((x, y, z), tuple(first.tolist()), tuple(turned.ravel().tolist()))
    return Volume(np.ascontiguousarray(voxels.transpose(axes).T), geometry)
