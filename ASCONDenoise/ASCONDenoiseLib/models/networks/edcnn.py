"""EDCNN: edge-enhanced, densely connected (Liang et al., ICSP 2020, arXiv 2011.00139, sections III-A and III-B).

Trainable Sobel convolutions see the input first; input and edges are then handed to each of eight blocks. What the
paper leaves open is as in its authors' implementation: LeakyReLU of slope 0.01, the last one after the input was added.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LEAKY_SLOPE = 0.01
SOBEL = (
    ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    ((-2, -1, 0), (-1, 0, 1), (0, 1, 2)),
    ((0, 1, 2), (-1, 0, 1), (-2, -1, 0)),
)
"""The four directions of section III-A: downwards, to the right, and the two diagonals."""


class TrainableSobel(nn.Module):
    """Fixed Sobel kernels, the four directions in turn, each times a learned factor, plus a bias."""

    kernels: torch.Tensor

    def __init__(self, channels: int):
        super().__init__()
        kernels = torch.tensor(SOBEL, dtype=torch.float32)[:, None]  # (4, 1, 3, 3)
        self.register_buffer("kernels", kernels.repeat(channels // 4, 1, 1, 1), persistent=False)
        self.factor = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, channels, H, W)"""
        return F.conv2d(x, self.factor * self.kernels, self.bias, padding=1)


class Block(nn.Module):
    """A 1x1 convolution that fuses what it is given, then a 3x3."""

    def __init__(self, channels_in: int, channels: int, channels_out: int):
        super().__init__()
        self.point = nn.Conv2d(channels_in, channels, 1)
        self.conv = nn.Conv2d(channels, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W), without an activation after the 3x3."""
        y: torch.Tensor = self.conv(F.leaky_relu(self.point(x), LEAKY_SLOPE))
        return y


class EDCNN(nn.Module):
    """EDCNN, 1 -> 1 channel, 80,961 parameters: 32 channels, 8 blocks. Initialisation: PyTorch's defaults."""

    def __init__(self, channels: int = 32, blocks: int = 8):
        super().__init__()
        given = 1 + channels  # the image and its edges, for every block
        self.sobel = TrainableSobel(channels)
        self.blocks = nn.ModuleList(
            Block(given if k == 0 else given + channels, channels, 1 if k == blocks - 1 else channels)
            for k in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        given = torch.cat((x, self.sobel(x)), 1)  # (B, 1 + C, H, W)
        y = given
        for block in self.blocks[:-1]:
            y = torch.cat((given, F.leaky_relu(block(y), LEAKY_SLOPE)), 1)  # (B, 1 + 2 C, H, W)
        return F.leaky_relu(x + self.blocks[-1](y), LEAKY_SLOPE)
