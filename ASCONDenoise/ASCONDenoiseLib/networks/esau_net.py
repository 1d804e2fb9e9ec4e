"""ESAU-Net: a U-Net whose blocks attend across channels, over all pixels (paper, section 2.2).

Where the paper and its authors' implementation differ, the implementation is followed: the published
tables came from it. Attention statistics run over the whole slice, so tiling would change the answer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

LEAKY_SLOPE = 0.01


class ChannelAttention(nn.Module):
    """Self-attention between channels: softmax(q k^T t) v per head, q and k normalised over pixels."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))  # t, the paper's 1/alpha
        self.qkv_pointwise = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)"""
        b, c, h, w = x.shape
        qkv = self.qkv_depthwise(self.qkv_pointwise(x))
        q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)  # each (B, heads, C/heads, H*W)
        q = F.normalize(q, dim=-1)
        k = F.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)  # (B, heads, C/heads, C/heads)
        return self.project((attention @ v).reshape(b, c, h, w))


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
        x = x + self.attention(x)
        y = F.leaky_relu(self.conv1(x), LEAKY_SLOPE)
        y = F.leaky_relu(self.conv2(y), LEAKY_SLOPE)
        return y + self.identity(x)


class ESAUNet(nn.Module):
    """ESAU-Net, 1 -> 1 channel, 4,914,230 parameters, no bias anywhere.

    The output is the image itself: no global residual, no clamp. Sides must be multiples of 8.
    """

    SIDE_MULTIPLE = 8

    def __init__(self):
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
        e1 = self.enc1(F.leaky_relu(self.stem(x), LEAKY_SLOPE))  # (B, 64, H, W)
        e2 = self.enc2(F.max_pool2d(e1, 2))  # (B, 128, H/2, W/2)
        e3 = self.enc3(F.max_pool2d(e2, 2))  # (B, 256, H/4, W/4)
        e4 = self.enc4(F.max_pool2d(e3, 2))  # (B, 256, H/8, W/8)
        d = self.dec1(_double(e4) + e3)
        d = self.dec2(_double(d) + e2)
        d = self.dec3(_double(d) + e1)
        return F.leaky_relu(self.head(d), LEAKY_SLOPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        return self.last(self.features(x))


def _double(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
