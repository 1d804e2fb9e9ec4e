"""Tests in this folder run inside a real Slicer (run.py) and, here, in the stand-in: same files, nothing changed.

An exception that Slicer would only print (in a slot, in an observer), and a call that Slicer would accept without doing
what was meant, fails the test.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

try:
    import standin

    standin.install()
except ImportError as error:
    MISSING = f"the extra slicer-test is not there: {error}"
else:
    MISSING = ""
    for name in ("ASCONTraining", "ASCONDenoise"):
        standin.load_module(HERE.parents[1] / name / f"{name}.py")
    assert not standin.UNCAUGHT, "exceptions while the modules were loaded, see above"


class NothingToImport(pytest.Module):
    def collect(self) -> list:
        pytest.skip(MISSING, allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return NothingToImport.from_parent(parent, path=module_path) if MISSING else None


@pytest.fixture(scope="session", autouse=True)
def slicer_quits() -> Iterator[None]:
    """A real Slicer unloads its modules then, and ends with an error where a panel's cleanup raises."""
    yield
    import slicer

    standin.UNCAUGHT.clear()
    slicer.app.processEvents()  # what was to be deleted is gone
    slicer.app.aboutToQuit.emit()
    assert not standin.UNCAUGHT, f"Slicer would have ended with an error: {standin.UNCAUGHT!r}"


@pytest.fixture(autouse=True)
def nothing_swallowed() -> Iterator[None]:
    standin.UNCAUGHT.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", standin.PythonQtTrap)
        yield
    assert not standin.UNCAUGHT, f"Slicer would have printed and forgotten: {standin.UNCAUGHT!r}"
