"""What lies in a folder of results already, recognised by how it was made, never by its name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

from ASCONDenoiseLib.batch.find import Scan
from ASCONDenoiseLib.io.dicom_derivation import is_ours
from ASCONDenoiseLib.io.file_kinds import first_bytes
from ASCONDenoiseLib.io.results import SHORT_SHA256, file_sha256

_HOW = re.compile(rf"\(sha256 ([0-9a-f]{{{SHORT_SHA256}}})\).*?strength ([0-9.e-]+)")


@dataclass(frozen=True)
class How:
    """How a result was made: the beginning of the SHA-256 of the weights, and the strength in few digits."""

    sha256: str
    strength: str

    @classmethod
    def of(cls, sha256: str, strength: float) -> How:
        return cls(sha256[:SHORT_SHA256], f"{strength:g}")


class Done:
    """The results below a folder."""

    def __init__(self, folder: Path):
        self._objects: dict[tuple[str, How], Path] = {}  # source's SOP instance UID of the first slice -> result
        self._files: dict[tuple[str, How], Path] = {}  # SHA-256 of a source file -> result
        self._sizes: dict[Path, int] = {}
        for path in _first_files(folder):
            if path.suffix == ".json":
                self._note_record(path)
            else:
                self._note_series(path)

    def result_of(self, scan: Scan, how: How) -> Path | None:
        """The result of this scan, made just so, whole; None where there is none."""
        if scan.series_uid is None:
            return self._files.get((file_sha256(scan.path), how))
        for uid in scan.objects:
            if (path := self._objects.get((uid, how))) and self._sizes[path] >= len(scan.objects):
                return path
        return None

    def _note_record(self, path: Path) -> None:
        try:
            record = json.loads(path.read_text("utf-8"))
            how = How.of(record["model_sha256"], float(record["strength"]))
            result = path.with_name(record["file"])
            if file_sha256(result) == record["file_sha256"]:
                self._files[record["source_sha256"], how] = result
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return

    def _note_series(self, path: Path) -> None:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if not is_ours(header) or (found := _HOW.search(str(header.DerivationDescription))) is None:
                return
            how = How(found[1], found[2])
            self._objects[str(header.SourceImageSequence[0].ReferencedSOPInstanceUID), how] = path.parent
            self._sizes[path.parent] = sum(1 for one in path.parent.iterdir() if one.suffix == ".dcm")
        except Exception:  # pydicom raises nearly anything on garbage
            return


def _first_files(folder: Path) -> Iterator[Path]:
    """Of each folder below: its first DICOM file, and all records."""
    for name, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        paths = [Path(name, one) for one in sorted(files) if not one.startswith(".")]
        yield from (path for path in paths if path.suffix == ".json")
        first = next((path for path in paths if path.suffix == ".dcm"), None)
        if first is not None and first_bytes(first)[128:132] == b"DICM":
            yield first
