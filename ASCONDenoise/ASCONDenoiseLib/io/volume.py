"""A CT volume: its voxels in HU, where they lie in space, and what is known of their source."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.imaging.hounsfield import Padding


@dataclass(frozen=True)
class Geometry:
    """Where voxel (i, j, k) = (column, row, slice) lies: origin + direction @ (spacing * (i, j, k)), in mm, LPS.

    Attributes:
        spacing_mm: distance of voxel centres along columns (x), rows (y) and slices (z).
        origin_mm: centre of voxel (0, 0, 0).
        direction: 3x3, row-major; its columns are the unit vectors of i, j and k (SimpleITK's convention).
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class DicomSeries:
    """The DICOM instances that a volume was read from.

    Attributes:
        series_uid: SeriesInstanceUID.
        description: SeriesDescription; may be empty.
        files: one per slice, in the order of the voxels' slice axis; a multi-frame series has one file.
        n_slices: slices of the volume.
        frames: of a multi-frame file, the frame (from 1) that each slice came from; else empty.
    """

    series_uid: str
    description: str
    files: tuple[Path, ...]
    n_slices: int
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class NiftiForms:
    """What a NIfTI file says of where its voxels lie, twice over, so that it can be written again bit for bit.

    Attributes:
        geometry: what was read from it.
        fields: header field (qform_code, srow_x, pixdim, ...) -> its numbers.
    """

    geometry: Geometry
    fields: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Volume:
    """Voxels with their geometry and what is known of them.

    Attributes:
        voxels: (S, H, W) in HU, usually int16; the phases of a sequence one after the other.
        geometry: where they lie.
        padding_hu: value of the pixels outside the scan circle (PixelPaddingValue after rescale), where known; lowest
            and highest value where there is a PixelPaddingRangeLimit too.
        source: set when read from DICOM.
        description: facts that identify nobody, where known: modality, kernel, kvp, slice_thickness_mm,
            body_part, series_description, manufacturer_model.
        notes: what reading had to accept or leave out, one sentence each: a geometry that was rounded, files of a
            folder that were set aside. Whoever shows a result shows them, and a record keeps them.
        nifti: set when read from NIfTI.
        phases: how many volumes of one place the voxels are, each S / phases slices; 1: no sequence.
    """

    voxels: np.ndarray
    geometry: Geometry
    padding_hu: Padding = None
    source: DicomSeries | None = None
    description: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    nifti: NiftiForms | None = None
    phases: int = 1

    @property
    def slices(self) -> int:
        """Of one phase."""
        return len(self.voxels) // self.phases


def like(volume: Volume, voxels: np.ndarray) -> Volume:
    """The same volume with other voxels of the same shape (S, H, W)."""
    if voxels.shape != volume.voxels.shape:
        raise ValueError(f"Voxels of shape {voxels.shape} do not fit a volume of shape {volume.voxels.shape}.")
    return replace(volume, voxels=voxels)


def whole_or_float32(hu: np.ndarray) -> np.ndarray:
    """HU in float64 -> int16 where all are integers that fit, else float32."""
    whole: np.ndarray = np.rint(hu)
    limits = np.iinfo(np.int16)
    if np.abs(hu - whole).max() < 1e-6 and limits.min <= whole.min() and whole.max() <= limits.max:
        return whole.astype(np.int16)
    return hu.astype(np.float32)
