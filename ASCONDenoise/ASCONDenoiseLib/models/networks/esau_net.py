"""ESAU-Net: a U-Net whose blocks attend across channels, over all pixels (paper, section 2.2).

Where the paper and its authors' implementation differ, the implementation is followed: the published
tables came from it. Attention statistics run over the whole slice, so tiling would change the answer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models.networks.channel_attention import ChannelAttention, lowered

LEAKY_SLOPE = 0.01


class ESAUBlock(nn.Module):
    """Channel attention with a residual, then two 3x3 convolutions with an identity path."""

    def __init__(self, channels_in: int, channels_out: int, heads: int, channels_between: int | None = None):
        super().__init__()
        between = channels_between or channels_in
        self.attention = ChannelAttention(channels_in, heads)
        self.conv1 = nn.Conv2d(channels_in, between, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(between, channels_out, 3, padding=1, bias=False)
        same = channels_in == channels_out
        self.identity = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W)"""
        if isinstance(self.identity, nn.Conv2d):
            x = lowered(x, self.identity.weight)
        x = self.attention(x)
        y = F.leaky_relu(self.conv1(lowered(x, self.conv1.weight)), LEAKY_SLOPE, inplace=True)
        y = F.leaky_relu(self.conv2(y), LEAKY_SLOPE, inplace=True)
        return self.identity(x).add_(y) if isinstance(self.identity, nn.Conv2d) else y + x


class ESAUNet(nn.Module):
    """ESAU-Net, 1 -> 1 channel, 4,914,230 parameters, no bias anywhere.

    The output is the image itself: no global residual, no clamp. Sides must be multiples of 8.
    """

    SIDE_MULTIPLE = 8
    PRECISE_LAYERS = ("stem", "enc1.identity", "dec3.identity", "head", "last", "*.project")
    # Measured on real slices with one layer after the other in bf16: the layers that hand on the image itself cost
    # 0.2 to 1.8 HU (RMS) each, every other one at most 0.06 HU. A projection is only ever multiplied by A, in fp32.

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, padding=1, bias=False)
        self.enc1 = ESAUBlock(32, 64, heads=1)
        self.enc2 = ESAUBlock(64, 128, heads=2)
        self.enc3 = ESAUBlock(128, 256, heads=4)
        self.enc4 = ESAUBlock(256, 256, heads=8, channels_between=512)
        self.dec1 = ESAUBlock(256, 128, heads=4)
        self.dec2 = ESAUBlock(128, 64, heads=2)
        self.dec3 = ESAUBlock(64, 32, heads=1)
        self.head = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.last = nn.Conv2d(32, 1, 3, padding=1, bias=False)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 32, H, W), the features before the last layer.

        Raises ValueError where H or W is not a multiple of 8.
        """
        if x.shape[-2] % self.SIDE_MULTIPLE or x.shape[-1] % self.SIDE_MULTIPLE:
            raise ValueError(
                f"ESAU-Net needs sides that are multiples of {self.SIDE_MULTIPLE}; got {tuple(x.shape[-2:])}."
            )
        e1 = self.enc1(F.leaky_relu(self.stem(x), LEAKY_SLOPE, inplace=True))  # (B, 64, H, W)
        e2 = self.enc2(F.max_pool2d(e1, 2))  # (B, 128, H/2, W/2)
        e3 = self.enc3(F.max_pool2d(e2, 2))  # (B, 256, H/4, W/4)
        e4 = self.enc4(F.max_pool2d(e3, 2))  # (B, 256, H/8, W/8)
        d = self.dec1(_doubled_onto(e3, e4))
        d = self.dec2(_doubled_onto(e2, d))
        d = self.dec3(_doubled_onto(e1, d))
        return F.leaky_relu(self.head(d), LEAKY_SLOPE, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        y: torch.Tensor = self.last(self.features(x))
        return y


def _doubled_onto(skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """skip (B, C, 2H, 2W) + x (B, C, H, W) at twice its size, in skip's precision."""
    doubled = F.interpolate(x.to(skip.dtype), scale_factor=2, mode="bilinear", align_corners=True)
    return doubled.add_(skip)
