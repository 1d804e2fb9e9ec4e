"""What is delivered: the CT in a folder, which patient trains, validates and tests, which slices are a pair.

The paper (section 3.1) names training and test patients only, and its implementation chose the epoch to report on the
test patients. Here the last training patients validate, so that the test patients are seen once, at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import IMAGE_SUFFIXES, Geometry, Volume, image_suffix, read_volume
from ASCONTrainingLib.data.training_set import SPLITS, DataError, check_patients

# -------------------------------------------------------------------------------------------------- the CT in a folder

_FULL = re.compile(r"(?<![a-z0-9])(?:full|fd|normal|ndct|nd)(?:[ _-]?dose)?(?![a-z0-9])", re.IGNORECASE)
_LOW = re.compile(r"(?<![a-z0-9])(?:quarter|qd|low|ldct(?!-and)|ld)(?:[ _-]?dose)?(?![a-z0-9])", re.IGNORECASE)
_PROJECTIONS = re.compile(r"DICOM-CT-PD|projections?(?![ _-]?data)", re.IGNORECASE)
# Neither of the last two means the folder LDCT-and-Projection-data.
_HEADER = [
    *("SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "ConvolutionKernel", "SliceThickness", "Rows"),
    "PatientID",  # to find one patient in two splits; never shown or stored
]
_NOT_DICOM = (".npy", ".json", ".csv", ".txt", ".pdf", ".xml", ".xlsx", ".zip", ".tcia", ".png", ".py", ".md")


@dataclass(frozen=True)
class FoundVolume:
    """A CT series below a folder, or a volume file.

    Attributes:
        where: its path relative to the prepared folder, without the names of single slices.
        names: the file's (of a series, the first file's), then the folders' from the inside out.
        description, thickness_mm, kernel, patient_id: of a DICOM series, as far as its header tells.
    """

    path: Path
    where: Path
    names: tuple[str, ...]
    description: str = ""
    series_uid: str | None = None
    thickness_mm: float | None = None
    kernel: str = ""
    patient_id: str = ""

    def read(self) -> Volume:
        if self.series_uid is None:
            volume = read_volume(self.path)
            if volume.voxels.min() >= 0:
                raise DataError(f"{self.path} holds no value below 0, so it is not in HU: apply the rescale first.")
            return volume
        from ASCONDenoiseLib.io.dicom_reader import read_series

        return read_series(self.path, self.series_uid)


def dicom_series(src: Path) -> list[FoundVolume]:
    """Every CT series below a folder (one entry for each folder that it lies in), ordered by path. Headers only."""
    found = []
    for folder, files in _folders_below(src):
        series: dict[str, FoundVolume] = {}
        where = Path(os.path.relpath(folder, src))
        for file in files:
            header = _header(folder / file)
            if header is None or header.get("Modality") != "CT" or "LOCALIZER" in (header.get("ImageType") or []):
                continue
            description, series_uid = str(header.get("SeriesDescription") or ""), str(header.SeriesInstanceUID)
            if series_uid not in series and not _PROJECTIONS.search(description):
                kernel = header.get("ConvolutionKernel") or ""
                series[series_uid] = FoundVolume(
                    folder,
                    where,
                    (Path(file).stem, *reversed(where.parts)),
                    description,
                    series_uid,
                    _thickness_mm(header),
                    kernel if isinstance(kernel, str) else str(kernel[0]),  # Siemens: kernel and strength
                    str(header.get("PatientID") or ""),
                )
        found += series.values()
    return found


def _thickness_mm(header: Any) -> float | None:
    try:
        return float(header.SliceThickness)
    except (AttributeError, TypeError, ValueError):
        return None


def _folders_below(src: Path) -> Iterator[tuple[Path, list[str]]]:
    if src.is_file():
        return
    for root, folders, names in os.walk(src):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _PROJECTIONS.search(n))
        skip = (*_NOT_DICOM, *IMAGE_SUFFIXES)
        yield Path(root), sorted(n for n in names if not n.startswith(".") and not n.lower().endswith(skip))


def _header(file: Path) -> Any:
    """Dataset of the few attributes that tell a series from another; None for what is no DICOM image."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER)
            return header if "Rows" in header and "SeriesInstanceUID" in header else None
    except OSError as error:
        raise InputError(f"{file} cannot be opened: check its permissions or remove it from the folder.") from error
    except Exception:  # not DICOM, or damaged: then reading the series says which file it is
        return None


