"""What all tests share: the word at the end on tests that a system package would have let run."""

from __future__ import annotations

import sys
from collections.abc import Generator
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

import pytest
from system_packages import missing_packages


class TestFolder(FileFinder):
    """This folder on sys.path, less slicer/: slicer-core takes every folder of that name for a part of itself."""

    def find_spec(self, fullname: str, target: object = None) -> object:
        return None if fullname == "slicer" else super().find_spec(fullname, target)


HERE = str(Path(__file__).resolve().parent)
sys.path_importer_cache[HERE] = TestFolder(HERE, (SourceFileLoader, SOURCE_SUFFIXES))


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
