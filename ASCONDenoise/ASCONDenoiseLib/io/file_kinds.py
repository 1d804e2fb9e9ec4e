"""What a file is by its first bytes, where it is not what was expected: the name of its kind and what to do."""

from __future__ import annotations

import os
from pathlib import Path

_ARCHIVE = "unpack it and give the folder that comes out"
_OTHER = "take it away, or give the scan itself"

_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a ZIP archive", _ARCHIVE),
    (0, b"PK\x05\x06", "an empty ZIP archive", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _ARCHIVE),
    (0, b"Rar!\x1a\x07", "a RAR archive", _ARCHIVE),
    (257, b"ustar", "a tar archive", _ARCHIVE),
    (
        0,
        b"\x1f\x8b",
        "a file compressed by gzip",
        "unpack it and give what comes out, or name it .nii.gz if it is NIfTI",
    ),
    (0, b"BZh", "a file compressed by bzip2", "unpack it and give what comes out"),
    (0, b"\xfd7zXZ\x00", "a file compressed by xz", "unpack it and give what comes out"),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed by zstd", "unpack it and give what comes out"),
    (0, b"\x89PNG", "a PNG picture", _OTHER),
    (0, b"\xff\xd8\xff", "a JPEG picture", _OTHER),
    (0, b"GIF8", "a GIF picture", _OTHER),
    (0, b"II*\x00", "a TIFF picture", _OTHER),
    (0, b"MM\x00*", "a TIFF picture", _OTHER),
    (0, b"%PDF", "a PDF document", _OTHER),
    (0, b"NRRD000", "an NRRD file", "give it by itself, with the suffix .nrrd"),
    (0, b"ObjectType", "a MetaImage file", "give it by itself, with the suffix .mha"),
    (344, b"n+1\x00", "a NIfTI file", "give it by itself, with the suffix .nii"),
    (4, b"n+2\x00", "a NIfTI file", "give it by itself, with the suffix .nii"),
    (0, b"\x93NUMPY", "a NumPy array", _OTHER),
    (0, b"\x89HDF", "an HDF5 file", _OTHER),
)
"""Offset, bytes, kind, remedy."""

_PRINTABLE = bytes({*range(0x20, 0x7F), *range(0x80, 0x100), *b"\t\n\r\f\x1b"})


def first_bytes(path: Path) -> bytes:
    """The first 4 KiB; OSError where it cannot be opened."""
    with path.open("rb") as file:
        return file.read(4096)


def kind_and_remedy(start: bytes) -> tuple[str, str] | None:
    """The kind of a file that begins so, and what to do with it; None where it is not known."""
    for offset, signature, kind, remedy in _SIGNATURES:
        if start[offset : offset + len(signature)] == signature:
            return kind, remedy
    return ("a text", _OTHER) if is_text(start) else None


def is_text(start: bytes) -> bool:
    """Whether a file that begins so is text: some of it, and no control characters."""
    return bool(start.strip()) and not start.translate(None, _PRINTABLE)


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device, which may wait forever when it is opened."""
    return os.path.exists(path) and not (path.is_file() or path.is_dir())
