"""Prepared sets of random voxels, each with the arrays that were written."""

from __future__ import annotations

import pytest
from training_fixtures import VOLUMES, make_random_set


@pytest.fixture
def a_set(tmp_path):
    return tmp_path / "set", make_random_set(tmp_path / "set", VOLUMES)


@pytest.fixture
def a_square_set(tmp_path):
    volumes = [("a", "A", "train", (5, 32, 32), 0.25)]
    return tmp_path / "set", make_random_set(tmp_path / "set", volumes, kind="simulate")
