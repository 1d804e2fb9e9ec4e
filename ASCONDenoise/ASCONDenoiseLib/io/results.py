"""Where results go: a volume file with a JSON record beside it, a derived DICOM series, or a folder of several files.

Each appears complete or not at all. The record, or the DICOM header, says how the result was made: model with version
and SHA-256, device, precision and strength. A record holds the SHA-256 of its volume file too, so that one which lies
beside another file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.atomic import atomic_file, atomic_folder, check_new, check_parent, check_space, file_suffix
from ASCONDenoiseLib.io.image_files import WRITABLE_SUFFIXES, check_place, check_writable, write_image
from ASCONDenoiseLib.io.volume import DicomSeries, Volume

FILES_NOT_WRITTEN = frozenset(
    """.nhdr .mhd .dcm .ima .dicom .hdr .img .raw .mgh .mgz .mnc .vtk .vti .npy .npz .h5 .hdf5 .mat .tif .tiff .png .jpg
    .jpeg .bmp .gif .gz .bz2 .xz .zst .zip .tar .tgz .7z .rar .json .csv .txt .pdf .html .xml""".split()
)
"""Suffixes that nobody means as the name of a folder, and that cannot be written as one file."""

SHORT_SHA256 = 12
"""Hexadecimal digits shown to people; records hold all 64."""

RESULTS = "results.json"
"""In a folder of results: what was found, the command that found it, and the folder's files."""


