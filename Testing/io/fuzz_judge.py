"""Whether the product came to an allowed end with an input of the fuzzer."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path

import fuzz_oracles
import numpy as np
import pydicom

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_writer import Derivation, write_derived_series
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume

TOLERANCE_MM = 0.11
"""Reading evens out positions that lie up to 0.1 mm off."""

IDENTITY_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID", "AccessionNumber", "StudyID")
"""What files a result with its patient and study: copied byte by byte, or refused."""


class Finding(Exception):
    """An end that is not allowed.

    Attributes:
        kind: in one or two words, in capitals.
    """

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind


def judge(path: Path, work: Path, *, n_files: int, command: bool) -> tuple[str, str]:
    """End and detail. Raises Finding; what else comes out of the product passes through.

    Args:
        path: what is read.
        work: folder round it, for results and temporary files.
        n_files: images of the series, at least, where none is left out.
        command: through the command too.
    """
    before = _listing(path)
    tempfile.tempdir = str(work / "temporary")
    os.makedirs(tempfile.tempdir, exist_ok=True)
    try:
        end = _end(path, work, n_files)
        if command:
            _check_command(path, end[0])
    finally:
        left = os.listdir(tempfile.tempdir)
        tempfile.tempdir = None
    if left or _listing(path) != before:
        raise Finding("FILE LEFT", f"{left or 'the input has changed'}")
    return end


def _end(path: Path, work: Path, n_files: int) -> tuple[str, str]:
    try:
        volume = read_volume(path)
    except InputError as error:
        _check_sentence(str(error), path)
        return "REFUSED", str(error)
    if not np.isfinite([volume.voxels.min(), volume.voxels.max(), *_numbers(volume.geometry)]).all():
        raise Finding("NOT FINITE", str(volume.geometry))
    unsure = _check_dicom(volume, n_files) if volume.source else _check_image(volume, path)
    if volume.source:
        _check_derived(volume, work / "derived")
    return ("UNCONFIRMED", unsure) if unsure else ("EXACT", "")


def _check_sentence(text: str, path: Path) -> None:
    """The file or folder is named, or the series, which a folder's message may name instead; nothing leaks."""
    if not (str(path) in text or text.startswith("Series ") or "series " in text):
        raise Finding("UNNAMED", text)
    if any(word in text for word in ("Traceback", "Error:", "object has no attribute", "NoneType")):
        raise Finding("BAD SENTENCE", text)


def _check_dicom(volume: Volume, n_files: int) -> str:
    """Compare slice by slice; returns why something could not be compared, or ""."""
    source, unsure = volume.source, ""
    assert source
    frames = source.frames or (1,) * source.n_slices
    files = source.files * (source.n_slices if len(source.files) == 1 else 1)
    if not source.frames and len(files) < n_files and not volume.notes:
        raise Finding("SLICE GONE", f"{len(files)} of {n_files} files, no note")
    for number, (file, frame) in enumerate(zip(files, frames, strict=True)):
        try:
            hu, affine = fuzz_oracles.dicom_frame(file, frame - 1)
        except fuzz_oracles.Unsure as reason:
            unsure = str(reason)
            continue
        _check_voxels(volume.voxels[number], hu, file.name)
        ours = affine_of(volume.geometry) @ [0, 0, number, 1]
        if np.abs(ours - affine[:, 3]).max() > TOLERANCE_MM:
            raise Finding("GEOMETRY", f"{file.name} at {ours[:3]}, not {affine[:3, 3]}")
        if np.abs(affine_of(volume.geometry)[:, :2] - affine[:, :2]).max() > 0.011 * np.abs(affine[:3, :2]).max():
            raise Finding("GEOMETRY", f"{file.name} along {affine_of(volume.geometry)[:3, :2]}, not {affine[:3, :2]}")
    return unsure


def _check_image(volume: Volume, path: Path) -> str:
    try:
        seen = fuzz_oracles.image(path)
    except fuzz_oracles.Unsure as reason:
        return str(reason)
    _check_voxels(volume.voxels, seen.voxels, path.name)
    ours = affine_of(volume.geometry)
    corners = np.array([[x, y, z, 1] for z in (0, 1) for y in (0, 1) for x in (0, 1)]) * [*volume.voxels.shape[::-1], 1]
    off = min(np.abs((ours - affine) @ corners.T).max() for affine in seen.affines)
    if any(" differ by " in note for note in volume.notes):
        return "the file contradicts itself, which is told"
    if not off <= 1e-3 * max(1, np.abs(ours).max()):
        raise Finding("GEOMETRY", f"{ours.tolist()}, not {[affine.tolist() for affine in seen.affines]}")
    return ""


