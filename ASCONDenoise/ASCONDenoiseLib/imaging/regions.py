"""What regions of interest say: mean, standard deviation, contrast and contrast-to-noise ratio, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.metrics import cnr


@dataclass(frozen=True)
class Region:
    """One region of one volume.

    Attributes:
        voxels: how many it has.
        mean_hu: of them.
        sd_hu: sample standard deviation over them.
    """

    voxels: int
    mean_hu: float
    sd_hu: float


@dataclass(frozen=True)
class RegionPair:
    """A lesion and its background in one volume.

    Attributes:
        lesion, background: the regions.
        contrast_hu: mean of the lesion less that of the background.
        cnr: contrast-to-noise ratio, as `metrics.cnr`; None where there is no noise.
        contrast_kept: contrast over that in the first of the volumes; None for the first, or where that is 0.
    """

    lesion: Region
    background: Region
    contrast_hu: float
    cnr: float | None
    contrast_kept: float | None


def region(voxels_hu: np.ndarray, mask: np.ndarray) -> Region:
    """Measure a region.

    Args:
        voxels_hu: of any shape.
        mask: where the region is, of the same shape.

    Raises:
        InputError: the mask has another shape or no voxel.
    """
    inside = np.asarray(mask, bool)
    if inside.shape != np.shape(voxels_hu) or not inside.any():
        raise InputError("A region needs at least one voxel, in a mask of the volume's shape.")
    values = voxels_hu[inside].astype(np.float64)
    return Region(values.size, float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0)


def lesion_and_background(
    volumes_hu: Mapping[str, np.ndarray], lesion: np.ndarray, background: np.ndarray
) -> dict[str, RegionPair]:
    """Measure two regions in the same places of several volumes.

    Args:
        volumes_hu: name -> volume, all of one shape; the first is what the others are compared with.
        lesion: mask of the same shape.
        background: mask of the same shape.

    Raises:
        InputError: a mask has another shape or fewer than 2 voxels.
    """
    pairs: dict[str, RegionPair] = {}
    first: float | None = None
    for name, volume in volumes_hu.items():
        ratio = cnr(volume, lesion, background)
        inside, outside = region(volume, lesion), region(volume, background)
        contrast = inside.mean_hu - outside.mean_hu
        kept = contrast / first if first else None
        pairs[name] = RegionPair(inside, outside, contrast, ratio if np.isfinite(ratio) else None, kept)
        first = contrast if first is None else first
    return pairs
