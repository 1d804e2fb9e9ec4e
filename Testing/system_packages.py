"""Debian packages that some tests need, and how a skipped test's reason names them."""

from __future__ import annotations

import pytest

SYSTEM_PACKAGES = {
    "chromium": ("chromium is not installed",),
    "dicom3tools": ("dicom3tools", "dciodvfy"),
    "openssl": ("openssl is not installed",),
    "orthanc": ("orthanc",),
    "dcmtk": ("dcmtk", "storescp", "dcmdump"),
    "libdbus-1-3 libegl1 libfontconfig1 libgl1 libglib2.0-0 libxkbcommon0": ("cannot open shared object file",),
}
"""Debian package -> words in the reason of a skip that say it is missing."""


def missing_packages(reasons: list[str]) -> dict[str, int]:
    """Debian packages that skips name in their reasons, each with the number of tests skipped for it."""
    counts = {}
    for reason in reasons:
        for package, words in SYSTEM_PACKAGES.items():
            if any(word in reason for word in words):
                counts[package] = counts.get(package, 0) + 1
                break
    return counts


def skip_without_standin() -> None:
    """Skip the test or module, with the reason, where slicer-core, PySide6 or a library of theirs is missing."""
    try:
        import slicer  # noqa: F401
        from PySide6 import QtWidgets  # noqa: F401
    except ImportError as missing:
        pytest.skip(f"the extra slicer-test is not there: {missing}", allow_module_level=True)
