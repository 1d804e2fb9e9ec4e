"""NIfTI files: the voxels as they are stored, both of their geometries, and Slicer's choice between the two.

A NIfTI header places its voxels by the qform (a rotation and pixdim), by the sform (any matrix), or by both, each with
a code that says what it means. Slicer reads NIfTI through ITK, whose rule (5.4, NiftiImageIO) is followed here: the
voxel size is pixdim; the sform is used where its axes are at right angles and it has code 1 (scanner), equals the
qform, or is the only one; else the qform; with neither, the axes are those of the patient (LPS) and the first voxel is
at the origin. ITK refuses an sform that is alone and a little off the right angles; a rounding is accepted and noted.

What is written from a NIfTI-1 has its qform, sform, codes and units bit for bit; a NIfTI-2 becomes a NIfTI-1, which
has them as float32, since ITK reads no NIfTI-2. nibabel knows the header's fields; the voxels are read here, from the
very file that was named and before anything replaces values that are not finite.
"""

from __future__ import annotations

import gzip
import itertools
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import file_suffix
from ASCONDenoiseLib.io.volume import Geometry, NiftiForms, Volume, whole_or_float32

Header = Any  # nibabel's Nifti1Header or Nifti2Header, which have no types

ROUNDED = 1e-4
"""Axes whose scalar product is at most this are at right angles (ITK's tolerance)."""

SHEARED = 2e-3
"""Axes whose scalar product is more than this, 0.1 degrees, are sheared and no rounding."""

LARGEST_SIDE = 32767
"""Voxels along one axis that a NIfTI-1 header can count."""

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, mm, micrometre
_FORMS = """
    qform_code sform_code quatern_b quatern_c quatern_d qoffset_x qoffset_y qoffset_z srow_x srow_y srow_z pixdim
    xyzt_units toffset
""".split()
_DEFLATE_AT_MOST = 1032
"""How many bytes one byte of a gzip file can hold."""
_TOLD_MM = 0.01
"""Geometries in one header that differ by more than this are told."""


