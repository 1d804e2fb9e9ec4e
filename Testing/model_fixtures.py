"""Model cards and model files for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONDenoiseLib.models.files import save_model

_A_CARD = ModelCard(
    name="A test model",
    version="0.1",
    architecture="esau_net",
    settings={},
    window_hu=(-1000.0, 2000.0),
    preset="none",
    training_data=["nothing", "at all"],
    dose="0.25, simulated",
    date="2025-06-01",
    licence="Apache-2.0",
    intended_use="Tests.",
    limits=["knows nothing"],
    scope=Scope(),
    metrics={},
)


def a_card(**changes: Any) -> ModelCard:
    """A card of an ESAU-Net, with other values for the fields in `changes`."""
    return replace(_A_CARD, **changes)


def a_random_model(path: Path, seed: int = 0, **changes: Any) -> ModelCard:
    """Writes an ESAU-Net with random weights, the same for each seed; `changes` are for its card, which it returns."""
    import torch

    from ASCONDenoiseLib.models.networks.esau_net import ESAUNet

    torch.manual_seed(seed)
    return save_model(ESAUNet(), a_card(**changes), path)
