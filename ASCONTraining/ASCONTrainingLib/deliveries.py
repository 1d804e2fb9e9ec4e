"""What lies in a folder: CT series and volume files, and what their names say of patient and dose. Headers only."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.volume import IMAGE_SUFFIXES, InputError, Volume, image_suffix, read_volume

from .datasets import DataError

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
        from ASCONDenoiseLib.dicom import read_series

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
