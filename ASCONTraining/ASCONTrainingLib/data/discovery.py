"""The CT in a folder: which series and volume files there are, and what paths and headers tell of their dose.

Mayo-2016 (AAPM Low Dose CT Grand Challenge), as its archives unpack: one folder for each of four reconstructions,
    1mm B30/full_1mm/L067/full_1mm/L067_FD_1_1.CT.0001.0001.<date and numbers>.IMA
    1mm D45/quarter_1mm_sharp/L067/quarter_1mm_sharp/L067_QD_1_SHARP_1.CT....IMA
or, as it came first, L067/full_1mm/*.IMA. The headers name neither patient nor dose: paths do.
Mayo-2020 (LDCT-and-Projection-data, TCIA), as the NBIA Data Retriever writes it:
    manifest-<n>/LDCT-and-Projection-data/L299/12-23-2021-NA-NA-31304/1.000000-Low Dose Images-20326/1-001.dcm
or <patient>/<study UID>/<series UID>; the series description tells the dose. GE scans have no low-dose images.
Both hold projections too, which are passed over.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import file_suffix
from ASCONDenoiseLib.io.image_files import IMAGE_SUFFIXES
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Volume
from ASCONTrainingLib.data.pairing import positive_number

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
class SourceVolume:
    """A CT series below a folder, or a volume file.

    Attributes:
        path: of the file, or of the folder that the series lies in.
        where: the path relative to the prepared folder, without the names of single slices.
        names: the file's (of a series, the first file's), then the folders' from the inside out.
        description: of a DICOM series, as far as its header tells; so are those that follow.
        series_uid: None for a volume file.
        thickness_mm: of the slices.
        kernel: of the reconstruction.
        patient_id: PatientID.
    """

    path: Path
    where: Path
    names: tuple[str, ...]
    description: str = ""
    series_uid: str | None = None
    thickness_mm: float | None = None
    kernel: str = ""
    patient_id: str = ""

    @property
    def dose_by_name(self) -> str | None:
        """ "full" or "low": by the names first, which the user gave; "low dose" is also what protocols are called."""
        return _dose_of([*self.names, self.description])

    @property
    def dose_by_description(self) -> str | None:
        """ "full" or "low": by the description first; with folders named by UIDs it is all there is."""
        return _dose_of([self.description, *self.names])

    def read(self) -> Volume:
        volume = read_volume(self.path, self.series_uid)
        if self.series_uid is None and volume.voxels.min() >= 0:
            raise InputError(f"{self.path} holds no value below 0, so it is not in HU: apply the rescale first.")
        return volume


def dicom_series(src: Path) -> list[SourceVolume]:
    """Find every CT series below a folder (one entry for each folder that it lies in), by path. Reads headers only."""
    volumes: list[SourceVolume] = []
    for folder, files in _folders_below(src):
        series: dict[str, SourceVolume] = {}
        where = Path(os.path.relpath(folder, src))
        for file in files:
            header = _header(folder / file)
            if header is None or header["Modality"] != "CT" or "LOCALIZER" in (header["ImageType"] or []):
                continue
            description, series_uid = str(header["SeriesDescription"] or ""), str(header["SeriesInstanceUID"])
            if series_uid not in series and not _PROJECTIONS.search(description):
                kernel = header["ConvolutionKernel"] or ""
                series[series_uid] = SourceVolume(
                    folder,
                    where,
                    (Path(file).stem, *reversed(where.parts)),
                    description,
                    series_uid,
                    positive_number(header["SliceThickness"]),
                    kernel if isinstance(kernel, str) else str(kernel[0]),  # Siemens: kernel and strength
                    str(header["PatientID"] or ""),
                )
        volumes += series.values()
    return volumes


def _folders_below(src: Path) -> Iterator[tuple[Path, list[str]]]:
    if src.is_file():
        return
    for root, folders, names in os.walk(src):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and not _PROJECTIONS.search(n))
        skip = (*_NOT_DICOM, *IMAGE_SUFFIXES)
        yield Path(root), sorted(n for n in names if not n.startswith(".") and not n.lower().endswith(skip))


def _header(file: Path) -> dict[str, Any] | None:
    """The few attributes that tell a series from another, None what cannot be read; None for what is no DICOM image."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_HEADER)
            if "Rows" not in header or "SeriesInstanceUID" not in header:
                return None
            return {keyword: _value(header, keyword) for keyword in _HEADER}
    except OSError as error:
        raise InputError(f"{file} cannot be opened: check its permissions or remove it from the folder.") from error
    except Exception:  # not DICOM, or damaged: then reading the series says which file it is
        return None


def _value(header: Any, keyword: str) -> Any:
    try:
        return header.get(keyword)
    except Exception:  # what stands there is of another kind: pydicom converts when it is asked
        return None


def image_files(src: Path) -> list[SourceVolume]:
    """Find every volume file below a folder, or the file itself."""
    if src.is_file():
        return [SourceVolume(src, Path(src.name), (src.name,))] if file_suffix(src) in IMAGE_SUFFIXES else []
    volumes = []
    for root, folders, names in os.walk(src):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if file_suffix(name) in IMAGE_SUFFIXES and not name.startswith("."):
                where = Path(os.path.relpath(Path(root, name), src))
                volumes.append(SourceVolume(src / where, where, tuple(reversed(where.parts))))
    return volumes


def _dose_of(names: Iterable[str]) -> str | None:
    """ "full" or "low", by the first of the names that says one of them and not both."""
    for name in names:
        full, low = bool(_FULL.search(name)), bool(_LOW.search(name))
        if full != low:
            return "full" if full else "low"
    return None


def path_parts(src: Path, volume: SourceVolume) -> list[str]:
    """Parts of a path without the suffix: the patient first."""
    parts = list(volume.where.parts)
    if volume.series_uid is None:
        parts[-1] = parts[-1][: -len(file_suffix(parts[-1]))]
    return parts or [src.resolve().name]


def path_parts_without_dose(src: Path, volume: SourceVolume) -> list[str]:
    """The same without words for the dose, and without the parts that are nothing else."""
    parts = [_LOW.sub("", _FULL.sub("", part)).strip(" _-.") for part in path_parts(src, volume)]
    return [part for part in parts if part] or [src.resolve().name]
