"""ResNet for CT, which subtracts noise (Missert et al., Proc. 5th CT Meeting, Salt Lake City 2018, p. 399).

"Noise subtraction for low-dose CT images using a deep convolutional neural network". Layers are those of ldct-benchmark
(Eulig et al., Medical Physics 2024), whose images have mean 0 and deviation 1; ours stay in unit range.
"""

from __future__ import annotations

import torch
from torch import nn

GROUPS = 8


class ResidualBlock(nn.Module):
    """3x3, 3x3 in eight groups, 1x1; batch normalisation and ReLU between them, and the input added."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, groups=GROUPS),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        y: torch.Tensor = self.layers(x) + x
        return y


class ResNet(nn.Module):
    """x - noise(x), 1 -> 1 channel, 1,843,329 parameters. Initialisation: PyTorch's defaults."""

    def __init__(self, channels: int = 128, blocks: int = 10):
        super().__init__()
        self.first = nn.Conv2d(1, channels, 9, padding=4)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.noise = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        noise: torch.Tensor = self.noise(self.blocks(self.first(x)))
        return x - noise.to(x.dtype)