def _check_voxels(ours: np.ndarray, theirs: np.ndarray, name: str) -> None:
    if ours.shape != theirs.shape:
        raise Finding("VOXELS", f"{name}: shape {ours.shape}, not {theirs.shape}")
    off = np.abs(ours.astype(np.float64) - theirs)
    allowed = 0 if np.array_equal(theirs, np.rint(theirs)) and ours.dtype.kind in "iu" else 1e-6 * np.abs(theirs) + 1e-9
    if not (off <= allowed).all():
        worst = np.unravel_index(off.argmax(), off.shape)
        raise Finding("VOXELS", f"{name}: {np.mean(off > allowed):.0%} differ, {ours[worst]} not {theirs[worst]}")


def _check_derived(volume: Volume, folder: Path) -> None:
    """Written as a derived series, unchanged, and read again: the same voxels, place and patient; or refused."""
    assert volume.source
    try:
        files = write_derived_series(volume, volume.source, folder, Derivation("fuzz"))
    except InputError as error:
        if folder.exists() or not ("series" in str(error) or str(folder.parent) in str(error)):
            raise Finding("UNNAMED", f"when written: {error}") from None
        return
    try:
        again = read_volume(folder)
    except InputError as error:
        raise Finding("OWN SERIES", f"is refused: {error}") from None
    rounded = volume.voxels if volume.voxels.dtype.kind in "iu" else np.rint(volume.voxels)
    if np.abs(again.voxels.astype(np.float64) - volume.voxels).max() > np.abs(rounded - volume.voxels).max() + 1e-4:
        raise Finding("OWN SERIES", "holds other voxels")
    if not np.allclose(affine_of(again.geometry), affine_of(volume.geometry), atol=0.02):
        raise Finding("OWN SERIES", f"lies at {again.geometry}, not {volume.geometry}")
    first = pydicom.dcmread(volume.source.files[0], stop_before_pixels=True, force=True)
    _check_identity(first, pydicom.dcmread(files[0], stop_before_pixels=True))


def _check_identity(source: pydicom.Dataset, derived: pydicom.Dataset) -> None:
    """Texts that say whose images these are have the same bytes."""
    for keyword in IDENTITY_TAGS:
        theirs, ours = (_raw(dataset, keyword) for dataset in (source, derived))
        if theirs != ours:
            raise Finding("IDENTITY", f"{keyword} {theirs!r} became {ours!r}")


def _raw(dataset: pydicom.Dataset, keyword: str) -> bytes:
    """A value's bytes without padding; of one that is no text in its file, nothing."""
    element = dataset.get_item(keyword) if keyword in dataset else None
    value = element.value if element is not None else b""
    return value.strip(b" \0") if isinstance(value, bytes) else str(value).encode().strip(b" \0")


def _check_command(path: Path, end: str) -> None:
    """`ascon evaluate` of the input against itself ends as reading did."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(["evaluate", "--reference", str(path), "--test", str(path)])
    if "Unexpected error" in err.getvalue() or code not in (0, 2) or (end == "REFUSED") != (code == 2):
        too_small = "SSIM" in err.getvalue() or "larger" in err.getvalue()
        if not (code == 2 and too_small):
            raise Finding("COMMAND", f"exit code {code}: {err.getvalue()}")


def affine_of(geometry: Geometry) -> np.ndarray:
    """4x4, voxel (i, j, k) to LPS in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    affine[:3, 3] = geometry.origin_mm
    return affine


def _numbers(geometry: Geometry) -> tuple[float, ...]:
    return (*geometry.spacing_mm, *geometry.origin_mm, *geometry.direction)


def _listing(path: Path) -> list[tuple[str, int]]:
    """Names, kinds and times of all that lies in the input's folder."""
    folder = path if path.is_dir() else path.parent
    return sorted((str(one), one.lstat().st_mtime_ns) for one in folder.rglob("*"))
