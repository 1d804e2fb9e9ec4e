"""Writing a denoised volume as a derived CT series that a PACS files beside its source.

Each slice becomes one CT Image Storage instance made from its source instance: patient, study, frame of reference,
geometry, equipment and acquisition stay, while everything that says "these pixels were changed, how, from what and
by whom" is added (`dicom_derivation`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_folder, check_parent
from ASCONDenoiseLib.io.dicom_derivation import Derivation, describe
from ASCONDenoiseLib.io.dicom_elements import put
from ASCONDenoiseLib.io.dicom_headers import padding_as_stored
from ASCONDenoiseLib.io.dicom_source import SourceHeader, single_frame_headers
from ASCONDenoiseLib.io.silence import silence_pydicom
from ASCONDenoiseLib.io.volume import DicomSeries, Volume


@dataclass(frozen=True)
class _Encoding:
    """How HU are stored: HU = slope * stored + intercept, in `bits` bits of a 16-bit word."""

    slope: float
    intercept: float
    signed: bool
    bits: int

    def stored(self, hu: np.ndarray) -> np.ndarray | None:
        """HU -> stored values (`<i2` or `<u2`), None where one doesn't fit: whole HU must come back exactly,
        fractions within half a HU."""
        if self.slope == 0 or not 0 < self.bits <= 16:
            return None
        stored = np.rint((hu.astype(np.float64) - self.intercept) / self.slope)
        lowest = -(2 ** (self.bits - 1)) if self.signed else 0
        tolerance_hu = 1e-6 if np.issubdtype(hu.dtype, np.integer) else 0.5 + 1e-6
        exact = np.abs(stored * self.slope + self.intercept - hu).max() <= tolerance_hu
        if not (exact and stored.min() >= lowest and stored.max() < lowest + 2**self.bits):
            return None
        return stored.astype("<i2" if self.signed else "<u2")


_UNEVEN = 0.2
"""Steps between slices that differ by more than this part of the least are uneven; less, and reading evens them out."""

_PLAIN_HU = _Encoding(slope=1.0, intercept=0.0, signed=True, bits=16)


def write_derived_series(volume: Volume, source: DicomSeries, folder: str | Path, derivation: Derivation) -> list[Path]:
    """Write `volume` (S, H, W) in HU as a new series derived from `source`; one uncompressed file per slice.

    The source's rescale slope and intercept are kept where they hold every value; else HU are stored as they are, in
    signed 16 bits. No value is clipped. Fractional HU are rounded, to the source's step where that is finer
    than 1 HU and to whole HU otherwise.

    Args:
        volume: as read from `source`, with other voxels.
        source: the instances whose headers are taken over.
        folder: new or empty; it appears complete or not at all.
        derivation: the record for every instance.

    Returns:
        The files, in the order of the slices.

    Raises:
        InputError: the folder holds something or has no parent; a source file is gone or changed; the volume's size,
            spacing, orientation or position is not the source's; a value doesn't fit into 16 bits.
        WriteError: the disk is full or the folder is protected.
    """
    folder = check_new_folder(folder)
    with silence_pydicom():
        headers = list(single_frame_headers(source))
        _check_same_geometry(volume, [one.header for one in headers], source)
        encoding = _choose_encoding(volume.voxels, [one.header for one in headers], source)
        series_uid = derivation.new_uid(source.series_uid)
        return _write(volume.voxels, headers, encoding, folder, derivation, series_uid)


def check_derivable(volume: Volume, source: DicomSeries) -> None:
    """Raise InputError where no series can be derived from `source` for a volume like this one. Ask before the work.

    Every header is taken through all that writing does to it, down to its bytes.
    """
    derivation, now = Derivation("check"), datetime.now().astimezone()
    with silence_pydicom():
        headers = list(single_frame_headers(source))
        _check_same_geometry(volume, [one.header for one in headers], source)
        encoding = _choose_encoding(volume.voxels, [one.header for one in headers], source)
        for one, slice_hu in zip(headers, volume.voxels, strict=True):
            _write_one(one, slice_hu[:1, :1], encoding, derivation, source.series_uid, now, io.BytesIO())
            del one.header.PixelData


def check_new_folder(folder: str | Path) -> Path:
    """The folder as an absolute path; InputError if no derived series may be written there. Ask before the work."""
    folder = Path(folder).resolve()
    check_parent(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder: name a new folder for the derived series.")
    return folder


def _write(
    voxels_hu: np.ndarray,
    headers: list[SourceHeader],
    encoding: _Encoding,
    folder: Path,
    derivation: Derivation,
    series_uid: str,
) -> list[Path]:
    names = [f"{number:04d}.dcm" for number in range(1, len(headers) + 1)]
    now = datetime.now().astimezone()
    with atomic_folder(folder, replace=False) as partial:
        for name, one, slice_hu in zip(names, headers, voxels_hu, strict=True):
            _write_one(one, slice_hu, encoding, derivation, series_uid, now, partial / name)
            del one.header.PixelData  # the headers stay in their list, 600 slices of pixels must not
    return [folder / name for name in names]


def _write_one(
    source: SourceHeader,
    slice_hu: np.ndarray,
    encoding: _Encoding,
    derivation: Derivation,
    series_uid: str,
    now: datetime,
    target: Path | io.BytesIO,
) -> None:
    """Turn a source header into that of the derived image and write it with its pixels.

    Raises:
        InputError: the header cannot be written.
        OSError: the disk is full or the folder is protected.
    """
    try:
        _set_pixels(source.header, slice_hu, encoding)
        describe(source, derivation, series_uid, now)
        source.restore()
        pydicom.dcmwrite(target, source.header, enforce_file_format=True)
    except Exception as error:  # pydicom raises nearly anything on garbage, OSError too
        if all(isinstance(one, OSError) for one in _causes(error)):
            raise
        raise InputError(
            f"{source.file} has a header that cannot be written again: save the result as .nrrd, or export the series "
            "again."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the one it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_same_geometry(volume: Volume, headers: list[Dataset], source: DicomSeries) -> None:
    """Raise InputError unless every slice of the volume lies where its source image lies."""
    problem = f"The volume doesn't match its source series {source.series_uid}: "
    remedy = (
        "Save the result as .nrrd; only a volume as it was read from its series, neither cropped, moved nor resampled, "
        "can become a derived series."
    )
    if len(volume.voxels) != len(headers):
        raise InputError(f"{problem}it has {len(volume.voxels)} slices, the source {len(headers)}. {remedy}")
    direction = np.reshape(volume.geometry.direction, (3, 3))
    column_mm, row_mm, step_mm = volume.geometry.spacing_mm
    for number, header in enumerate(headers):
        position_mm = np.asarray(volume.geometry.origin_mm) + number % volume.slices * step_mm * direction[:, 2]
        for keyword, expected, tolerance in (
            ("Rows", volume.voxels.shape[1], 0),
            ("Columns", volume.voxels.shape[2], 0),
            ("PixelSpacing", (row_mm, column_mm), 1e-3 * row_mm),
            ("ImageOrientationPatient", direction[:, :2].T.ravel(), 2e-2),  # reading normalises imprecise axes
            ("ImagePositionPatient", position_mm, min(0.25, step_mm / 2)),  # and evens out 0.1 mm either way
        ):
            actual = header.get(keyword)
            if actual is None:
                raise InputError(
                    f"{problem}slice {number + 1} has no {keyword} where a derived image has it. Save the result as "
                    ".nrrd."
                )
            if not _is_near(actual, expected, tolerance):
                if keyword == "ImagePositionPatient":
                    _check_even(headers[: volume.slices], source)
                raise InputError(
                    f"{problem}{keyword} of slice {number + 1} is {actual} in the source and {expected} in the volume. "
                    + remedy
                )


def _check_even(headers: Sequence[Dataset], source: DicomSeries) -> None:
    """Raise InputError where the source's slices lie unevenly: the true reason why a volume does not fit them."""
    try:
        places_mm = np.array([header.ImagePositionPatient for header in headers], float)
        steps_mm = np.linalg.norm(np.diff(places_mm, axis=0), axis=1)
    except (AttributeError, TypeError, ValueError):
        return
    if len(steps_mm) > 1 and np.ptp(steps_mm) > _UNEVEN * steps_mm.min():
        raise InputError(
            f"The slices of series {source.series_uid} lie unevenly, {steps_mm.min():.4g} to {steps_mm.max():.4g} mm "
            "apart, and those of the volume evenly: in a derived series they would lie in wrong places. Save the "
            "result as .nrrd."
        )


