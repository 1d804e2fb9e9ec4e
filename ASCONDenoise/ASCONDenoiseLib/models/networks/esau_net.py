"""ESAU-Net: a U-Net whose blocks attend across channels, over all pixels (paper, section 2.2).

Where the paper and its authors' implementation differ, the implementation is followed: the published
tables came from it. Attention statistics run over the whole slice, so tiling would change the answer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.channel_attention import ChannelAttention, lowered, pointwise

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
        return pointwise(x, self.identity.weight).add_(y) if isinstance(self.identity, nn.Conv2d) else y + x


class ESAUNet(nn.Module):
    """ESAU-Net; with the settings left as they are the paper's: 1 -> 1 channel, 4,914,230 parameters.

    No bias anywhere, no clamp. The settings are not in the paper. Sides must be multiples of SIDE_MULTIPLE.

    Args:
        residual: the network's output is added to its input, and is 0 at the start of a training: G(x) = x + R(x). The
            sum is in fp32 whatever R is computed in. Without it the output is the image itself, as in the paper.
        fold: side of the squares of pixels that become channels before the first layer and pixels again after the last
            one (pixel unshuffle and shuffle): all layers work on an image smaller by that factor.
        channels: of the stem; all other layers have multiples of it. A multiple of 8.
    """

    PRECISE_LAYERS = ("stem", "enc1.attention.*", "enc1.identity", "dec3.identity", "head", "last", "*.project")
    # Measured on real slices with one layer after the other in bf16. In the paper's form the layers that hand on the
    # image itself cost 0.2 to 1.8 HU (RMS) each, every other one at most 0.06 HU. In the residual models that ship the
    # first attention, whose v is nearly the image, cost 0.46 HU, 98 % of the error's square; the rest together 0.07 HU.
    # A projection is only ever multiplied by A, in fp32.

    def __init__(self, residual: bool = False, fold: int = 1, channels: int = 32) -> None:
        super().__init__()
        if fold < 1 or channels < 8 or channels % 8:
            raise InputError(
                "ESAU-Net's fold is 1 or more, and its channels are a multiple of 8; "
                f"got the fold {fold} and {channels} channels."
            )
        self.residual, self.fold, c = residual, fold, channels
        self.SIDE_MULTIPLE = 8 * fold
        self.stem = nn.Conv2d(fold**2, c, 3, padding=1, bias=False)
        self.enc1 = ESAUBlock(c, 2 * c, heads=1)
        self.enc2 = ESAUBlock(2 * c, 4 * c, heads=2)
        self.enc3 = ESAUBlock(4 * c, 8 * c, heads=4)
        self.enc4 = ESAUBlock(8 * c, 8 * c, heads=8, channels_between=16 * c)
        self.dec1 = ESAUBlock(8 * c, 4 * c, heads=4)
        self.dec2 = ESAUBlock(4 * c, 2 * c, heads=2)
        self.dec3 = ESAUBlock(2 * c, c, heads=1)
        self.head = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.last = nn.Conv2d(c, fold**2, 3, padding=1, bias=False)
        if residual:
            nn.init.zeros_(self.last.weight)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, channels, H / fold, W / fold), the features before the last layer.

        Raises ValueError where H or W is not a multiple of SIDE_MULTIPLE.
        """
        if x.shape[-2] % self.SIDE_MULTIPLE or x.shape[-1] % self.SIDE_MULTIPLE:
            raise ValueError(
                f"ESAU-Net needs sides that are multiples of {self.SIDE_MULTIPLE}; got {tuple(x.shape[-2:])}."
            )
        x = _laid_out_as(self.stem.weight, F.pixel_unshuffle(x, self.fold)) if self.fold > 1 else x
        e1 = self.enc1(F.leaky_relu(self.stem(x), LEAKY_SLOPE, inplace=True))  # (B, 2 c, H, W), from here on / fold
        e2 = self.enc2(F.max_pool2d(e1, 2))  # (B, 4 c, H/2, W/2)
        e3 = self.enc3(F.max_pool2d(e2, 2))  # (B, 8 c, H/4, W/4)
        e4 = self.enc4(F.max_pool2d(e3, 2))  # (B, 8 c, H/8, W/8)
        d = self.dec1(_doubled_onto(e3, e4))
        d = self.dec2(_doubled_onto(e2, d))
        d = self.dec3(_doubled_onto(e1, d))
        return F.leaky_relu(self.head(d), LEAKY_SLOPE, inplace=True)

    def image(self, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The denoised image (B, 1, H, W) from the features of x, and x itself."""
        y: torch.Tensor = self.last(features)
        if self.fold > 1:
            y = F.pixel_shuffle(y, self.fold)
        return x + y.to(x.dtype) if self.residual else y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        return self.image(self.features(x), x)


def _laid_out_as(weight: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """y (B, C, H, W) in the layout of the weights that it meets: an image of one channel has both, and tells none."""
    return y.contiguous(memory_format=torch.channels_last) if weight.stride(1) == 1 else y.contiguous()


def _doubled_onto(skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """skip (B, C, 2H, 2W) + x (B, C, H, W) at twice its size, in skip's precision."""
    doubled = F.interpolate(x.to(skip.dtype), scale_factor=2, mode="bilinear", align_corners=True)
    return doubled.add_(skip)
