"""Deformable convolution with modulation (Zhu et al., CVPR 2019, "Deformable ConvNets v2", equation 1), in plain torch.

Each of the nine taps of a 3x3 kernel looks somewhere beside its place, between pixels, and counts by its own weight;
where and how much is decided from the input at each pixel. No compiled operator is needed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

SIDE = 3
TAPS = SIDE * SIDE


class DeformableConv2d(nn.Module):
    """3x3, padded with zeros, C -> C channels. Begins as the plain convolution: offsets 0, each tap counts once."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, SIDE, padding=1)  # its weights; `forward` places the taps
        self.decide = nn.Conv2d(channels, 3 * TAPS, SIDE, padding=1)
        for parameter in self.decide.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape, in fp32 at least: places are finer than 8 bits."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            decided: torch.Tensor = self.decide(x)
            offsets, logits = decided.split([2 * TAPS, TAPS], 1)  # type: ignore[no-untyped-call]
            return deformed(x, offsets, 2 * torch.sigmoid(logits), self.conv.weight, self.conv.bias)


def deformed(
    x: torch.Tensor, offsets: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """y(p) = sum over taps k of weight_k * mask_k(p) * x(p + k + offset_k(p)), bilinear, 0 outside: (B, O, H, W).

    Args:
        x: (B, C, H, W).
        offsets: (B, 18, H, W) pixels, (down, right) of each tap in turn; taps are counted by rows.
        mask: (B, 9, H, W).
        weight: (O, C, 3, 3).
        bias: (O,).
    """
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    samples = []
    for tap in range(TAPS):
        down, right = divmod(tap, SIDE)
        row = rows + (down - 1) + offsets[:, 2 * tap]  # (B, H, W)
        column = columns + (right - 1) + offsets[:, 2 * tap + 1]
        grid = torch.stack(((2 * column + 1) / width - 1, (2 * row + 1) / height - 1), -1)  # in units of grid_sample
        seen = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        samples.append(seen * mask[:, tap : tap + 1])
    # (B, 9 C, H, W), tap by tap, and the weights in the same order: one matrix product
    return F.conv2d(torch.cat(samples, 1), weight.permute(0, 2, 3, 1).flatten(1)[..., None, None], bias)
