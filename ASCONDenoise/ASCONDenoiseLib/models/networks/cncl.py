"""CNCL-U-Net: one U-Net predicts the content, one the noise (Geng et al., IEEE TMI 41:407, 2022, section II).

Layers are those of the authors' implementation. The content is estimated twice, by the first predictor and as input
less the second one's noise; a 1x1 convolution fuses both. What G(x) gives is that fused image.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

INITIAL_SD = 0.02
FEATURES = 32
"""Channels of each predictor before its last layer."""


class NormalizedDoubleConv(nn.Sequential):
    """Twice a 3x3 convolution, batch normalisation and ReLU: (B, channels_in, H, W) -> (B, channels_out, H, W)."""

    def __init__(self, channels_in: int, channels_between: int, channels_out: int):
        super().__init__(
            nn.Conv2d(channels_in, channels_between, 3, padding=1),
            nn.BatchNorm2d(channels_between),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_between, channels_out, 3, padding=1),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Predictor(nn.Module):
    """The U-Net of both predictors, up to its features before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = NormalizedDoubleConv(1, 64, 64)
        self.down2 = NormalizedDoubleConv(64, 128, 128)
        self.down3 = NormalizedDoubleConv(128, 256, 256)
        self.down4 = NormalizedDoubleConv(256, 512, 512)
        self.bottom = NormalizedDoubleConv(512, 1024, 512)
        self.up4 = NormalizedDoubleConv(1024, 512, 256)
        self.up3 = NormalizedDoubleConv(512, 256, 128)
        self.up2 = NormalizedDoubleConv(256, 128, 64)
        self.up1 = nn.Conv2d(128, FEATURES, 3, padding=1)  # neither normalised nor rectified

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, 32, H, W)"""
        d1 = self.down1(x)
        d2 = self.down2(F.max_pool2d(d1, 2))
        d3 = self.down3(F.max_pool2d(d2, 2))
        d4 = self.down4(F.max_pool2d(d3, 2))
        y: torch.Tensor = self.bottom(F.max_pool2d(d4, 2))  # (B, 512, H/16, W/16)
        for skip, up in ((d4, self.up4), (d3, self.up3), (d2, self.up2), (d1, self.up1)):
            y = up(torch.cat((_double(y), skip), 1))
        return y


class CNCLUNet(nn.Module):
    """CNCL with U-Nets as predictors, 1 -> 1 channel, 43,825,029 parameters (the authors'
    implementation has 384 more in normalisations that it never calls). Sides must be multiples of 16.

    Weights begin as N(0, 0.02^2), batch normalisation's at N(1, 0.02^2), as implemented; but the fusion begins as the
    mean of both estimates: from weights of 0.02 it would take thousands of steps to reach the image's brightness.
    """

    SIDE_MULTIPLE = 16

    def __init__(self) -> None:
        super().__init__()
        self.content = Predictor()
        self.noise = Predictor()
        self.content_last = nn.Conv2d(FEATURES, 1, 3, padding=1)
        self.noise_last = nn.Conv2d(FEATURES, 1, 3, padding=1)
        self.fusion = nn.Conv2d(2, 1, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, float(isinstance(layer, nn.BatchNorm2d)), INITIAL_SD)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.fusion.weight, 0.5)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 65, H, W): 32 features of the content, 32 of the noise, and x itself.

        Raises ValueError where H or W is not a multiple of 16.
        """
        if x.shape[-2] % self.SIDE_MULTIPLE or x.shape[-1] % self.SIDE_MULTIPLE:
            raise ValueError(f"CNCL needs sides that are multiples of {self.SIDE_MULTIPLE}; got {tuple(x.shape[-2:])}.")
        return torch.cat((self.content(x), self.noise(x), x), 1)

    def complements(self, features: torch.Tensor) -> torch.Tensor:
        """`features` (B, 65, H, W) -> (B, 2, H, W): the fused content and the predicted noise."""
        content, noise, x = torch.split(features, [FEATURES, FEATURES, 1], 1)
        content, noise = self.content_last(content), self.noise_last(noise)
        return torch.cat((self.fusion(torch.cat((content, x - noise), 1)), noise), 1)

    def last(self, features: torch.Tensor) -> torch.Tensor:
        """`features` (B, 65, H, W) -> the denoised image (B, 1, H, W); in training `complements`, for CNCL's losses."""
        both = self.complements(features)
        return both if self.training else both[:, :1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape; in training (B, 2, H, W), see `last`."""
        return self.last(self.features(x))


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