def image_files(src: Path) -> list[FoundVolume]:
    """Every volume file below a folder, or the file itself."""
    if src.is_file():
        return [FoundVolume(src, Path(src.name), (src.name,))] if image_suffix(src) in IMAGE_SUFFIXES else []
    found = []
    for root, folders, names in os.walk(src):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if image_suffix(name) in IMAGE_SUFFIXES and not name.startswith("."):
                where = Path(os.path.relpath(Path(root, name), src))
                found.append(FoundVolume(src / where, where, tuple(reversed(where.parts))))
    return found


def dose_of(names: Iterable[str]) -> str | None:
    """ "full" or "low", by the first of the names that says one of them and not both."""
    for name in names:
        full, low = bool(_FULL.search(name)), bool(_LOW.search(name))
        if full != low:
            return "full" if full else "low"
    return None


def parts_of(src: Path, found: FoundVolume) -> list[str]:
    """Parts of a path without the suffix: the patient first."""
    parts = list(found.where.parts)
    if found.series_uid is None:
        parts[-1] = parts[-1][: -len(image_suffix(parts[-1]))]
    return parts or [src.resolve().name]


def parts_without_dose(src: Path, found: FoundVolume) -> list[str]:
    """The same without words for the dose, and without the parts that are nothing else."""
    parts = [_LOW.sub("", _FULL.sub("", part)).strip(" _-.") for part in parts_of(src, found)]
    return [part for part in parts if part] or [src.resolve().name]


# ----------------------------------------------------------------------------------------------- who trains, who tests

Split = dict[str, list[str]]
"""Patients of "train", "validation" and "test"."""

MAYO_2016: Split = {
    "train": ["L067", "L096", "L109", "L143", "L192", "L286", "L291"],
    "validation": ["L310"],
    "test": ["L333", "L506"],
}
"""AAPM challenge, as the paper; the notebook's L219 is the challenge's L291."""

MAYO_2020: Split = {
    "train": "L107 L114 L116 L125 L131 L134 L145 L150 L160 L170 L175 L178 L186 L187".split(),
    "validation": ["L193", "L203"],
    "test": ["L110", "L123", "L148", "L179"],
}
"""LDCT-and-Projection-data, abdomen, as the paper."""