def destination(path: str | Path) -> VolumeFile | SeriesFolder:
    """A volume file where the suffix says so; any other name is that of a folder for a DICOM series."""
    path = Path(path)
    return VolumeFile(path) if file_suffix(path) in WRITABLE_SUFFIXES else SeriesFolder(path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class VolumeFile:
    """A volume file and its record.

    Attributes:
        path: the file, scan.nrrd.
    """

    path: Path

    @property
    def record_path(self) -> Path:
        """scan.nrrd.json."""
        return self.path.with_name(self.path.name + ".json")

    def check(self, source: str | Path, *, force: bool = False) -> None:
        """Raise InputError where no result made from `source` can be written. Ask before the work.

        An existing file or record is refused unless `force`.
        """
        for path in (self.path, self.record_path):
            check_place(path)
        if self.path.exists() and Path(source).exists() and self.path.samefile(source):
            raise InputError(
                f"{self.path} is both input and output: choose another output, the original is worth keeping."
            )
        for existing in (self.path, self.record_path):
            if os.path.lexists(existing) and not force:
                raise InputError(f"{existing} exists already: choose another output, or overwrite it with --force.")
        _check_writable(self.path.parent)

    def check_volume(self, volume: Volume, source_name: str) -> None:
        """Raise InputError where the format cannot hold the volume, WriteError where the disk cannot. Ask early."""
        check_writable(volume, self.path)
        compressed = file_suffix(self.path) != ".nii"
        check_space(self.path, volume.voxels.nbytes // (8 if compressed else 1))

    def write(self, volume: Volume, record: dict[str, Any], *, force: bool = False) -> list[Path]:
        """Write both, or neither. Returns their paths.

        Args:
            volume: what the suffix says a file of.
            record: of how it was made.
            force: what is there is replaced; else what came there since `check` stays and is an InputError.

        Raises:
            InputError: a dtype, shape or geometry that the format lacks.
            WriteError: the disk is full or the folder is protected.
        """
        with (
            atomic_file(self.record_path, replace=force) as record_file,
            atomic_file(self.path, replace=force) as volume_file,
        ):
            write_image(volume, volume_file)
            record = {**record, "file": self.path.name, "file_sha256": file_sha256(volume_file)}
            record_file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8", "backslashreplace")
            if not force:  # what follows renames two files; the second must not fail
                check_new(self.record_path)
        return [self.path, self.record_path]


@dataclass(frozen=True)
class SeriesFolder:
    """A new folder for a DICOM series that is derived from the one a volume was read from.

    Attributes:
        path: the folder.
        repeatable: the UIDs follow from those of the source, the model and the strength; else they are new each time.
    """

    path: Path
    repeatable: bool = False

    def check(self, source: str | Path, *, force: bool = False) -> None:
        """Raise InputError where no series can be written, `force` or not: the folder holds something. Ask early."""
        from ASCONDenoiseLib.io.dicom_writer import check_new_folder

        if file_suffix(self.path).lower() in FILES_NOT_WRITTEN:
            raise InputError(
                f"{self.path.name} cannot be written: name a file that ends in {', '.join(WRITABLE_SUFFIXES)}, or, "
                "for a DICOM series, a folder."
            )
        _check_writable(check_new_folder(self.path).parent)

    def check_volume(self, volume: Volume, source_name: str) -> None:
        """Raise InputError where no series can be derived from the headers of the volume, read from `source_name`.

        WriteError where the disk has no room for it. Ask early; all headers are looked through.
        """
        from ASCONDenoiseLib.io.dicom_writer import check_derivable

        check_derivable(volume, self._source_of(volume, source_name))
        check_space(self.path, 2 * volume.voxels.size)  # 16 bits, uncompressed

    def _source_of(self, volume: Volume, source_name: str) -> DicomSeries:
        if volume.source is None:
            raise InputError(
                f"{self.path} names a folder, for a DICOM series, but {source_name} is not DICOM and has no header to "
                f"derive one from: name a file that ends in {', '.join(WRITABLE_SUFFIXES)}."
            )
        return volume.source

    def write(self, volume: Volume, record: dict[str, Any], *, force: bool = False) -> list[Path]:
        """Write the series, described by a `denoising_record`; returns its files.

        `force` changes nothing: no folder that holds something is replaced.

        Raises:
            InputError: the volume has no DICOM source; see `dicom_writer.write_derived_series` for more.
            WriteError: the disk is full or the folder is protected.
        """
        from ASCONDenoiseLib.io.dicom_derivation import Derivation
        from ASCONDenoiseLib.io.dicom_writer import write_derived_series

        source = self._source_of(volume, record["source"])
        seed = f"{record['model_sha256']} {record['strength']!r}" if self.repeatable else ""
        description = f"Denoised by ASCON {__version__}: {describe(record)}"
        derivation = Derivation(description, software_version=__version__, uid_seed=seed)
        return write_derived_series(volume, source, self.path, derivation)


def made_by(command: str, source: Volume, source_name: str) -> dict[str, Any]:
    """What every record begins with. The source's file name and series UID are the only things about the patient.

    Args:
        command: the subcommand of `ascon`.
        source: the volume that the result was made from.
        source_name: of its file or folder.
    """
    return {
        "command": command,
        "ascon_version": __version__,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "source": source_name,
        "source_series_uid": source.source.series_uid or None if source.source else None,
        "slices": len(source.voxels),
        **({"phases": source.phases} if source.phases > 1 else {}),
    }


def describe(record: dict[str, Any]) -> str:
    """A `denoising_record` on one line: facts, then the sentences among its notes, and its warnings."""
    sentences = [*(note for note in record["notes"] if note.endswith(".")), *record.get("warnings", ())]
    facts = (
        f"{record['model']} {record['model_version']} (sha256 {record['model_sha256'][:SHORT_SHA256]})",
        f"device {record['device']}",
        f"precision {record['precision']}",
        f"strength {record['strength']:g}",
        f"{record['slices']} slice{'s' if record['slices'] != 1 else ''} in {record['seconds']:.1f} s",
        *(note for note in record["notes"] if not note.endswith(".")),
    )
    return ". ".join([", ".join(facts), " ".join(sentences)]) if sentences else ", ".join(facts)


def check_results_folder(folder: str | Path, command: str) -> Path:
    """The folder as an absolute path. InputError unless it is new, empty, or holds results of `command` and no more."""
    folder = Path(folder).resolve()
    check_parent(folder)
    _check_writable(folder.parent)
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: choose another folder for the results.")
    if others := _files(folder) - _own_files(folder, command):
        raise InputError(
            f"{folder} holds {min(others)}, which `ascon {command}` did not write: choose another folder, or empty "
            "this one."
        )
    return folder


@contextmanager
def results_folder(folder: str | Path, command: str) -> Iterator[Path]:
    """A folder to fill, with `write_results` at the end; when the block is done it takes the place of `folder`.

    Earlier results of the command are replaced.

    Raises:
        InputError: see `check_results_folder`.
        WriteError: the disk is full or protected; then, as after any error, nothing has changed.
    """
    with atomic_folder(check_results_folder(folder, command)) as partial:
        yield partial


def write_results(folder: Path, command: str, results: dict[str, Any]) -> dict[str, Any]:
    """Write RESULTS, the last file of a folder of results; returns what is in it.

    Args:
        folder: as `results_folder` gave it.
        command: the subcommand of `ascon`.
        results: what can be written as JSON.
    """
    results = {"command": command, "ascon_version": __version__, **results}
    results["files"] = sorted(_files(folder) | {RESULTS})
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", "utf-8", "backslashreplace")
    return results


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _own_files(folder: Path, command: str) -> set[str]:
    """Files that the command wrote here earlier."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return set(results["files"]) if results["command"] == command else set()
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return set()


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder {folder} is write-protected: choose another.")
