"""Elements of a DICOM header to be written: set, read as text or number, made into codes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag


def put(header: Dataset, keyword: str, value: Any) -> None:
    """Set an element with the VR of the dictionary, whatever VR the source gave it."""
    header.pop(keyword, None)
    setattr(header, keyword, value)


def code(value: str, meaning: str) -> Dataset:
    """A code of the DICOM Controlled Terminology (PS3.16 annex D)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def items(header: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or no sequence."""
    element = header.get_item(keyword) if keyword in header else None
    return list(header[keyword].value or ()) if element is not None and header[keyword].VR == "SQ" else []


def as_one_text(value: Any) -> str:
    """A value as text, several as DICOM writes them; empty where there is none."""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, (list, tuple, MultiValue)) else str(value)


def whole_number(value: Any) -> int | None:
    """A value as a whole number, None where it is none."""
    with suppress(ValueError, TypeError, OverflowError):
        number = float(value)
        return int(number) if number == int(number) else None
    return None


def plain(text: str, length: int) -> str:
    """Our own words in ASCII, which every specific character set holds; the backslash separates values."""
    return text.replace("\\", "/").encode("ascii", "replace").decode()[:length]


def is_of_pixels(tag: BaseTag) -> bool:
    """Whether an element is private, or of an overlay (60xx) or a curve (50xx): true of the source's pixels alone."""
    return tag.is_private or tag.group & 0xFF00 in (0x5000, 0x6000)
