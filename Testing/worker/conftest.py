"""Fixtures of the worker's tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from child_process import Child
from model_fixtures import a_random_model

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.models.files import load_network


@pytest.fixture(scope="session")
def a_worker(tmp_path_factory) -> Iterator[Child]:
    """One for all tests that leave it as it was; torch gets warm in it."""
    child = Child(tmp_path_factory.mktemp("worker"))
    assert child.next() == {"event": "ready", "protocol": 1, "version": __version__, "pid": child.process.pid}
    yield child
    child.close()


@pytest.fixture
def a_fresh_worker(tmp_path) -> Iterator[Child]:
    """One whose end is the test; started in a millisecond, since nothing heavy is imported."""
    child = Child(tmp_path)
    assert child.next()["event"] == "ready"
    yield child
    child.close()


@pytest.fixture(scope="session")
def a_model(tmp_path_factory) -> tuple[str, torch.nn.Module]:
    """Path of an ESAU-Net with random weights, and the network."""
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    a_random_model(path, name="Test", version="0.7")
    return str(path), load_network(path)[0]


@pytest.fixture
def a_scan() -> np.ndarray:
    """Soft tissue with padding and metal, 5 slices of 16 x 16."""
    rng = np.random.default_rng(3)
    voxels = rng.normal(40, 30, (5, 16, 16)).round().astype(np.int16)
    voxels[:, :2] = -512
    voxels[:, 5, 5] = 3000
    return voxels
