"""Where the body lies in a volume, the display window and the range of differences that suit what it shows.

All look at a coarse sample of the voxels, so that they take a hundredth of a second, however large the volume is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import slicer

from ASCONDenoiseLib.imaging.difference import limit_for_spread
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, TISSUES_HU
from ASCONDenoiseLib.scene.volumes import spacing_mm
from ASCONDenoiseLib.scene.voxels import volume_array

BODY_ABOVE_HU = -500.0
"""Soft tissue, fat and bone lie above; air, lung and foam below."""

TABLE_MM = 8.0
"""What is thinner than about this in the slice, as the patient's table is, does not count as body."""

SAMPLE = (24, 128, 128)
"""About how many slices, rows and columns are looked at."""

LUNG_SHARE = 0.15
"""Of the inside of the body in the median slice: 0.16 to 0.26 in scans of the chest, up to 0.02 in the abdomen."""

HEAD_PARTS = ("BRAIN", "HEAD", "SKULL")
"""Values of DICOM's Body Part Examined."""

HEAD_MM = (110.0, 230.0)
"""Breadth and length of a head lie in here."""

HEAD_BONE_SHARE, HEAD_FAT_SHARE = 0.08, 0.12
"""A head has more bone and less fat than other parts as wide."""

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First and last column, row and slice."""


@dataclass(frozen=True)
class _Sample:
    """Every few slices, rows and columns of a volume.

    Attributes:
        hu: voxels (S, H, W).
        body: (S, H, W), what is body, without the table.
        steps: how many slices, rows and columns of the volume one of the sample stands for.
        spacing_mm: distance of its slices, rows and columns.
    """

    hu: np.ndarray
    body: np.ndarray
    steps: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def _sample(volume: slicer.vtkMRMLScalarVolumeNode) -> _Sample:
    voxels = volume_array(volume)
    steps = tuple(max(1, count // wanted) for count, wanted in zip(voxels.shape, SAMPLE, strict=True))
    hu = voxels[tuple(slice(step // 2, None, step) for step in steps)]
    spacing = tuple(abs(mm) * step for mm, step in zip(reversed(spacing_mm(volume)), steps, strict=True))
    body = hu > BODY_ABOVE_HU
    reach = [max(1, round(TABLE_MM / 2 / mm)) for mm in spacing[1:]]
    core = _combined(body, reach, np.logical_and)
    if core.any():
        body = _combined(core, reach, np.logical_or)
    return _Sample(hu, body, steps, spacing)


def _combined(mask: np.ndarray, reach: list[int], operation: np.ufunc) -> np.ndarray:
    """Erodes (`logical_and`) or dilates (`logical_or`) slices (S, H, W) by `reach` rows and columns to each side."""
    for axis, distance in zip((1, 2), reach, strict=True):
        count = mask.shape[axis]
        padded = np.pad(mask, [(distance, distance) if other == axis else (0, 0) for other in range(3)])
        parts = (padded.take(range(i, i + count), axis) for i in range(2 * distance + 1))
        mask = reduce(operation, parts)
    return mask


def body_box(volume: slicer.vtkMRMLScalarVolumeNode) -> Box:
    """The box around the body; all of the volume where it shows none. The table is left out.

    Raises InputError where the node holds no volume of single numbers.
    """
    sample = _sample(volume)
    columns, rows, slices = volume.GetImageData().GetDimensions()
    box = []
    for axis, (step, count) in enumerate(zip(sample.steps, (slices, rows, columns), strict=True)):
        places = np.flatnonzero(sample.body.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (places[0], places[-1]) if len(places) else (0, count)
        box.append((int(first * step), min(count - 1, int((last + 1) * step - 1))))
    return box[2], box[1], box[0]


def suggested_window(volume: slicer.vtkMRMLScalarVolumeNode, body_part: str = "") -> str:
    """The name of the display window (a key of DISPLAY_WINDOWS_HU) that suits what most slices show.

    Args:
        volume: CT in HU.
        body_part: DICOM's Body Part Examined, where it is known; it tells a head from other parts.

    Returns:
        "brain" for a head, "lung" for a chest, else "abdomen", for soft tissue.

    Raises:
        InputError: the node holds no volume of single numbers.
    """
    sample = _sample(volume)
    inside = _inside(sample.body)
    low, high = TISSUES_HU["lung"]
    lung = (sample.hu >= low) & (sample.hu <= high) & inside
    shares = lung.sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
    if body_part.strip().upper() in HEAD_PARTS or (not body_part.strip() and _is_head(sample, inside)):
        return "brain"
    return "lung" if np.median(shares) >= LUNG_SHARE else "abdomen"


def _inside(body: np.ndarray) -> np.ndarray:
    """What has body on all four sides in its slice (S, H, W): lung and bowel gas, too, but not the air around."""
    forward = [np.logical_or.accumulate(body, axis=axis) for axis in (1, 2)]
    backward = [np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis) for axis in (1, 2)]
    return reduce(np.logical_and, forward + backward)


def _is_head(sample: _Sample, inside: np.ndarray) -> bool:
    if not inside.any():
        return False
    sizes = [np.ptp(np.flatnonzero(inside.any(axis=(0, 3 - axis)))) * sample.spacing_mm[axis] for axis in (1, 2)]
    hu = sample.hu[inside]
    if not all(HEAD_MM[0] <= size <= HEAD_MM[1] for size in sizes):
        return False
    low, high = DISPLAY_WINDOWS_HU["brain"]
    brain, bone = np.mean((hu > low) & (hu < high)), np.mean(hu > TISSUES_HU["bone"][0])
    low, high = TISSUES_HU["fat"]
    fat = np.mean((hu > low) & (hu < high))
    return bool(brain > 0.4 and bone > HEAD_BONE_SHARE and fat < HEAD_FAT_SHARE)


def difference_limit(difference: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode) -> float:
    """The limit in HU that suits a difference's spread over the body.

    Args:
        difference: denoised less LDCT.
        source: a volume of the same size that shows the body, e.g. the LDCT.

    Raises:
        InputError: a node holds no volume of single numbers.
    """
    sample = _sample(source)
    places = tuple(slice(step // 2, None, step) for step in sample.steps)
    spread = volume_array(difference)[places][sample.body]
    return limit_for_spread(float(spread.std()) if spread.size else 0.0)
