"""Fixtures of the tests of reading and writing."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def a_folder(tmp_path) -> Path:
    return tmp_path / "ct"