def read_nifti(path: Path, *, sequence: bool = False) -> Volume:
    """Read NIfTI-1 or -2 in one file, compressed or not whatever its suffix says; the dtype is kept where slope is 1.

    Values with a slope and an intercept become int16 where all are integers that fit, else float32.

    Args:
        path: of the file.
        sequence: a 4-D image is welcome.

    Raises:
        InputError: truncated, another format, not one 3-D scalar image, sheared, not finite.
    """
    try:
        with _opened(path) as file:
            header = _read_header(file, path)
            *shape, phases = _shape(header, path, 4 if sequence else 3)
            stored = _read_voxels(file, header, (shape[0], shape[1], shape[2] * phases), path)
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise unreadable(path) from error
    voxels = _scaled(stored, header, path)
    geometry, notes = _geometry(header, (shape[0], shape[1], shape[2]), path)
    fields = {name: tuple(np.ravel(header[name]).tolist()) for name in _FORMS}
    return Volume(voxels, geometry, notes=tuple(notes), nifti=NiftiForms(geometry, fields), phases=phases)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write NIfTI-1 to `path` directly, compressed where it ends in .gz; ask `check_nifti` first.

    Raises:
        OSError: the disk is full or the folder is protected.
    """
    header = _new_header(volume)
    voxels = volume.voxels
    compressed = file_suffix(path) == ".nii.gz"
    with path.open("wb") as raw:
        # no name and no time in it: the same volume gives the same file
        file = gzip.GzipFile("", "wb", 6, raw, mtime=0) if compressed else raw
        file.write(header.binaryblock + bytes(4))
        for one in voxels:
            file.write(np.ascontiguousarray(one.astype(one.dtype.newbyteorder("="), copy=False)).tobytes())
        if compressed:
            file.close()


def check_nifti(volume: Volume, name: str) -> None:
    """Raise InputError where NIfTI-1 cannot hold a volume: sheared axes, a side or another number too large."""
    if (longest := max(volume.phases, volume.slices, *volume.voxels.shape[1:])) > LARGEST_SIDE:
        raise InputError(
            f"{name} cannot be written: NIfTI holds {LARGEST_SIDE} voxels along a side and the volume has "
            f"{longest}. Choose .nrrd or .mha."
        )
    if not _has_own_forms(volume) and (off := off_right_angles(volume.geometry)) > SHEARED:
        raise InputError(
            f"{name} cannot be written: the axes of the volume are sheared by {math.degrees(math.asin(off)):.2g} "
            "degrees, and NIfTI readers would straighten them and move the voxels. Choose .nrrd or .mha."
        )
    try:
        with np.errstate(over="raise"):
            _new_header(volume)
    except (OverflowError, FloatingPointError) as error:
        raise InputError(
            f"{name} cannot be written: a number that says where the volume lies is too large for NIfTI-1. Choose "
            ".nrrd or .mha."
        ) from error


def off_right_angles(geometry: Geometry) -> float:
    """The largest scalar product of two axes: 0 where they are at right angles, the sine of the shear where not."""
    axes = np.reshape(geometry.direction, (3, 3))
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def unreadable(path: Path) -> InputError:
    """The error for an image file of any format that nothing can be made of."""
    return InputError(
        f"{path} cannot be read as {file_suffix(path)}: it is truncated, damaged, protected or in another format. "
        "Copy it again from its source."
    )


def not_finite(path: Path) -> InputError:
    """The error for an image file of any format with NaN or infinity."""
    return InputError(f"{path} holds values that are not finite (NaN or infinity): replace them, by -1024 HU say.")


def no_volume(path: Path, shape: tuple[int, ...], components: int) -> InputError:
    """The error for an image file of any format that holds something else than one volume."""
    return InputError(
        f"{path} holds {len(shape)}-D data of {' x '.join(map(str, shape))} with {components} value(s) per voxel, "
        "not one 3-D CT volume: export the volume alone."
    )


def _nibabel() -> Any:
    import nibabel

    return nibabel


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of the file that was named, decompressed where it is gzip."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not compressed:
            yield raw
            return
        with gzip.open(raw) as file:
            yield file  # type: ignore[misc]  # GzipFile is all of IO[bytes] that is used


def _read_header(file: IO[bytes], path: Path) -> Header:
    start = file.read(4)
    sizes = int.from_bytes(start, "little"), int.from_bytes(start, "big")
    kind = _nibabel().Nifti2Header if 540 in sizes else _nibabel().Nifti1Header
    content = start + file.read(kind.template_dtype.itemsize - 4)
    if len(content) < kind.template_dtype.itemsize:
        raise EOFError
    header = kind(content, check=False)  # its own check writes to stderr
    magic = bytes(header["magic"]).rstrip(b"\0")[:3]
    if int(header["sizeof_hdr"]) != len(content) or magic not in (b"n+1", b"n+2"):
        if magic in (b"ni1", b"ni2"):
            raise InputError(f"{path} is half of a pair (.hdr and .img): convert the pair to one .nii file.")
        raise unreadable(path)
    return header


def _shape(header: Header, path: Path, most: int) -> tuple[int, int, int, int]:
    """Columns, rows, slices, phases; InputError where it is no one scalar image of at most so many dimensions."""
    n = int(header["dim"][0])
    shape = tuple(int(side) for side in header["dim"][1 : n + 1])
    if not 1 <= n <= 7 or min(shape) < 1:
        raise unreadable(path)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    try:
        dtype = header.get_data_dtype()
    except KeyError as error:
        raise unreadable(path) from error
    if dtype.itemsize == 0:  # no type, or single bits
        raise unreadable(path)
    components = 2 if dtype.kind == "c" else len(dtype.names or ".")
    if not 2 <= len(shape) <= most or components != 1:
        raise no_volume(path, shape, components)
    columns, rows, slices, phases = (*shape, 1, 1)[:4]
    return columns, rows, slices, phases


def _read_voxels(file: IO[bytes], header: Header, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    """The stored values (S, H, W) in native byte order; EOFError where fewer are there than announced."""
    dtype = header.get_data_dtype().newbyteorder(header.endianness)
    start = len(header.binaryblock)
    offset = int(header["vox_offset"]) or start + 4
    n_bytes = math.prod(shape) * dtype.itemsize
    compressed = isinstance(file, gzip.GzipFile)
    if offset < start or offset + n_bytes > path.stat().st_size * (_DEFLATE_AT_MOST if compressed else 1):
        raise EOFError
    file.seek(offset)
    stored = np.empty(shape[::-1], dtype)
    room = memoryview(stored.reshape(-1).view(np.uint8).data)
    while room:
        if not (n := file.readinto(room)):  # type: ignore[attr-defined]  # both kinds of file have it
            raise EOFError
        room = room[n:]
    while file.read(1 << 22):  # to the end, where gzip keeps its checksum
        pass
    return stored.astype(np.float64 if dtype.itemsize > 8 else dtype.newbyteorder("="), copy=False)


def _scaled(stored: np.ndarray, header: Header, path: Path) -> np.ndarray:
    """Stored values with slope and intercept applied; a slope of 0 or NaN means none (nifti1.h)."""
    if not (np.isfinite(stored.min()) and np.isfinite(stored.max())):  # NaN spreads to both
        raise not_finite(path)
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope) or (slope, intercept) == (1, 0):
        return stored
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise not_finite(path)
    if stored.dtype.kind == "f":
        with np.errstate(over="ignore"):
            scaled: np.ndarray = (stored.astype(np.float64) * slope + intercept).astype(stored.dtype)
    else:
        scaled = np.empty(stored.shape, np.int16)
        for number, one in enumerate(stored):
            hu = whole_or_float32(one.astype(np.float64) * slope + intercept)
            if hu.dtype == np.float32:
                scaled = scaled.astype(np.float32, copy=False)
            scaled[number] = hu
    if not (np.isfinite(scaled.min()) and np.isfinite(scaled.max())):
        raise not_finite(path)
    return scaled


def _geometry(header: Header, shape: tuple[int, int, int], path: Path) -> tuple[Geometry, list[str]]:
    """Slicer's choice, and what must be told of it. ITK's rule is in the module's docstring."""
    mm = _MM.get(int(header["xyzt_units"]) & 7)
    sizes = np.array(header["pixdim"][1:4], float)
    if shape[2] == 1 and sizes[2] == 0:
        sizes[2] = 1.0
    if mm is None or not np.isfinite(sizes).all() or sizes.min() <= 0:
        raise InputError(f"{path} has no valid voxel size (pixdim, xyzt_units): export it again.")
    forms = _forms(header, sizes, path)
    name, note = _chosen(forms, header)
    if name is None:
        geometry = Geometry(tuple((sizes * mm).tolist()))
        return geometry, [f"{path.name} does not say where it lies (no qform, no sform): see its orientation first."]
    matrix, notes = forms[name], [f"{path.name}: {note}"] if note else []
    directions = _RAS_TO_LPS @ (matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0))
    geometry = Geometry(
        spacing_mm=tuple((sizes * mm).tolist()),
        origin_mm=tuple((_RAS_TO_LPS @ matrix[:3, 3] * mm + 0.0).tolist()),  # 0.0 for -0.0
        direction=tuple((directions + 0.0).ravel().tolist()),
    )
    if (off := off_right_angles(geometry)) > SHEARED:
        raise InputError(
            f"{path} is sheared by {math.degrees(math.asin(min(off, 1))):.2g} degrees: its sform has axes that are not "
            "at right angles. Resample it to a straight grid."
        )
    used = matrix.copy()
    used[:3, :3] = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0) * sizes
    for other, its in forms.items():
        if (apart_mm := _apart(used, its, shape) * mm) > _TOLD_MM:
            differ = f"{other} and pixdim differ" if other == name else "qform and sform differ"
            use = "pixdim" if other == name else name
            notes.append(
                f"{path.name}: {differ} by up to {apart_mm:.2g} mm; the {use} is used, as 3D Slicer does. What is "
                "written as NIfTI keeps both."
            )
    return geometry, notes


