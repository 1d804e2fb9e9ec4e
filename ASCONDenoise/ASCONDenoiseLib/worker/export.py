"""The job that writes a volume as a DICOM series derived from the one it came from; without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import DicomSeries, Geometry, Volume
from ASCONDenoiseLib.worker.job import TEXT, Job, read_voxels
from ASCONDenoiseLib.worker.warm_model import WarmModel

Row = tuple[float, float, float, float]
Matrix = tuple[Row, Row, Row, Row]


@dataclass(frozen=True)
class ExportRequest:
    """A volume to write as a DICOM series.

    Attributes:
        input: .npy file.
        files: DICOM files of the source, in any order.
        ijk_to_ras: from (column, row, slice) to Slicer's coordinates in mm.
        folder: new or empty.
        description: how the volume was made.
    """

    input: Path = field(metadata=TEXT)
    files: tuple[str, ...] = field(metadata={"wanted": "texts"})
    ijk_to_ras: Matrix = field(metadata={"wanted": "4 rows of 4 numbers"})
    folder: Path = field(metadata=TEXT)
    description: str


def export(job: Job, request: ExportRequest, _: WarmModel) -> dict[str, Any]:
    """Returns the folder, and how many files are in it."""
    from ASCONDenoiseLib.io.dicom_derivation import Derivation
    from ASCONDenoiseLib.io.dicom_writer import check_new_folder, write_derived_series

    geometry = _geometry(request.ijk_to_ras)
    voxels = read_voxels(request.input)
    folder = check_new_folder(request.folder)
    job.answer("started")
    with job.timed("work"):
        source = _source_series([Path(file) for file in request.files], geometry, len(voxels))
        derivation = Derivation(request.description, software_version=__version__)
        job.unfinished = folder
        files = write_derived_series(Volume(voxels, geometry), source, folder, derivation)
        job.outputs.append(folder)  # a cancel that comes now takes it away again
    return {"folder": str(folder), "files": len(files)}


def _geometry(ijk_to_ras: Matrix) -> Geometry:
    """Slicer's matrix of voxel to RAS as spacing, origin and direction in LPS."""
    ijk_to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(ijk_to_ras)
    spacing_mm = np.linalg.norm(ijk_to_lps[:3, :3], axis=0)
    if not spacing_mm.all():
        raise InputError("The volume's axes have no length. Load it again.")
    direction = ijk_to_lps[:3, :3] / spacing_mm
    return Geometry(tuple(spacing_mm.tolist()), tuple(ijk_to_lps[:3, 3].tolist()), tuple(direction.ravel().tolist()))


def _source_series(files: list[Path], geometry: Geometry, slices: int) -> DicomSeries:
    """The DICOM files that a volume came from, in the order of its slices."""
    import pydicom

    if not files:
        raise InputError(
            "The volume was not loaded from DICOM, so there is no header to derive one from. Save it as NRRD."
        )
    if gone := sum(not file.is_file() for file in files):
        raise InputError(
            f"{gone} of the {len(files)} DICOM files that the LDCT came from are gone. Import its series again."
        )
    normal = np.reshape(geometry.direction, (3, 3))[:, 2]
    files = list(dict.fromkeys(files))
    if slices > len(files):  # multi-frame, in one file or in several; the frames ascend along rows x columns
        return _multi_frame_source(files, normal)
    places = []
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            place = float(np.asarray(header.ImagePositionPatient, float) @ normal)
        except (OSError, AttributeError, TypeError, ValueError, pydicom.errors.InvalidDicomError):
            raise InputError(f"{file} can no longer be read as a CT slice. Import its series again.") from None
        places.append((place, file, str(header.get("SeriesInstanceUID", ""))))
    places.sort(key=lambda place: place[0])
    return DicomSeries(places[0][2], "", tuple(file for _, file, _ in places), len(places))


def _multi_frame_source(files: list[Path], normal: np.ndarray) -> DicomSeries:
    """The frames that a volume came from, in the order of its slices: of one file, or of a concatenation's files."""
    import pydicom

    from ASCONDenoiseLib.io.dicom_reader import read_series

    if len(files) == 1:
        volume = read_series(files[0])
    else:
        folders = {file.parent for file in files}
        if len(folders) > 1:
            raise InputError(
                f"The LDCT lies in {len(files)} multi-frame files in {len(folders)} folders. Copy them into one folder "
                "and import them again, or denoise that folder by `ascon denoise`."
            )
        header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=["SeriesInstanceUID"], force=True)
        volume = read_series(folders.pop(), str(header.get("SeriesInstanceUID", "")))
    assert volume.source is not None  # since it was read from DICOM
    if strangers := {*volume.source.files} - {*files}:
        raise InputError(
            f"{len(strangers)} other files of the LDCT's series lie beside those that it was loaded from, as "
            f"{min(strangers).name}. Put them elsewhere, then import the series again."
        )
    source = volume.source
    own = np.reshape(volume.geometry.direction, (3, 3))[:, 2]
    return source if own @ normal > 0 else replace(source, files=source.files[::-1], frames=source.frames[::-1])
