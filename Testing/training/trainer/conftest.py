"""A set and a network that train in milliseconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_fixtures import Tiny, make_set

from ASCONDenoiseLib.models.networks import ARCHITECTURES


@pytest.fixture(scope="session")
def a_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(autouse=True)
def the_tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)
