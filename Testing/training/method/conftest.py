"""Fixtures of the objectives: weights of a VGG-19 in a file, and discriminators that are fast."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ASCONTrainingLib.method.objectives import du_gan
from ASCONTrainingLib.method.perceptual import VGG19


@pytest.fixture(scope="session")
def a_vgg_file(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(VGG19().state_dict(), path)
    return str(path)


@pytest.fixture
def thin_discriminators(monkeypatch):
    """The same layers with fewer channels, for speed."""
    monkeypatch.setattr(du_gan, "WIDTH", 4)
    monkeypatch.setattr(du_gan, "WIDEST", 32)
