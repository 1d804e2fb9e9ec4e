"""A prepared set, and models of networks that are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_fixtures import Smooth, a_card_of
from training_fixtures import Tiny, make_set

from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.data.set_index import read_index, write_index


@pytest.fixture
def a_model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, "smooth", Smooth)
    path = tmp_path / "smooth.safetensors"
    save_model(Smooth(0.8), a_card_of("smooth", train=["0" * 16]), path)
    return path


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(scope="module")
def measured_pairs(tmp_path_factory):
    """A set as of the Mayo Clinic: pairs of unknown dose."""
    folder = make_set(tmp_path_factory.mktemp("sets") / "measured")
    index = read_index(folder)
    write_index(replace(index, kind="mayo2016", volumes=tuple(replace(v, dose=None) for v in index.volumes)), folder)
    assert not read_index(folder).simulated
    return folder


@pytest.fixture(autouse=True)
def the_tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)
