"""ESAU-Net as it is written in the paper, one operation after the other: what the fast ways are compared with.

Tests take it as their oracle, benchmarks as the plain network: eager, fp32, NCHW.
"""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from ASCONDenoiseLib.models.networks.channel_attention import ChannelAttention
from ASCONDenoiseLib.models.networks.esau_net import ESAUBlock, ESAUNet


class PlainAttention(ChannelAttention):
    """q and k are normalised in memory, A v and the projection are two products."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> x + attention of x, (B, C, H, W)"""
        b, c, h, w = x.shape
        qkv = self.qkv_depthwise(self.qkv_pointwise(x))
        q, k, v = qkv.reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        attention = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return x + self.project((attention @ v).reshape(b, c, h, w))


class PlainBlock(ESAUBlock):
    """A new tensor for each result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H, W)"""
        x = self.attention(x)
        y = F.leaky_relu(self.conv1(x), 0.01)
        y = F.leaky_relu(self.conv2(y), 0.01)
        return y + self.identity(x)


class PlainNet(ESAUNet):
    """The stages in their order."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, channels, H / fold, W / fold)"""

        def double(maps: torch.Tensor) -> torch.Tensor:
            return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)

        x = F.pixel_unshuffle(x, self.fold)
        e1 = self.enc1(F.leaky_relu(self.stem(x), 0.01))
        e2 = self.enc2(F.max_pool2d(e1, 2))
        e3 = self.enc3(F.max_pool2d(e2, 2))
        e4 = self.enc4(F.max_pool2d(e3, 2))
        d = self.dec1(double(e4) + e3)
        d = self.dec2(double(d) + e2)
        d = self.dec3(double(d) + e1)
        return F.leaky_relu(self.head(d), 0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) -> (B, 1, H, W)"""
        y = F.pixel_shuffle(self.last(self.features(x)), self.fold)
        return x + y if self.residual else y


def plain(network: torch.nn.Module) -> torch.nn.Module:
    """A plain copy, NCHW, of an ESAU-Net, of a pair, or of its attention or block."""
    return made_plain(copy.deepcopy(network))


def made_plain(network: torch.nn.Module) -> torch.nn.Module:
    """The network itself, made so."""
    ways = {ChannelAttention: PlainAttention, ESAUBlock: PlainBlock, ESAUNet: PlainNet}
    for module in network.to(memory_format=torch.contiguous_format).modules():
        module.__class__ = ways.get(type(module), type(module))
    return network