def _forms(header: Header, sizes: np.ndarray, path: Path) -> dict[str, np.ndarray]:
    """The matrices voxel -> RAS (4, 4) that the codes declare valid, in the header's unit."""
    forms = {}
    if int(header["qform_code"]) > 0:
        bcd = np.array([header[f"quatern_{axis}"] for axis in "bcd"], float)
        with np.errstate(all="ignore"):
            rotation = _nibabel().quaternions.quat2mat([math.sqrt(max(0.0, 1 - float(bcd @ bcd))), *bcd])
        flip = [1, 1, -1 if float(header["pixdim"][0]) < 0 else 1]
        forms["qform"] = np.eye(4)
        forms["qform"][:3, :3] = rotation * flip * sizes
        forms["qform"][:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.array([*(header[f"srow_{axis}"] for axis in "xyz"), [0, 0, 0, 1]], float)
    for name, matrix in forms.items():
        if not np.isfinite(matrix).all() or not np.linalg.norm(matrix[:3, :3], axis=0).all():
            raise InputError(f"{path} has a {name} that is not finite, or an axis without length: export it again.")
    return forms


def _chosen(forms: dict[str, np.ndarray], header: Header) -> tuple[str | None, str]:
    """The form that Slicer uses, and a note where it would not open the file."""
    if "sform" not in forms:
        return ("qform" if forms else None), ""
    sform = forms["sform"]
    axes = sform[:3, :3] / np.linalg.norm(sform[:3, :3], axis=0)
    off = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if "qform" not in forms:
        note = f"the axes of its sform are {math.degrees(off):.2g} degrees off the right angle, accepted as rounding."
        return "sform", note if off > ROUNDED else ""
    scanner = int(header["sform_code"]) == 1
    alike = np.allclose(sform, forms["qform"], atol=ROUNDED, rtol=0)
    return ("sform" if off <= ROUNDED and (scanner or alike) else "qform"), ""


def _apart(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """The largest distance of a corner of the volume in one place from the same corner in the other."""
    corners = np.array([*itertools.product(*((0, side - 1) for side in shape))], float)
    difference = one - other
    moved: np.ndarray = corners @ difference[:3, :3].T + difference[:3, 3]
    return float(np.linalg.norm(moved, axis=1).max())


def _has_own_forms(volume: Volume) -> bool:
    return volume.nifti is not None and volume.nifti.geometry == volume.geometry


def _new_header(volume: Volume) -> Header:
    header = _nibabel().Nifti1Header()
    header.set_data_dtype(volume.voxels.dtype.newbyteorder("="))
    rows, columns = volume.voxels.shape[1:]
    header.set_data_shape((columns, rows, volume.slices, *([volume.phases] if volume.phases > 1 else [])))
    header["vox_offset"], header["scl_slope"], header["scl_inter"] = 352, 1, 0
    if volume.nifti is not None and _has_own_forms(volume):
        for name, numbers in volume.nifti.fields.items():
            header[name] = numbers if len(numbers) > 1 else numbers[0]
        return header
    matrix = np.eye(4)
    matrix[:3, :3] = _RAS_TO_LPS @ np.reshape(volume.geometry.direction, (3, 3)) * volume.geometry.spacing_mm
    matrix[:3, 3] = _RAS_TO_LPS @ volume.geometry.origin_mm
    header.set_qform(matrix, code=1)  # the nearest rotation
    header.set_sform(matrix, code=1)
    header["pixdim"][1:4] = volume.geometry.spacing_mm
    header.set_xyzt_units("mm")
    return header
