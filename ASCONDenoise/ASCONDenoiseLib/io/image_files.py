"""Volumes in image files: NRRD and MetaImage through SimpleITK, NIfTI through `nifti`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import check_parent, file_suffix
from ASCONDenoiseLib.io.nifti import check_nifti, no_volume, not_finite, read_nifti, unreadable, write_nifti
from ASCONDenoiseLib.io.silence import silence_stderr
from ASCONDenoiseLib.io.volume import Geometry, Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".nrrd", ".nhdr", *NIFTI_SUFFIXES, ".mha", ".mhd")
"""What `read_image` reads."""

WRITABLE_SUFFIXES = (".nrrd", *NIFTI_SUFFIXES, ".mha")
"""Single-file formats: one rename puts the finished file in its place."""

_READERS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
_WRITABLE_TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")

_UNIT = re.compile(rb"^(?:space units: *|DistanceUnits *= *)(.*?)\r?$", re.MULTILINE | re.IGNORECASE)
_GEOMETRY = re.compile(rb"^(ElementSpacing|Offset|Position|TransformMatrix|DimSize) *=(.*)$", re.MULTILINE)
_TRUTH = re.compile(rb"^(?:BinaryData|BinaryDataByteOrderMSB|ElementByteOrderMSB|CompressedData) *=(.*)$", re.MULTILINE)
_DIMENSIONS = re.compile(rb"^NDims *=(?! *\d *\r?$)", re.MULTILINE)
"""More than nine of them, or no number: ITK would write beyond its memory."""
_TRUTHS = (b"true", b"false", b"1", b"0")
"""ITK takes all that begins with 1 or T for true."""

_MM = {
    "": 1.0, "?": 1.0, "none": 1.0, "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0,
    "um": 1e-3, "\u00b5m": 1e-3, "\u03bcm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3,
    "micrometre": 1e-3, "nm": 1e-6, "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0,
    "m": 1e3, "meter": 1e3, "metre": 1e3,
}  # fmt: skip
"""Units that NRRD and MetaImage headers name, in mm."""
_LONGEST_HEADER = 1 << 20
_LONGEST_FIELD = 1000


def read_image(path: Path, *, sequence: bool = False) -> Volume:
    """Read an existing image file; its dtype is kept. With `sequence`, 4-D NIfTI too.

    Raises:
        InputError: truncated, unreadable, not a 3-D scalar image, or not finite.
    """
    if file_suffix(path) in NIFTI_SUFFIXES:
        return read_nifti(path, sequence=sequence)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_READERS[file_suffix(path)])
    mm = _unit_mm(path)
    try:
        with silence_stderr():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise unreadable(path) from error
    if file_suffix(path) in (".mha", ".mhd"):
        _check_meta_image(path, reader)
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) not in (2, 3) or components != 1:
        raise no_volume(path, size, components)
    try:
        with silence_stderr():
            image = reader.Execute()
    except RuntimeError as error:
        raise unreadable(path) from error
    if len(size) == 2:
        image = sitk.JoinSeries(image)  # one slice
    voxels = sitk.GetArrayFromImage(image)
    if not (np.isfinite(voxels.min()) and np.isfinite(voxels.max())):  # NaN spreads to both
        raise not_finite(path)
    spacing_mm, origin_mm = (
        tuple(value * mm for value in values) for values in (image.GetSpacing(), image.GetOrigin())
    )
    geometry = Geometry(spacing_mm, origin_mm, image.GetDirection())
    if not np.isfinite([*spacing_mm, *origin_mm, *geometry.direction]).all():
        raise InputError(f"{path} has a geometry that is not finite (spacing, origin, direction): export it again.")
    return Volume(voxels, geometry)


def _check_meta_image(path: Path, reader: sitk.ImageFileReader) -> None:
    """Raise InputError unless ITK has the geometry of the header: it drops what follows a malformed field."""
    axes = np.reshape(reader.GetDirection(), (reader.GetDimension(), -1)).T.ravel()  # a line of the file is an axis
    origin = reader.GetOrigin()
    taken = {"ElementSpacing": reader.GetSpacing(), "Offset": origin, "Position": origin, "DimSize": reader.GetSize()}
    taken["TransformMatrix"] = axes
    with path.open("rb") as file:
        header = file.read(_LONGEST_HEADER).partition(b"ElementDataFile")[0]
    for name, text in _GEOMETRY.findall(header):
        try:
            stated = [float(number) for number in text.split()]
        except ValueError:
            raise unreadable(path) from None
        there = taken[name.decode()]
        if len(stated) != len(there) or not np.allclose(stated, there, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise unreadable(path)


def _unit_mm(path: Path) -> float:
    """The unit of length in an NRRD or MetaImage header, which ITK takes for mm whatever it is.

    Raises:
        InputError: the unit is not known, or a field is so long that ITK would write beyond its memory.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise unreadable(path) from error
    header = re.split(rb"\r?\n\r?\n|ElementDataFile", start, maxsplit=1)[0]
    if any(
        len(line) > _LONGEST_FIELD and not line.startswith(b"#") and b":=" not in line for line in header.split(b"\n")
    ):
        raise unreadable(path)
    if file_suffix(path) in (".mha", ".mhd"):
        truths = {text.strip().lower() for text in _TRUTH.findall(header)}
        if _DIMENSIONS.search(header) or not truths <= set(_TRUTHS):
            raise unreadable(path)
    found = _UNIT.search(header)
    if not found:
        return 1.0
    text = found.group(1).decode("utf-8", "replace")
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', text) or [text]}
    known = {_MM.get(unit) for unit in units}
    if len(known) > 1 or None in known:
        raise InputError(f"{path} is measured in {text.strip()}, which is not known here: save it again in mm.")
    (mm,) = known
    assert mm is not None
    return mm


