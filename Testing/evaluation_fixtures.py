"""A denoiser whose output is known, its card, and settings that measure safety in seconds."""

from __future__ import annotations

import torch
from model_fixtures import a_card
from torch import nn

from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.evaluation.safety_settings import SafetySettings

TINY_SAFETY = SafetySettings(
    contrasts_hu=(20.0, 40.0),
    diameters_mm=(6.0, 12.0),
    doses=(0.25, 0.5),
    realisations=6,
    edges=40,
    cylinder_slices=6,
    cylinder_side=128,
    views=246,
)


class Smooth(nn.Module):
    """The image blended with its 3x3 mean: a denoiser whose output is known."""

    def __init__(self, share: float = 1.0):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(float(share)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return x + self.share * (mean - x)


def a_card_of(name: str, **scans: list[str]) -> ModelCard:
    """`scans`: split -> fingerprints."""
    return a_card(name=name, architecture="smooth", metrics={"training": {"scans": scans}} if scans else {})
