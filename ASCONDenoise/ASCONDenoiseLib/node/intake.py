"""The intake of a node: an object is on the disk and in the ledger before its sender hears of success.

Folders: incoming/SERIES/OBJECT.dcm holds originals, results/SERIES/ATTEMPT/ what was made of them.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import shutil
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from ASCONDenoiseLib.errors import AsconError, InputError, WriteError
from ASCONDenoiseLib.io.atomic import atomic_file, flush_folder
from ASCONDenoiseLib.io.dicom_headers import CT_CLASSES, transfer_syntax
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.node.facts import facts_of
from ASCONDenoiseLib.node.ledger import Ledger

logger = logging.getLogger(__name__)

NO_ROOM, NO_MATCH, NOT_UNDERSTOOD, OTHER_CONTENT = 0xA700, 0xA900, 0xC000, 0xC001
"""Status of a C-STORE (PS3.4, B.2.3)."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")

_END_OF_FRAMES = b"\xfe\xff\xdd\xe0\0\0\0\0"
"""Sequence delimitation item (PS3.5, A.4)."""


class Refused(AsconError):
    """An object is not taken.

    Attributes:
        status: of the C-STORE.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Intake:
    """Takes objects; may be used by all threads.

    Attributes:
        folder: of the node.
        taken: objects since the start.
        last: series UID -> seconds (monotonic) when something new of it came.
    """

    def __init__(
        self, folder: Path, ledger: Ledger, least_free: float, monotonic: Callable[[], float] = time.monotonic
    ):
        self.folder = folder
        self.taken = 0
        self.last: dict[str, float] = {}
        self._ledger = ledger
        self._least_free = least_free
        self._monotonic = monotonic
        self._turn = threading.Condition()
        self._busy: set[tuple[str, str]] = set()  # series and object that some thread takes at the moment
        for name in ("incoming", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def originals(self, series_uid: str) -> Path:
        """The folder of a series."""
        return self.folder / "incoming" / series_uid

    def result(self, series_uid: str, attempt: int) -> Path:
        """The folder of what an attempt makes of a series."""
        return self.folder / "results" / series_uid / str(attempt)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def take(self, content: bytes, sop_uid: str, sender: str) -> None:
        """Take an object.

        Args:
            content: a DICOM file.
            sop_uid: as the sender named it in its request.
            sender: AE title.

        Raises:
            Refused: for lack of room; or it is cut, not what the request says, or other than one of the same UID.
        """
        header = _parsed(content)
        series_uid = _uid(header, "SeriesInstanceUID")
        if _uid(header, "SOPInstanceUID") != sop_uid:
            raise Refused(NO_MATCH, f"The object has another SOP instance UID than its request, {sop_uid}.")
        pixels = _digest(header, content)
        with self._one_at_a_time(series_uid, sop_uid):
            known = self._ledger.pixels_of(sop_uid)
            if known is not None:
                self._check_same(known, pixels, header, content, self.originals(series_uid) / f"{sop_uid}.dcm")
                self._came(series_uid)
                return
            if self.free_bytes() - len(content) < self._least_free:
                raise Refused(NO_ROOM, f"The disk of {self.folder} is full: an object was refused.")
            file = self.originals(series_uid) / f"{sop_uid}.dcm"
            try:
                self._write(file, content)
                note = self._ledger.add(
                    sop_uid, series_uid, pixels, len(content), facts_of(header, sender), time.time()
                )
            except (WriteError, OSError, sqlite3.Error) as error:
                file.unlink(missing_ok=True)
                raise Refused(NO_ROOM, f"An object could not be kept ({error}).") from error
            self.taken += 1
            self._came(series_uid)
        if note:
            logger.warning("series %s: %s", series_uid, note)

    def _write(self, file: Path, content: bytes) -> None:
        if not file.parent.exists():
            file.parent.mkdir(exist_ok=True)
            flush_folder(file.parent)
        with atomic_file(file, fsync=True) as partial:
            partial.write_bytes(content)

    def _came(self, series_uid: str) -> None:
        self.last[series_uid] = self._monotonic()

    def adopt(self) -> int:
        """After a restart: take in what was written and not taken down, and remove what is half written."""
        adopted = 0
        for folder in sorted((self.folder / "incoming").iterdir()):
            if folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in sorted(folder.iterdir()):
                if file.name.startswith("."):
                    file.unlink(missing_ok=True)
                elif self._ledger.pixels_of(file.stem) is None:
                    try:
                        content = file.read_bytes()
                        header = _parsed(content)
                        digest, facts = _digest(header, content), facts_of(header, "")
                        self._ledger.add(file.stem, folder.name, digest, len(content), facts, time.time())
                        adopted += 1
                    except Refused:
                        file.unlink(missing_ok=True)
        return adopted

    def purge(self, series_uid: str) -> None:
        """Remove the originals of a series that is over, unless something of it comes at this moment."""
        gone = self.folder / "incoming" / f".{uuid.uuid4().hex}.gone"
        with self._turn:
            if any(series == series_uid for series, _ in self._busy) or not self._ledger.drop_objects(series_uid):
                return
            if self.originals(series_uid).exists():
                self.originals(series_uid).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    @contextmanager
    def _one_at_a_time(self, series_uid: str, sop_uid: str) -> Iterator[None]:
        """Of two threads that take one object, the second waits; a purge waits for both."""
        one = series_uid, sop_uid
        with self._turn:
            while one in self._busy:
                self._turn.wait()
            self._busy.add(one)
        try:
            yield
        finally:
            with self._turn:
                self._busy.discard(one)
                self._turn.notify_all()

    def _check_same(self, known: str, pixels: str, header: Dataset, content: bytes, file: Path) -> None:
        """Raise Refused where an object of a known UID has other pixels, in whatever transfer syntax."""
        if known == pixels:
            return
        with suppress(InputError, OSError):  # what cannot be read is not the same
            if transfer_syntax(header) != transfer_syntax(pydicom.dcmread(file, stop_before_pixels=True)):
                again = self.folder / f".{uuid.uuid4().hex}.dcm"
                try:
                    again.write_bytes(content)
                    if np.array_equal(read_volume(again).voxels, read_volume(file).voxels):
                        return
                finally:
                    again.unlink(missing_ok=True)
        raise Refused(OTHER_CONTENT, f"An object {file.stem} is here already, with other pixels: the first one stays.")


def _parsed(content: bytes) -> Dataset:
    """The dataset of a file; Refused where it is cut or damaged."""
    try:
        header = pydicom.dcmread(io.BytesIO(content))
        elements = [header.get_item(tag) for tag in header.keys()]  # noqa: SIM118 - iterating decodes them
        cut = any(isinstance(one, RawDataElement) and _is_short(one) for one in elements)
        if cut or _lacks_pixels(header, content):
            raise ValueError("cut")
    except Exception as error:  # pydicom raises nearly anything on garbage
        raise Refused(NOT_UNDERSTOOD, "An object was cut on its way, or is damaged: it was refused.") from error
    return header


def _is_short(element: RawDataElement) -> bool:
    return element.length != 0xFFFFFFFF and len(element.value or b"") < element.length


def _lacks_pixels(header: Dataset, content: bytes) -> bool:
    """Whether a CT image has no pixels, a compressed image no end, or any other less pixels than its size says."""
    if "PixelData" not in header:
        return header.get("SOPClassUID") in CT_CLASSES
    if transfer_syntax(header).is_encapsulated:
        return header.PixelData[-64:] + _END_OF_FRAMES not in content
    if "Rows" not in header:
        return False
    bits = header.Rows * header.Columns * int(header.get("BitsAllocated", 8))
    bits *= int(header.get("SamplesPerPixel", 1)) * int(header.get("NumberOfFrames", 1) or 1)
    return len(header.PixelData) < bits // 8 // (2 if "422" in header.get("PhotometricInterpretation", "") else 1)


def _uid(header: Dataset, keyword: str) -> str:
    value = str(header.get(keyword) or "")
    if len(value) > 64 or not _UID.fullmatch(value):
        raise Refused(NO_MATCH, f"An object has no valid {keyword}: it was refused.")
    return value


def _digest(header: Dataset, content: bytes) -> str:
    """Of the pixels as they are stored; of an object without, all of it."""
    pixels = header.get_item("PixelData").value if "PixelData" in header else content
    return hashlib.sha256(pixels).hexdigest()
