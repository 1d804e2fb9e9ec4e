"""U-Net, the plain one that the paper compares with (Ronneberger et al., MICCAI 2015, LNCS 9351:234, Fig. 1).

Two things differ from Fig. 1, so that the output is an image of the input's size: convolutions are padded, not cropped,
and the last layer gives one channel, not two. As there, no batch normalisation. The output is the image itself.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each followed by a ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W)"""
        return F.relu(self.conv2(F.relu(self.conv1(x))))


class Up(nn.Module):
    """A 2x2 transposed convolution that halves the channels, the skip beside it, a double convolution."""

    def __init__(self, channels_in: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_in // 2, 2, stride=2)
        self.conv = DoubleConv(channels_in, channels_in // 2)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) and the skip (B, C/2, 2H, 2W) -> (B, C/2, 2H, 2W)"""
        y: torch.Tensor = self.conv(torch.cat((skip, self.up(x)), 1))
        return y


class UNet(nn.Module):
    """U-Net, 1 -> 1 channel: `width` channels at full size (64, as published), twice as many each of four steps down.

    31,030,593 parameters. Weights begin as N(0, 2 / N), N the inputs of a neuron (section 3), biases at 0.
    Sides must be multiples of 16.
    """

    SIDE_MULTIPLE = 16

    def __init__(self, width: int = 64):
        super().__init__()
        w = width
        self.down1 = DoubleConv(1, w)
        self.down2 = DoubleConv(w, 2 * w)
        self.down3 = DoubleConv(2 * w, 4 * w)
        self.down4 = DoubleConv(4 * w, 8 * w)
        self.bottom = DoubleConv(8 * w, 16 * w)
        self.up4 = Up(16 * w)
        self.up3 = Up(8 * w)
        self.up2 = Up(4 * w)
        self.up1 = Up(2 * w)
        self.last = nn.Conv2d(w, 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, width, H, W), the features before the last layer.

        Raises ValueError where H or W is not a multiple of 16.
        """
        if x.shape[-2] % self.SIDE_MULTIPLE or x.shape[-1] % self.SIDE_MULTIPLE:
            raise ValueError(
                f"U-Net needs sides that are multiples of {self.SIDE_MULTIPLE}; got {tuple(x.shape[-2:])}."
            )
        d1 = self.down1(x)
        d2 = self.down2(F.max_pool2d(d1, 2))
        d3 = self.down3(F.max_pool2d(d2, 2))
        d4 = self.down4(F.max_pool2d(d3, 2))
        y: torch.Tensor = self.bottom(F.max_pool2d(d4, 2))  # (B, 16 width, H/16, W/16)
        y = self.up3(self.up4(y, d4), d3)
        y = self.up1(self.up2(y, d2), d1)
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        y: torch.Tensor = self.last(self.features(x))
        return y