def _is_near(actual: Any, expected: Any, tolerance: float) -> bool:
    """Whether an element has as many numbers as expected, each within the tolerance."""
    try:
        numbers = np.asarray(actual, float)
    except (TypeError, ValueError):
        return False
    return numbers.shape == np.shape(expected) and bool(np.abs(numbers - expected).max() <= tolerance)


def _encoding_of(header: Dataset) -> _Encoding | None:
    """How the source stores HU; None where that is no encoding for a CT image."""
    if header.get("BitsAllocated") != 16:
        return None
    slope, intercept, bits = (header.get(key) for key in ("RescaleSlope", "RescaleIntercept", "BitsStored"))
    if not (isinstance(slope, float) and isinstance(intercept, float) and isinstance(bits, int)):
        return None
    return _Encoding(float(slope), float(intercept), header.get("PixelRepresentation") == 1, bits)


def _choose_encoding(voxels_hu: np.ndarray, headers: list[Dataset], source: DicomSeries) -> _Encoding:
    """The source's encoding where all slices share it and it holds every voxel, else plain HU in int16."""
    own = {_encoding_of(header) for header in headers}
    for encoding in (own.pop() if len(own) == 1 else None, _PLAIN_HU):
        if encoding and all(encoding.stored(slice_hu) is not None for slice_hu in voxels_hu):
            return encoding
    raise InputError(
        f"The result for series {source.series_uid} holds {voxels_hu.min()} to {voxels_hu.max()} HU, more than a "
        "16-bit CT image can hold. Save it as .nrrd instead."
    )


