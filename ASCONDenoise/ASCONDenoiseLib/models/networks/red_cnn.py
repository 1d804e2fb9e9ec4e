"""RED-CNN, a residual encoder-decoder (Chen et al., IEEE TMI 36:2524, 2017, section II-C and Fig. 1).

Ten layers of 5x5 without padding: five convolutions take 20 pixels off each side's length, five transposed ones give
them back. ReLU after each layer, after the shortcut where there is one; the last gives an image of 0 and more, that is
-1000 HU and more. Kernels begin as N(0, 0.01^2) (section III-B), biases at 0.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

KERNEL = 5
INITIAL_SD = 0.01


class REDCNN(nn.Module):
    """RED-CNN, 1 -> 1 channel, 1,848,865 parameters with the 96 channels of the paper. Sides of at least 21 pixels."""

    def __init__(self, channels: int = 96):
        super().__init__()
        c = channels
        self.conv1 = nn.Conv2d(1, c, KERNEL)
        self.conv2 = nn.Conv2d(c, c, KERNEL)
        self.conv3 = nn.Conv2d(c, c, KERNEL)
        self.conv4 = nn.Conv2d(c, c, KERNEL)
        self.conv5 = nn.Conv2d(c, c, KERNEL)
        self.deconv1 = nn.ConvTranspose2d(c, c, KERNEL)
        self.deconv2 = nn.ConvTranspose2d(c, c, KERNEL)
        self.deconv3 = nn.ConvTranspose2d(c, c, KERNEL)
        self.deconv4 = nn.ConvTranspose2d(c, c, KERNEL)
        self.deconv5 = nn.ConvTranspose2d(c, 1, KERNEL)
        for layer in self.children():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
                nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
                nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the denoised image, the same shape."""
        e2 = F.relu(self.conv2(F.relu(self.conv1(x))))  # (B, C, H - 8, W - 8)
        e4 = F.relu(self.conv4(F.relu(self.conv3(e2))))  # (B, C, H - 16, W - 16)
        d = F.relu(self.conv5(e4))
        d = F.relu(self.deconv1(d) + e4)
        d = F.relu(self.deconv3(F.relu(self.deconv2(d))) + e2)
        return F.relu(self.deconv5(F.relu(self.deconv4(d))) + x)
