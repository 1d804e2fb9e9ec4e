"""The CT scans below a folder: DICOM series by their headers, volume files by their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import file_suffix
from ASCONDenoiseLib.io.dicom_headers import FACTS, DicomImage, as_text
from ASCONDenoiseLib.io.file_kinds import first_bytes, is_special
from ASCONDenoiseLib.io.image_files import IMAGE_SUFFIXES, WRITABLE_SUFFIXES

_TAGS = (*FACTS.values(), "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "ImageType", "Rows", "SamplesPerPixel")
_TAGS += ("PhotometricInterpretation", "ImagePositionPatient", "SharedFunctionalGroupsSequence", "FrameType")


@dataclass(frozen=True)
class Scan:
    """A scan to denoise.

    Attributes:
        path: a volume file, or the folder of a DICOM series.
        place: of its result, below the folder of results.
        series_uid: of a DICOM series.
        objects: SOP instance UIDs of its slices.
        known: as `volume.Volume.description`.
    """

    path: Path
    place: Path
    series_uid: str | None = None
    objects: frozenset[str] = frozenset()
    known: tuple[tuple[str, str], ...] = ()


def find_scans(root: Path, leave_out: Path | None = None) -> Iterator[Scan]:
    """All below a folder, folder by folder, in the order of their names. Links to folders are not followed.

    Args:
        root: where to look.
        leave_out: a folder whose content is none of it: that of the results.

    Raises:
        InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"{root} is no folder: give the one below which the scans lie.")
    for name, folders, files in os.walk(root):
        folder = Path(name)
        folders[:] = sorted(one for one in folders if not one.startswith(".") and (folder / one).resolve() != leave_out)
        paths = [folder / one for one in sorted(files) if not one.startswith(".")]
        images = [path for path in paths if file_suffix(path) in IMAGE_SUFFIXES]
        for path in images:
            yield Scan(path, _writable(path.relative_to(root)))
        yield from _series(folder, folder.relative_to(root), [path for path in paths if path not in images])


def _series(folder: Path, place: Path, paths: list[Path]) -> Iterator[Scan]:
    """The CT series whose files lie in a folder."""
    objects: dict[str, set[str]] = {}
    known: dict[str, dict[str, str]] = {}
    for path in paths:
        image = _ct_slice(path)
        if image is not None:
            uid = image.series_uid
            objects.setdefault(uid, set()).add(as_text(image.get("SOPInstanceUID")))
            facts = {fact: as_text(value) for fact, key in FACTS.items() if (value := image.get(key)) not in (None, "")}
            known.setdefault(uid, facts)
    for uid in sorted(objects):
        name = uid.replace("/", "_") or "without-uid"
        yield Scan(folder, place / name, uid, frozenset(objects[uid]), tuple(known[uid].items()))


def _ct_slice(path: Path) -> DicomImage | None:
    """The header of a slice of a CT; None for anything else."""
    try:
        if is_special(path) or first_bytes(path)[128:132] != b"DICM":
            return None
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        image = DicomImage(path, header, 0)
        return image if image.is_ct_slice() else None
    except Exception:  # pydicom raises nearly anything on garbage
        return None


def _writable(path: Path) -> Path:
    """A volume file's name with a suffix that can be written."""
    return path if file_suffix(path) in WRITABLE_SUFFIXES else path.with_name(path.name + ".nrrd")
