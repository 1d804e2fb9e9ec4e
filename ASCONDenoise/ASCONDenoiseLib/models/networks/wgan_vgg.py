"""The generator of WGAN-VGG: eight 3x3 convolutions (Yang et al., IEEE TMI 37:1348, 2018, section II-C and Fig. 1).

Without biases, each with a ReLU, as in the authors' implementation. There they are not padded in training, so that the
image shrinks by 16 pixels; here they are, so that it keeps its size. Its critic and losses are in training.
"""

from __future__ import annotations

import torch
from torch import nn


class WGANVGGGenerator(nn.Module):
    """WGAN-VGG's denoiser, 1 -> 1 channel, 55,872 parameters.

    Weights begin as Xavier's, the last layer's as their absolute values: a ReLU follows it, and half of all seeds would
    begin, and stay, at an image of zeros.
    """

    def __init__(self, channels: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(7):
            layers += [nn.Conv2d(channels if k else 1, channels, 3, padding=1, bias=False), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*layers)
        last = nn.Conv2d(channels, 1, 3, padding=1, bias=False)
        self.last = nn.Sequential(last, nn.ReLU())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
        with torch.no_grad():
            last.weight.abs_()

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> (B, 32, H, W), the features before the last layer."""
        features: torch.Tensor = self.hidden(x)
        return features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape; 0 and more."""
        y: torch.Tensor = self.last(self.features(x))
        return y
