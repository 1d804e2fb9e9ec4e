"""Each of the stand-in's own tests begins with an empty scene; traps are errors, and nothing is swallowed unnoticed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

import standin


@pytest.fixture(autouse=True)
def a_clean_state() -> Iterator[None]:
    import slicer

    standin.install()
    slicer.mrmlScene.Clear(0)
    standin.UNCAUGHT.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", standin.PythonQtTrap)
        yield
    left = list(standin.UNCAUGHT)
    standin.UNCAUGHT.clear()
    assert not left
