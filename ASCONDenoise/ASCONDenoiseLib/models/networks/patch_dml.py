"""Patch-DML's generator: it sees the details of a slice, its low band passes by (Jung et al., MICCAI 2022).

"Patch-wise Deep Metric Learning for Unsupervised Low-Dose CT Denoising". Layers, range and wavelet are those of the
authors' implementation. Its discriminator and the heads of the metric are in training.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU
from ASCONDenoiseLib.models.networks.wavelet import low_band

SLOPE, RESIDUAL, INITIAL_SD = 0.2, 0.1, 0.01


class ResidualDenseBlock(nn.Module):
    """Five 3x3 convolutions, each of which sees all before it; a tenth of the last is added to the input."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        widths = [(channels + k * growth, growth if k < 4 else channels) for k in range(5)]
        self.convs = nn.ModuleList(_conv(a, b, 3) for a, b in widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        seen, y = x, x
        for conv in self.convs:
            y = F.leaky_relu(conv(seen), SLOPE)
            seen = torch.cat((seen, y), 1)
        return x + RESIDUAL * y


class DenseBlocks(nn.Module):
    """Three times the same residual dense block, a tenth of it added to the input."""

    def __init__(self, channels: int, growth: int, times: int):
        super().__init__()
        self.block = ResidualDenseBlock(channels, growth)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        y = x
        for _ in range(self.times):
            y = self.block(y)
        return x + RESIDUAL * y


class PatchDML(nn.Module):
    """Patch-DML's denoiser, 1 -> 1 channel, 32,833 parameters; G(x) = low band + generator(x - low band).

    So whatever is added to the low band of the input (an offset of all HU, say) is added to the output, too. The low
    band is that of the whole slice: a tile or patch by itself has another one.
    """

    UNITS = (TRAINING_WINDOW_HU[1] - TRAINING_WINDOW_HU[0]) / 2000
    """The generator's units, 2000 HU each, in a unit of the unit range."""

    def __init__(self, channels: int = 32, growth: int = 8, blocks: int = 3):
        super().__init__()
        self.first = _conv(1, channels, 3)
        self.dense = DenseBlocks(channels, growth, blocks)
        self.middle = _conv(channels, channels, 1)
        self.last = _conv(channels, 1, 3)

    def generated(self, high: torch.Tensor) -> torch.Tensor:
        """The details (B, 1, H, W) in units of 2000 HU -> those of a normal-dose image."""
        details: torch.Tensor = self.last(F.leaky_relu(self.middle(self.dense(self.first(high))), SLOPE))
        return details

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape.

        For training (B, 2, H, W): patches, and beside each the same patch of the low band of its whole slice.
        """
        image, low = (x[:, :1], x[:, 1:]) if x.shape[1] == 2 else (x, low_band(x))
        return low + self.generated((image - low) * self.UNITS).to(low.dtype) / self.UNITS


def _conv(channels_in: int, channels_out: int, side: int) -> nn.Conv2d:
    """A convolution of spectral norm 1 that repeats the image's borders; weights begin as N(0, 0.01^2), biases at 0."""
    layer = nn.Conv2d(channels_in, channels_out, side, padding=side // 2, padding_mode="replicate")
    nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    spectral_norm(layer)
    return layer
