"""Where results go: a volume file with a JSON record beside it, a derived DICOM series, or a folder of several files.

All of it or nothing.

The record, or the DICOM header, says how the result was made: model with version and SHA-256, device, precision and
strength. It holds the SHA-256 of the volume file too, so a record that lies beside another file is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.volume import WRITABLE_SUFFIXES, Volume, image_suffix, write_volume

FILES_ONLY_READ = (".nhdr", ".mhd", ".dcm", ".ima", ".dicom")
"""Suffixes that nobody means as the name of a folder, and that cannot be written as one file."""

SHORT_SHA256 = 12
"""Hexadecimal digits shown to people; records hold all 64."""

RESULTS = "results.json"
"""In a folder of results: what was found, the command that found it, and the folder's files."""


def check_output(path: str | Path, source: str | Path, *, force: bool = False) -> None:
    """Raises InputError where `path` cannot take a result made from `source`. Ask before the work.

    An existing file, or its record, is refused unless `force`; a folder that holds something always is.
    """
    path = Path(path)
    if is_file_name(path):
        _check_file(path, Path(source), force)
    else:
        from ASCONDenoiseLib.io.dicom_writer import check_new_folder

        if image_suffix(path) in FILES_ONLY_READ:
            raise InputError(
                f"{path.name} cannot be written: name a file that ends in {', '.join(WRITABLE_SUFFIXES)}, or, for a "
                "DICOM series, a folder."
            )
        _check_writable(check_new_folder(path).parent)


def is_file_name(path: str | Path) -> bool:
    """True for a volume file by its suffix; False for anything else, which names a folder for a DICOM series."""
    return image_suffix(path) in WRITABLE_SUFFIXES


def record_path(path: str | Path) -> Path:
    """Place of the record of a volume file: scan.nrrd -> scan.nrrd.json."""
    return Path(path).with_name(Path(path).name + ".json")


def made_by(command: str, source: Volume, source_name: str) -> dict[str, Any]:
    """What every record begins with. The source's file name and series UID are the only things about the patient."""
    return {
        "command": command,
        "ascon_version": __version__,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
        "source": source_name,
        "source_series_uid": source.source.series_uid if source.source else None,
        "slices": len(source.voxels),
    }


def describe(record: dict[str, Any]) -> str:
    """A `denoising_record` on one line."""
    facts = (
        f"{record['model']} {record['model_version']} (sha256 {record['model_sha256'][:SHORT_SHA256]})",
        f"device {record['device']}",
        f"precision {record['precision']}",
        f"strength {record['strength']:g}",
        f"{record['slices']} slice{'s' if record['slices'] != 1 else ''} in {record['seconds']:.1f} s",
        *record["notes"],
    )
    return ", ".join(facts)


def write_file(volume: Volume, path: str | Path, record: dict[str, Any]) -> list[Path]:
    """Write a volume file and its record, complete or not at all; an existing file is replaced. Returns both paths.

    Raises InputError and RuntimeError as `volume.write_volume`.
    """
    path = Path(path)
    staged = path.with_name(f".{uuid.uuid4().hex[:8]}.partial{image_suffix(path)}")
    staged_record = record_path(staged)
    try:
        write_volume(volume, staged)
        with staged.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        text = json.dumps({**record, "file": path.name, "file_sha256": digest}, indent=2, ensure_ascii=False)
        staged_record.write_text(text + "\n", encoding="utf-8")
        os.replace(staged, path)
        os.replace(staged_record, record_path(path))
    except (OSError, RuntimeError) as error:  # it names the staged file, which is gone by then
        raise RuntimeError(f"{path} could not be written: check free space and permissions.") from error
    finally:
        staged.unlink(missing_ok=True)
        staged_record.unlink(missing_ok=True)
    return [path, record_path(path)]


def write_series(volume: Volume, folder: str | Path, record: dict[str, Any]) -> list[Path]:
    """Write a denoised volume as a DICOM series derived from the one it was read from; returns the files.

    Raises InputError where the volume has no DICOM source, and as `derived.write_derived_series`.
    """
    from ASCONDenoiseLib.io.dicom_writer import Derivation, write_derived_series

    require_dicom(volume, record["source"], folder)
    derivation = Derivation(f"Denoised by ASCON {__version__}: {describe(record)}", software_version=__version__)
    return write_derived_series(volume, volume.source, folder, derivation)


def require_dicom(volume: Volume, source_name: str, folder: str | Path) -> None:
    """Raises InputError unless the volume was read from DICOM, as a derived series must be."""
    if volume.source is None:
        raise InputError(
            f"{folder} names a folder, for a DICOM series, but {source_name} is not DICOM and has no header to "
            f"derive one from: name a file that ends in {', '.join(WRITABLE_SUFFIXES)}."
        )


def check_results_folder(folder: str | Path, command: str) -> Path:
    """The folder as an absolute path. InputError unless it is new, empty, or holds results of `command` and no more."""
    folder = Path(folder).resolve()
    if not folder.parent.is_dir():
        raise InputError(f"The folder {folder.parent} does not exist: make it or choose another.")
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

    Earlier results are replaced, see `check_results_folder`. Raises RuntimeError where the disk is full or protected;
    then, as after any error, nothing has changed.
    """
    folder = check_results_folder(folder, command)
    staging = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        staging.mkdir()
        yield staging
        _replace_folder(folder, staging)
    except OSError as error:
        raise RuntimeError(f"{folder} could not be written: check free space and permissions.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)  # gone already unless something failed


def write_results(folder: Path, command: str, results: dict[str, Any]) -> dict[str, Any]:
    """Write RESULTS, the last file of a folder of results; returns what is in it."""
    results = {"command": command, "ascon_version": __version__, **results}
    results["files"] = sorted(_files(folder) | {RESULTS})
    (folder / RESULTS).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _own_files(folder: Path, command: str) -> set[str]:
    """Files that the command wrote here earlier."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        return set(results["files"]) if results["command"] == command else set()
    except (OSError, ValueError, TypeError, LookupError):
        return set()


def _replace_folder(folder: Path, staging: Path) -> None:
    """Puts `staging` in the place of `folder`, whose content is set aside first and deleted last."""
    old = staging.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(staging, folder)
    except BaseException:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_file(path: Path, source: Path, force: bool) -> None:
    if not path.parent.is_dir():
        raise InputError(f"The folder {path.parent} does not exist: make it or choose another.")
    if path.is_dir():
        raise InputError(f"{path} is a folder: choose another file name.")
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"{path} is both input and output: choose another output, the original is worth keeping.")
    for existing in (path, record_path(path)):
        if existing.exists() and not force:
            raise InputError(f"{existing} exists already: choose another output, or overwrite it with --force.")
    _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK):
        raise InputError(f"The folder {folder} is write-protected: choose another.")
