"""A CT volume: voxels in HU, where they lie in space, and the image files they come from and go to.

SimpleITK reads and writes NRRD, NIfTI and MetaImage; DICOM is read by `dicom.py`. Nothing here prints.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.errors import InputError

IMAGE_SUFFIXES = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""What `read_volume` reads besides DICOM, and SimpleITK's name for what reads it."""

WRITABLE_SUFFIXES = (".nrrd", ".nii", ".nii.gz", ".mha")
"""Single-file formats: one rename puts the finished file in its place."""

_SILENCE = threading.RLock()


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
class Volume:
    """Voxels (S, H, W) in HU, usually int16, with their geometry.

    Attributes:
        padding_hu: value of the pixels outside the scan circle (PixelPaddingValue after rescale), where known.
        source: set when read from DICOM.
        description: facts that identify nobody, where known: modality, kernel, kvp, slice_thickness_mm,
            body_part, series_description, manufacturer_model.
    """

    voxels: np.ndarray
    geometry: Geometry
    padding_hu: float | None = None
    source: DicomSeries | None = None
    description: dict[str, str] = field(default_factory=dict)


def read_volume(path: str | Path, series_uid: str | None = None) -> Volume:
    """Read a DICOM folder or file, NRRD, NIfTI or MetaImage; the dtype of image files is kept.

    Args:
        series_uid: which series of a DICOM folder; needed only where it holds several.

    Raises:
        InputError: missing, empty, truncated, unreadable, not a 3-D scalar image, or not finite.
    """
    path = Path(path)
    if not os.path.exists(path):  # unlike Path.exists, no exception for a protected folder
        raise InputError(f"{path} does not exist or is not accessible: check the path and its permissions.")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes): copy it again from its source.")
    if path.is_file() and image_suffix(path) in IMAGE_SUFFIXES:
        return _read_image(path)
    from ASCONDenoiseLib.io.dicom_reader import read_series

    return read_series(path, series_uid)


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write voxels and geometry, compressed where the format can, in the format that the suffix names.

    The file appears complete or not at all. The dtype and every value survive in all formats. MetaImage keeps the
    geometry to the last bit and NRRD to rounding (1e-15); NIfTI stores it as float32 (1e-7 of each number).

    Raises:
        InputError: unknown suffix, missing folder, or a dtype or shape that the formats lack.
        RuntimeError: the disk is full or the folder is protected; nothing is left behind.
    """
    import SimpleITK as sitk

    path = Path(path)
    suffix = image_suffix(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise InputError(f"{path.name} has no suffix that can be written: use one of {', '.join(WRITABLE_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist: make it or choose another.")
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose another file name.")
    image = _to_image(volume)
    partial = path.with_name(f".{path.name[: -len(suffix)]}.{uuid.uuid4().hex[:8]}.partial{suffix}")
    try:
        with silenced():
            sitk.WriteImage(image, str(partial), useCompression=True, imageIO=IMAGE_SUFFIXES[suffix])
        os.replace(partial, path)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(f"{path} could not be written: check free space and permissions.") from error
    finally:
        partial.unlink(missing_ok=True)


def like(volume: Volume, voxels: np.ndarray) -> Volume:
    """The same volume with other voxels of the same shape (S, H, W)."""
    if voxels.shape != volume.voxels.shape:
        raise ValueError(f"Voxels of shape {voxels.shape} do not fit a volume of shape {volume.voxels.shape}.")
    return replace(volume, voxels=voxels)


def image_suffix(path: str | Path) -> str:
    """Suffix in lower case, ".nii.gz" in one piece."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


@contextmanager
def silenced() -> Iterator[None]:
    """Send what C libraries write to stderr nowhere: they repeat, worse, what our exceptions say."""
    with _SILENCE:
        try:
            saved = os.dup(2)
        except OSError:  # a window application may have no stderr at all
            yield
            return
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _read_image(path: Path) -> Volume:
    import SimpleITK as sitk

    suffix = image_suffix(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(IMAGE_SUFFIXES[suffix])
    try:
        if suffix.startswith(".nii"):
            _check_nifti_is_complete(path)  # ITK fills what is missing with zeros
        with silenced():
            reader.ReadImageInformation()
    except (RuntimeError, OSError, EOFError, zlib.error, struct.error) as error:
        raise _unreadable(path) from error
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) not in (2, 3) or components != 1:
        raise InputError(
            f"{path} holds {len(size)}-D data of {' x '.join(map(str, size))} with {components} value(s) per voxel, "
            "not one 3-D CT volume: export the volume alone."
        )
    try:
        with silenced():
            image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path) from error
    if len(size) == 2:
        image = sitk.JoinSeries(image)  # one slice
    voxels = sitk.GetArrayFromImage(image)
    if not (np.isfinite(voxels.min()) and np.isfinite(voxels.max())):  # NaN spreads to both
        raise InputError(f"{path} holds values that are not finite (NaN or infinity): replace them, by -1024 HU say.")
    return Volume(voxels, Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection()))


def _to_image(volume: Volume):
    """Volume -> SimpleITK image."""
    import SimpleITK as sitk

    voxels = volume.voxels
    if voxels.ndim != 3 or voxels.size == 0:
        raise InputError(f"Voxels of shape {voxels.shape} are no volume: (slices, rows, columns) are needed.")
    try:
        image = sitk.GetImageFromArray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False))
    except (TypeError, KeyError) as error:
        raise InputError(f"Voxels of type {voxels.dtype} cannot be written: use int16 or float32.") from error
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def _check_nifti_is_complete(path: Path) -> None:
    """Raise EOFError where fewer bytes follow the NIfTI-1 header than it announces (SimpleITK reads no NIfTI-2)."""
    with gzip.open(path) if image_suffix(path) == ".nii.gz" else path.open("rb") as file:
        header = file.read(348)
        order = "<" if header[:4] == struct.pack("<i", 348) else ">"
        dims, (bits,) = struct.unpack_from(order + "8h", header, 40), struct.unpack_from(order + "h", header, 72)
        (offset,) = struct.unpack_from(order + "f", header, 108)
        needed = offset + bits // 8 * math.prod(dims[1 : 1 + dims[0]])
        there = len(header)
        while chunk := file.read(1 << 22):
            there += len(chunk)
    if there < needed:
        raise EOFError(f"{there} of {needed:.0f} bytes")


def _unreadable(path: Path) -> InputError:
    return InputError(
        f"{path} cannot be read as {image_suffix(path)}: it is truncated, damaged, protected or in another format. "
        "Copy it again from its source."
    )
