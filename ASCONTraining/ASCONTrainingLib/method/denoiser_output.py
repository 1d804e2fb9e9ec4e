"""What becomes of a denoiser's output in training: a last layer in fp32, and the rule of the product."""

from __future__ import annotations

import torch
from torch import nn


class MixedPrecision(nn.Module):
    """A denoiser whose last layer keeps fp32 under autocast: an image has more than the 8 bits of bfloat16."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the same, denoised."""
        features, last = (getattr(self.network, name, None) for name in ("features", "last"))
        if features is None or last is None:
            denoised: torch.Tensor = self.network(x)
            return denoised
        y = features(x)
        with torch.autocast(x.device.type, enabled=False):
            denoised = last(y.float())
        return denoised


class ProductOutput(nn.Module):
    """What the product makes of a denoiser G: y = x + G(c) - c with c = x clipped to the window.

    As in the product, voxels of 2000 HU and more keep their value. (Padding does too there; here x and NDCT have the
    same padding, so G has nothing to learn from it.)
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range, not clipped -> the same, denoised."""
        clipped = x.clamp(0, 1)
        return torch.where(x < 1, x + (self.network(clipped) - clipped), x)