def check_place(path: Path) -> None:
    """Raise InputError where no file can be made: the folder is missing, or the name is that of a folder."""
    check_parent(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose another file name.")


def check_writable(volume: Volume, path: Path) -> None:
    """Raise InputError where the format that the suffix of `path` names cannot hold a volume as it is."""
    voxels = volume.voxels
    if voxels.ndim != 3 or voxels.size == 0:
        raise InputError(f"Voxels of shape {voxels.shape} are no volume: (slices, rows, columns) are needed.")
    if voxels.dtype.str[1:] not in _WRITABLE_TYPES:
        raise InputError(f"Voxels of type {voxels.dtype} cannot be written: use int16 or float32.")
    if file_suffix(path) in NIFTI_SUFFIXES:
        check_nifti(volume, path.name)
    elif volume.phases > 1:
        raise InputError(
            f"{path.name} cannot be written: the result is a sequence of {volume.phases} volumes. Name a .nii.gz file "
            "or, for what came from DICOM, a new folder."
        )


def write_image(volume: Volume, path: Path) -> None:
    """Write voxels and geometry, compressed where the format can, in the one of WRITABLE_SUFFIXES that `path` has.

    The suffix is in small letters. Where the file must appear complete or not at all, `atomic_file` gives such a path,
    as in `results.VolumeFile`.

    The dtype and every value survive in all formats. MetaImage keeps the geometry to the last bit and NRRD to rounding
    (1e-15); NIfTI stores it as float32 (1e-7 of each number), and keeps what was read from NIfTI-1 to the last bit.

    Raises:
        InputError: a dtype, shape or geometry that the format lacks.
        OSError: the disk is full or the folder is protected.
    """
    check_writable(volume, path)
    if file_suffix(path) in NIFTI_SUFFIXES:
        write_nifti(volume, path)
        return
    import SimpleITK as sitk

    image = _to_image(volume)
    try:
        with silence_stderr():
            sitk.WriteImage(image, str(path), useCompression=True, imageIO=_READERS[file_suffix(path)])
    except RuntimeError as error:
        raise OSError(error) from error


def _to_image(volume: Volume) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.voxels.astype(volume.voxels.dtype.newbyteorder("="), copy=False))
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image
