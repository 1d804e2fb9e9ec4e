"""Volumes in image files, NRRD, NIfTI and MetaImage, read and written by SimpleITK."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_file, check_parent, file_suffix
from ASCONDenoiseLib.io.silence import silence_stderr
from ASCONDenoiseLib.io.volume import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

IMAGE_SUFFIXES = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""What `read_image` reads, and SimpleITK's name for what reads it."""

WRITABLE_SUFFIXES = (".nrrd", ".nii", ".nii.gz", ".mha")
"""Single-file formats: one rename puts the finished file in its place."""


def read_image(path: Path) -> Volume:
    """Read an existing image file; its dtype is kept.

    Raises:
        InputError: truncated, unreadable, not a 3-D scalar image, or not finite.
    """
    import SimpleITK as sitk

    suffix = file_suffix(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(IMAGE_SUFFIXES[suffix])
    try:
        if suffix.startswith(".nii"):
            _check_nifti_is_complete(path)  # ITK fills what is missing with zeros
        with silence_stderr():
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
        with silence_stderr():
            image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path) from error
    if len(size) == 2:
        image = sitk.JoinSeries(image)  # one slice
    voxels = sitk.GetArrayFromImage(image)
    if not (np.isfinite(voxels.min()) and np.isfinite(voxels.max())):  # NaN spreads to both
        raise InputError(f"{path} holds values that are not finite (NaN or infinity): replace them, by -1024 HU say.")
    return Volume(voxels, Geometry(image.GetSpacing(), image.GetOrigin(), image.GetDirection()))


def write_volume(volume: Volume, path: str | Path) -> None:
    """Write voxels and geometry, compressed where the format can, in the format that the suffix names.

    The file appears complete or not at all. The dtype and every value survive in all formats. MetaImage keeps the
    geometry to the last bit and NRRD to rounding (1e-15); NIfTI stores it as float32 (1e-7 of each number).

    Raises:
        InputError: unknown suffix, missing folder, or a dtype or shape that the formats lack.
        WriteError: the disk is full or the folder is protected; nothing is left behind.
    """
    path = Path(path)
    if file_suffix(path) not in WRITABLE_SUFFIXES:
        raise InputError(f"{path.name} has no suffix that can be written: use one of {', '.join(WRITABLE_SUFFIXES)}.")
    check_place(path)
    with atomic_file(path) as partial:
        write_image(volume, partial)


def check_place(path: Path) -> None:
    """Raise InputError where no file can be made: the folder is missing, or the name is that of a folder."""
    check_parent(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose another file name.")


def write_image(volume: Volume, path: Path) -> None:
    """Write to `path` directly, which `atomic_file` gave.

    Raises:
        InputError: a dtype or shape that the formats lack.
        OSError: the disk is full or the folder is protected.
    """
    import SimpleITK as sitk

    image = _to_image(volume)
    try:
        with silence_stderr():
            sitk.WriteImage(image, str(path), useCompression=True, imageIO=IMAGE_SUFFIXES[file_suffix(path)])
    except RuntimeError as error:
        raise OSError(error) from error


def _to_image(volume: Volume) -> sitk.Image:
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
    with gzip.open(path) if file_suffix(path) == ".nii.gz" else path.open("rb") as file:
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
        f"{path} cannot be read as {file_suffix(path)}: it is truncated, damaged, protected or in another format. "
        "Copy it again from its source."
    )
