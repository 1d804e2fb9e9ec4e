"""CNN-10, three convolutions (Chen et al., Biomedical Optics Express 8:679, 2017, "Low-dose CT via CNN").

Layers are those of ldct-benchmark (Eulig et al., Medical Physics 2024): 9x9 with 64 filters, 3x3 with 32, 5x5 with one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class CNN10(nn.Module):
    """CNN-10, 1 -> 1 channel, 24,513 parameters. The output is the image itself. Initialisation: PyTorch's defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 1, 5, padding=2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 32, H, W), the features before the last layer."""
        return F.relu(self.conv2(F.relu(self.conv1(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        y: torch.Tensor = self.last(self.features(x))
        return y
