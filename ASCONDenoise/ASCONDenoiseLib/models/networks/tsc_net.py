"""TSC-Net's network, of which teacher and student are two (Fu et al., arXiv, December 2021).

"Total-Body Low-Dose CT Image Denoising using Prior Knowledge Transfer Technique with Contrastive Regularization
Mechanism". Its abstract names attention and deformable convolution, and gives no layers: these are after AECR-Net (Wu
et al., CVPR 2021), whose regularisation it shares, and decided here where that does not fit. There is no way from image
to image past the layers, by which the teacher would copy its input and have nothing to teach.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.models.networks.deformable_convolution import DeformableConv2d

REDUCTION = 8
FIRST_MIX, SECOND_MIX = -1.0, -0.6
"""Logits of the part that the way down has where it meets the way up."""


class ChannelAttention(nn.Module):
    """Each channel times a number from 0 to 1 that the means of all channels decide."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.excite = nn.Conv2d(channels // REDUCTION, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((-2, -1), keepdim=True)))))


class PixelAttention(nn.Module):
    """Each pixel times a number from 0 to 1 that its channels decide."""

    def __init__(self, channels: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.excite = nn.Conv2d(channels // REDUCTION, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x))))


class FeatureAttention(nn.Module):
    """Two 3x3 convolutions, attention to channels and to pixels, and two residuals."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = nn.Sequential(ChannelAttention(channels), PixelAttention(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        y = F.relu(self.conv1(x)) + x
        attended: torch.Tensor = self.attention(self.conv2(y))
        return attended + x


class DynamicEnhancement(nn.Module):
    """The module of the abstract: attention to channels and to pixels, two deformable convolutions, a residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.Sequential(ChannelAttention(channels), PixelAttention(channels))
        self.conv1 = DeformableConv2d(channels)
        self.conv2 = DeformableConv2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        y: torch.Tensor = self.conv2(F.relu(self.conv1(self.attention(x))))
        return y + x


class Mix(nn.Module):
    """s(w) a + (1 - s(w)) b with a learned logit w."""

    def __init__(self, logit: float):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor([logit]))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Two of one shape -> that shape"""
        part = torch.sigmoid(self.logit)
        return part * a + (1 - part) * b


class TSCNet(nn.Module):
    """TSC-Net, 1 -> 1 channel, 2,360,464 parameters: a quarter of the size in the middle, where attention works.

    The output is the image itself: no global residual, no clamp. Sides must be multiples of 4. Initialisation:
    PyTorch's defaults.
    """

    SIDE_MULTIPLE = 4

    def __init__(self, width: int = 32, blocks: int = 6):
        super().__init__()
        w = width
        self.stem = nn.Sequential(nn.Conv2d(1, w, 7, padding=3, padding_mode="reflect"), nn.ReLU())
        self.down1 = nn.Sequential(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList(FeatureAttention(4 * w) for _ in range(blocks))
        self.enhance = DynamicEnhancement(4 * w)
        self.mix1, self.mix2 = Mix(FIRST_MIX), Mix(SECOND_MIX)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, padding=1, output_padding=1), nn.ReLU())
        self.up2 = nn.Sequential(nn.ConvTranspose2d(2 * w, w, 3, 2, padding=1, output_padding=1), nn.ReLU())
        self.last = nn.Conv2d(w, 1, 7, padding=3, padding_mode="reflect")

    @property
    def guides(self) -> tuple[nn.Module, ...]:
        """The layers in whose features a student imitates its teacher: after the way down, block 3, enhancement."""
        return self.down2, self.blocks[len(self.blocks) // 2 - 1], self.enhance

    @property
    def encoder(self) -> tuple[nn.Module, ...]:
        """The layers of the way down, at 1, 1/2, 1/4 of the size."""
        return self.stem, self.down1, self.down2

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 32, H, W), the features before the last layer.

        Raises ValueError where H or W is not a multiple of 4.
        """
        if x.shape[-2] % self.SIDE_MULTIPLE or x.shape[-1] % self.SIDE_MULTIPLE:
            raise ValueError(f"TSC-Net needs sides that are multiples of 4; got {tuple(x.shape[-2:])}.")
        half = self.down1(self.stem(x))  # (B, 64, H/2, W/2)
        quarter = y = self.down2(half)  # (B, 128, H/4, W/4)
        for block in self.blocks:
            y = block(y)
        y = self.up1(self.mix1(quarter, self.enhance(y)))
        features: torch.Tensor = self.up2(self.mix2(half, y))
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        y: torch.Tensor = self.last(self.features(x))
        return y
