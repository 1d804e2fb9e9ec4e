"""A model of a network that is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_fixtures import Smooth, a_card_of

from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES


@pytest.fixture
def a_model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, "smooth", Smooth)
    path = tmp_path / "smooth.safetensors"
    save_model(Smooth(0.8), a_card_of("smooth", train=["0" * 16]), path)
    return path