def read_split(path: str | Path) -> Split:
    """Read {"train": [...], "validation": [...], "test": [...]} from a JSON file; other keys are remarks.

    Raises:
        DataError: unreadable, lists missing, or a patient in two of them.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        split = {name: [str(patient) for patient in content[name]] for name in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} is no split file: it must be JSON, {{"train": [...], "validation": [...], "test": [...]}} with '
            "the patients of each (lists may be empty)."
        ) from error
    check_patients(split, path)
    return split


def automatic_split(patients: Iterable[str], seed: int = 0) -> Split:
    """A tenth of the patients, at least one, tests, as many validate, the rest trains; the same for the same names.

    With two patients none is left to test, with one none to validate.
    """
    order = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
    tenth = max(1, round(len(order) / 10))
    test = tenth if len(order) > 2 else 0
    validation = tenth if len(order) > 1 else 0
    return {
        "train": sorted(order[test + validation :]),
        "validation": sorted(order[test : test + validation]),
        "test": sorted(order[:test]),
    }


# --------------------------------------------------------------------------------------------- which slices are a pair

POSITION_TOLERANCE = 0.1
"""How far two slices of a pair may lie apart: this part of the slice spacing, and in the slice of a pixel."""


@dataclass(frozen=True)
class PairedVolume:
    """Arrays of one volume, (S, H, W) int16 HU."""

    ndct: np.ndarray
    ldct: np.ndarray
    spacing_mm: tuple[float, float, float]
    unmatched: tuple[int, int] = (0, 0)


def pair_volumes(full: Volume, low: Volume, where: str) -> PairedVolume:
    """The slices that both volumes have, in the order of the full-dose one.

    Raises:
        DataError: sizes, pixels, orientation, place or slice thickness differ, no slice has a partner, or both are the
            same; the text names `where`.
    """
    _check_alike(full, low, where)
    in_full, in_low = match_slices(full.geometry, len(full.voxels), low.geometry, len(low.voxels))
    if not len(in_full):
        ranges = [_extent(volume) for volume in (full, low)]
        raise DataError(
            f"{where} have no slice at the same place: {len(full.voxels)} slices at {ranges[0]} and "
            f"{len(low.voxels)} at {ranges[1]}. They are not of one scan."
        )
    ndct, ldct = to_int16(full.voxels[in_full]), to_int16(low.voxels[in_low])
    if np.array_equal(ndct, ldct):
        raise DataError(f"{where} hold the same {len(ndct)} images: one of them is not what its name says.")
    unmatched = (len(full.voxels) - len(ndct), len(low.voxels) - len(ldct))
    return PairedVolume(ndct, ldct, tuple(full.geometry.spacing_mm), unmatched)


def match_slices(full: Geometry, n_full: int, low: Geometry, n_low: int) -> tuple[np.ndarray, np.ndarray]:
    """Slice numbers, in both volumes, of the slices at the same place along the full-dose one's slice axis."""
    axis = np.reshape(full.direction, (3, 3))[:, 2]
    offset = (np.asarray(low.origin_mm) - full.origin_mm) @ axis
    at = (offset + np.arange(n_low) * low.spacing_mm[2]) / full.spacing_mm[2]  # in slices of the full-dose volume
    nearest = np.rint(at).astype(int)
    tolerance = POSITION_TOLERANCE * min(1.0, low.spacing_mm[2] / full.spacing_mm[2])
    fits = (np.abs(at - nearest) <= tolerance) & (nearest >= 0) & (nearest < n_full)
    return nearest[fits], np.flatnonzero(fits)


def _check_alike(full: Volume, low: Volume, where: str) -> None:
    a, b = full.geometry, low.geometry
    axes = np.reshape(a.direction, (3, 3))
    shift = (np.asarray(b.origin_mm) - a.origin_mm) @ axes
    thickness = [volume.description.get("slice_thickness_mm") for volume in (full, low)]
    differences = {
        "size": (full.voxels.shape[:0:-1], low.voxels.shape[:0:-1], full.voxels.shape[1:] == low.voxels.shape[1:]),
        "pixel spacing": (a.spacing_mm[:2], b.spacing_mm[:2], np.allclose(a.spacing_mm[:2], b.spacing_mm[:2], 0, 1e-3)),
        "orientation": (a.direction, b.direction, np.allclose(a.direction, b.direction, 0, 2e-3)),
        "place of the first pixel": (
            a.origin_mm,
            b.origin_mm,
            np.abs(shift[:2] / a.spacing_mm[:2]).max() <= POSITION_TOLERANCE,
        ),
        "slice thickness": (*thickness, None in thickness or abs(float(thickness[0]) - float(thickness[1])) < 0.05),
    }
    for what, (of_full, of_low, same) in differences.items():
        if not same:
            raise DataError(
                f"{where} differ in {what}: {_numbers(of_full)} in {len(full.voxels)} full-dose slices, "
                f"{_numbers(of_low)} in {len(low.voxels)} low-dose slices. Pair series of one scan and one "
                "reconstruction."
            )


def _extent(volume: Volume) -> str:
    axis = np.reshape(volume.geometry.direction, (3, 3))[:, 2]
    first = float(np.dot(volume.geometry.origin_mm, axis))
    last = first + (len(volume.voxels) - 1) * volume.geometry.spacing_mm[2]
    return f"{first:g} to {last:g} mm"


def _numbers(values: Any) -> str:
    return " x ".join(f"{value:g}" for value in values) if isinstance(values, tuple) else str(values)


def to_int16(voxels: np.ndarray) -> np.ndarray:
    """HU as int16, rounded where a rescale slope left fractions, clipped where metal is beyond the type."""
    if voxels.dtype == np.int16:
        return voxels
    limits = np.iinfo(np.int16)
    return np.rint(voxels).clip(limits.min, limits.max).astype(np.int16)
