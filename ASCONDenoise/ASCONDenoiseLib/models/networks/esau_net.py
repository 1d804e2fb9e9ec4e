"""ESAU-Net: a U-Net whose blocks attend across channels, over all pixels (paper, section 2.2).

Where the paper and its authors' implementation differ, the implementation is followed: the published
tables came from it. Attention statistics run over the whole slice, so tiling would change the answer.
"""

from __future__ import annotations

import copy
import os

import torch
from torch import nn
from torch.nn import functional as F

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Large pages for torch's tensors of 2 MB and more (Linux; unknown elsewhere): a fifth less time on a CPU, 6 % more
# memory. It is read with the first tensor that torch makes; so it is set here, before a model is loaded.

LEAKY_SLOPE = 0.01

PRECISE_LAYERS = ("stem", "enc1.identity", "dec3.identity", "head", "last")
"""What stays in fp32 in a `mixed` copy, and with it the residual path of enc1 and dec3."""

STRIP_VALUES = 2**20
"""Values of one of q, k and v in a strip, for each thread: q and k in fp32 fill 8 MB. Smaller strips fit a core's own
cache, but threads then wait for each other more often, which costs more, above all beside other programs."""


class ChannelAttention(nn.Module):
    """Self-attention between channels, softmax(q k^T t) v per head, q and k normalised over pixels; with its residual.

    Only channels are mixed, so small matrices do it: q k^T is a Gram matrix divided by the norms of its rows and
    columns; softmax and output projection multiply to one matrix. Neither q and k normalised nor A v are ever made.
    Without gradients a CPU goes through the image in strips of rows, twice: q and k, then v, stay in its caches.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))  # t, the paper's 1/alpha
        self.qkv_pointwise = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.project = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> x + attention of x, (B, C, H, W)"""
        c, height = x.shape[1], x.shape[2]
        rows = _rows_at_once(x)
        pointwise_qk, pointwise_v = self.qkv_pointwise.weight.split((2 * c, c))
        depthwise_qk, depthwise_v = self.qkv_depthwise.weight.split((2 * c, c))
        grams, squares = [], []
        for first in range(0, height, rows):
            qk = _strip(x, first, rows, pointwise_qk, depthwise_qk)
            grams.append(self._gram(*qk.split(c, dim=-1)))
            squares.append(qk.square().sum(dim=1, dtype=_precise(qk)))
        mixing = self._mixing(sum(grams), sum(squares))
        if rows >= height:
            return x + self._mixed(x, 0, rows, mixing, pointwise_v, depthwise_v)
        out = torch.empty_like(x)
        for first in range(0, height, rows):
            strip = slice(first, first + rows)
            out[:, :, strip] = x[:, :, strip] + self._mixed(x, first, rows, mixing, pointwise_v, depthwise_v)
        return out

    def _gram(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """q^T k of q and k (B, N, C) per head: (B, heads, C/heads, C/heads), in fp32 (fp64 for fp64)."""
        # contiguous: for 16-bit matrices with a stride the product is slow
        q, k = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous() for x in (q, k))
        return (q.transpose(-2, -1) @ k).to(_precise(q))

    def _mixing(self, gram: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """W_project blockdiag(A) (B, C, C); `squares` (B, 2C) are the squared norms of q's and k's channels."""
        b, c = len(squares), squares.shape[1] // 2
        # 1e-12 is the smallest norm, as in torch.nn.functional.normalize
        q, k = squares.clamp_min(1e-24).sqrt().view(b, 2, self.heads, c // self.heads).unbind(1)
        attention = (gram / (q.unsqueeze(-1) * k.unsqueeze(-2)) * self.temperature).softmax(dim=-1)
        project = self.project.weight.view(c, self.heads, c // self.heads).transpose(0, 1)  # (heads, C, C/heads)
        return (project.to(attention.dtype) @ attention).transpose(1, 2).reshape(b, c, c)

    def _mixed(
        self,
        x: torch.Tensor,
        first: int,
        rows: int,
        mixing: torch.Tensor,
        pointwise_v: torch.Tensor,
        depthwise_v: torch.Tensor,
    ) -> torch.Tensor:
        """Rows of the attention's output: `mixing` times v, (B, C, rows, W)."""
        v = _strip(x, first, rows, pointwise_v, depthwise_v)
        return (v @ mixing.to(v.dtype).transpose(1, 2)).transpose(1, 2).unflatten(2, (-1, x.shape[3]))


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
        has_identity = isinstance(self.identity, nn.Conv2d)
        if has_identity:
            x = _lowered(x, self.identity.weight)
        x = self.attention(x)
        y = F.leaky_relu(self.conv1(_lowered(x, self.conv1.weight)), LEAKY_SLOPE, inplace=True)
        y = F.leaky_relu(self.conv2(y), LEAKY_SLOPE, inplace=True)
        return self.identity(x).add_(y) if has_identity else y + x


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
        return self.last(self.features(x))

    def mixed(self, dtype: torch.dtype) -> ESAUNet:
        """A copy, for use only, that computes in `dtype` (bf16) except in the layers of PRECISE_LAYERS.

        Measured on real slices with one layer after the other in bf16: these layers, which hand on the image itself,
        cost 0.2 to 1.8 HU (RMS) each, every other one at most 0.06 HU.
        """
        copied = copy.deepcopy(self).requires_grad_(False)
        for name, module in copied.named_modules():
            if isinstance(module, nn.Conv2d) and name not in PRECISE_LAYERS and not name.endswith(".project"):
                module.to(dtype)  # a projection is only ever multiplied by A, in fp32
        return copied


def _doubled_onto(skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """skip (B, C, 2H, 2W) + x (B, C, H, W) at twice its size, in skip's precision."""
    doubled = F.interpolate(x.to(skip.dtype), scale_factor=2, mode="bilinear", align_corners=True)
    return doubled.add_(skip)


def _lowered(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x in the 16-bit type of a weight of a `mixed` copy; as it is where the weight has more bits (autocast's case)."""
    return x.to(weight.dtype) if weight.dtype in (torch.bfloat16, torch.float16) else x


def _precise(x: torch.Tensor) -> torch.dtype:
    """What sums over all pixels are kept in."""
    return torch.promote_types(x.dtype, torch.float32)


def _rows_at_once(x: torch.Tensor) -> int:
    """Rows of x (B, C, H, W) that attention takes at once: all with gradients or on a GPU, else a strip."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.shape[2]
    return max(8, STRIP_VALUES * torch.get_num_threads() // (x.shape[1] * x.shape[3]))


def _strip(x: torch.Tensor, first: int, rows: int, pointwise: torch.Tensor, depthwise: torch.Tensor) -> torch.Tensor:
    """Rows `first` to `first + rows` of x (B, C, H, W) through 1x1 and depthwise 3x3 convolution: (B, rows * W, C').

    The convolutions also see the rows above and below.
    """
    top = max(first - 1, 0)
    y = F.conv2d(_lowered(x[:, :, top : first + rows + 1], pointwise), pointwise)
    y = F.conv2d(y, depthwise, padding=1, groups=len(depthwise))
    y = y[:, :, first - top : first - top + rows]
    return y.permute(0, 2, 3, 1).flatten(1, 2)