def _set_pixels(header: Dataset, slice_hu: np.ndarray, encoding: _Encoding) -> None:
    """Set pixel data and everything that says how to read it."""
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        padding = encoding.stored(np.array([_padding_hu(header, keyword)]))
        header.pop(keyword, None)
        if padding is not None:  # else there was none, or no voxel has it: all of them fit
            header.add_new(keyword, "SS" if encoding.signed else "US", int(padding[0]))
    if _encoding_of(header) != encoding:  # else the source's own text stays
        put(header, "RescaleSlope", "1")
        put(header, "RescaleIntercept", "0")
    if not header.get("RescaleType"):
        put(header, "RescaleType", "HU")
    if header.get("PhotometricInterpretation") != "MONOCHROME1":
        put(header, "PhotometricInterpretation", "MONOCHROME2")
    for keyword, number in (
        ("SamplesPerPixel", 1),
        ("BitsAllocated", 16),
        ("BitsStored", encoding.bits),
        ("HighBit", encoding.bits - 1),
        ("PixelRepresentation", int(encoding.signed)),
    ):
        put(header, keyword, number)
    stored = encoding.stored(slice_hu)
    assert stored is not None  # the encoding was chosen so
    header.add_new("PixelData", "OW", stored.tobytes())


def _padding_hu(header: Dataset, keyword: str) -> float:
    """A padding value in HU, NaN without one."""
    if not isinstance(raw := header.get(keyword), (int, bytes)):
        return np.nan
    stored = padding_as_stored(raw, int(header.BitsAllocated), header.get("PixelRepresentation") == 1)
    return stored * float(header.get("RescaleSlope", 1)) + float(header.get("RescaleIntercept", 0))
