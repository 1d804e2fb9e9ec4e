"""What all tests share: the word at the end on tests that a system package would have let run."""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

import pytest


class TestFolder(FileFinder):
    """This folder on sys.path, less slicer/: slicer-core takes every folder of that name for a part of itself."""

    def find_spec(self, fullname: str, target: object = None) -> object:
        return None if fullname == "slicer" else super().find_spec(fullname, target)


HERE = str(Path(__file__).resolve().parent)
sys.path_importer_cache[HERE] = TestFolder(HERE, (SourceFileLoader, SOURCE_SUFFIXES))

SYSTEM_PACKAGES = {
    "dicom3tools": ("dicom3tools", "dciodvfy"),
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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """After everything else: `N checks were skipped for lack of a system package. ...`"""
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    counts = missing_packages([report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)])
    if counts:
        terminalreporter.section("system packages")
        terminalreporter.line(
            f"{sum(counts.values())} checks were skipped for lack of a system package. "
            f"On Debian and Ubuntu: apt-get install {' '.join(sorted(counts))}"
        )
