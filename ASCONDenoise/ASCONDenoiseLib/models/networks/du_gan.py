"""The generator of DU-GAN (Huang et al., IEEE TIM 71, 2022, arXiv 2108.10772): like RED-CNN, thinner, deeper.

Layers are those of the authors' implementation: 11 convolutions and 11 transposed ones of 3x3, 32 channels, padded, a
shortcut from each of the former's inputs to the latter's output, and ReLU after it. Its discriminators are in training.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

INITIAL_SD = 0.01


class DUGANGenerator(nn.Module):
    """DU-GAN's denoiser, 1 -> 1 channel, 185,569 parameters. Kernels begin as N(0, 0.01^2), biases at 0."""

    def __init__(self, channels: int = 32, layers: int = 11):
        super().__init__()
        widths = [1, *(channels,) * layers]
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.encoder = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(b, a, 3, padding=1) for a, b in reversed(pairs))
        for layer in (*self.encoder, *self.decoder):
            nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape; 0 and more."""
        shortcuts = []
        for conv in self.encoder:
            shortcuts.append(x)
            x = F.relu(conv(x))
        for deconv in self.decoder:
            x = F.relu(deconv(x) + shortcuts.pop())
        return x
