"""Self-attention between channels, ESAU-Net's (paper, section 2.2), as few and small matrix products.

Only channels are mixed, so small matrices do it: q k^T is a Gram matrix divided by the norms of its rows and columns;
softmax and output projection multiply to one matrix. Neither q and k normalised nor A v are ever made.
"""

from __future__ import annotations

import platform

import torch
from torch import nn
from torch.nn import functional as F

STRIP_VALUES = 2**20
"""Values of one of q, k and v in a strip, for each thread: q and k in fp32 fill 8 MB. Smaller strips fit a core's own
cache, but threads then wait for each other more often, which costs more, above all beside other programs."""

ONEDNN_IS_FASTEST: bool = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""For products of matrices on the CPU, in fp32. On ARM, where Arm's library does its work, that was not measured."""


class ChannelAttention(nn.Module):
    """Self-attention between channels, softmax(q k^T t) v per head, q and k normalised over pixels; with its residual.

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
        pointwise_qk, pointwise_v = torch.split(self.qkv_pointwise.weight, [2 * c, c])
        depthwise_qk, depthwise_v = torch.split(self.qkv_depthwise.weight, [2 * c, c])
        grams, squares = [], []
        for first in range(0, height, rows):
            qk = _pixels(_strip(x, first, rows, pointwise_qk, depthwise_qk))
            grams.append(self._gram(*torch.split(qk, [c, c], -1)))
            squared = qk.square() if torch.is_grad_enabled() else qk.square_()  # new memory costs more than squares
            squares.append(squared.sum(dim=1, dtype=_precise(qk)))
        mixing = self._mixing(sum(grams[1:], grams[0]), sum(squares[1:], squares[0]))
        if rows >= height:
            return self._output_rows(x, 0, rows, mixing, pointwise_v, depthwise_v)
        out = torch.empty_like(x)
        for first in range(0, height, rows):
            strip = slice(first, first + rows)
            out[:, :, strip] = self._output_rows(x, first, rows, mixing, pointwise_v, depthwise_v)
        return out

    def _gram(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """q^T k of q and k (B, N, C) per head: (B, heads, C/heads, C/heads), in fp32 (fp64 for fp64)."""
        q, k = (torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2) for x in (q, k))
        if q.element_size() == 2:  # the product of 16-bit matrices with a stride is slow
            q, k = q.contiguous(), k.contiguous()
        return (q.transpose(-2, -1) @ k).to(_precise(q))

    def _mixing(self, gram: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """W_project blockdiag(A) (B, C, C); `squares` (B, 2C) are the squared norms of q's and k's channels."""
        b, c = len(squares), squares.shape[1] // 2
        # 1e-12 is the smallest norm, as in torch.nn.functional.normalize
        q, k = squares.clamp_min(1e-24).sqrt().view(b, 2, self.heads, c // self.heads).unbind(1)
        attention = (gram / (q.unsqueeze(-1) * k.unsqueeze(-2)) * self.temperature).softmax(dim=-1)
        project = self.project.weight.view(c, self.heads, c // self.heads).transpose(0, 1)  # (heads, C, C/heads)
        return (project.to(attention.dtype) @ attention).transpose(1, 2).reshape(b, c, c)

    def _output_rows(
        self,
        x: torch.Tensor,
        first: int,
        rows: int,
        mixing: torch.Tensor,
        pointwise_v: torch.Tensor,
        depthwise_v: torch.Tensor,
    ) -> torch.Tensor:
        """Rows of x + `mixing` times v, (B, C, rows, W), laid out as x is."""
        v = _strip(x, first, rows, pointwise_v, depthwise_v)
        x, mixing, width = x[:, :, first : first + rows], mixing.to(v.dtype), x.shape[3]
        if len(x) == 1 and x.dtype == v.dtype and _for_onednn(v):  # its products are faster than BLAS's
            return pointwise(v, mixing[0, :, :, None, None]).add_(x)
        v = _pixels(v)
        if not _channels_last(x):
            return torch.unflatten(_sum(x.flatten(2), mixing, v.mT), 2, (-1, width))
        # so that strides are those of channels last in a batch of one, too, or torch takes it for another layout
        return torch.unflatten(_sum(_pixels(x), v, mixing.mT), 1, (-1, width)).permute(0, 3, 1, 2)


def _sum(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """x + a b, of matrices in a batch."""
    return torch.baddbmm(x, a, b) if x.dtype == a.dtype else x + a @ b


def _channels_last(x: torch.Tensor) -> bool:
    """Whether (B, C, H, W) is laid out so; rows that were cut out of it are too."""
    return x.stride(1) == 1


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, H * W, C), the same memory: a copy of another layout costs more than the product."""
    return x.permute(0, 2, 3, 1).flatten(1, 2) if _channels_last(x) else x.flatten(2).mT


def lowered(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x in the 16-bit type of a weight of a bf16 copy; as it is where the weight has more bits (autocast's case)."""
    return x.to(weight.dtype) if weight.dtype in (torch.bfloat16, torch.float16) else x


def _precise(x: torch.Tensor) -> torch.dtype:
    """What sums over all pixels are kept in."""
    return torch.promote_types(x.dtype, torch.float32)


def _rows_at_once(x: torch.Tensor) -> int:
    """Rows of x (B, C, H, W) that attention takes at once: all with gradients or on a GPU, else a strip."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return x.shape[2]
    return max(8, STRIP_VALUES * torch.get_num_threads() // (x.shape[1] * x.shape[3]))


def _strip(x: torch.Tensor, first: int, rows: int, weight: torch.Tensor, depthwise: torch.Tensor) -> torch.Tensor:
    """Rows `first` to `first + rows` of x (B, C, H, W) through 1x1 and depthwise 3x3 convolution: (B, C', rows, W).

    The convolutions also see the rows above and below.
    """
    top = max(first - 1, 0)
    y = pointwise(lowered(x[:, :, top : first + rows + 1], weight), weight)
    y = F.conv2d(y, depthwise, padding=1, groups=len(depthwise))
    return y[:, :, first - top : first - top + rows]


def pointwise(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (B, C, H, W) through a 1x1 convolution, weight (C', C, 1, 1)."""
    # One thread and one image make torch take BLAS for it, up to three times slower than oneDNN, where all that is
    # dilated goes; 1x1 has nothing to dilate. With more threads torch takes oneDNN by itself.
    return F.conv2d(x, weight, dilation=2 if _for_onednn(x) else 1)


def _for_onednn(x: torch.Tensor) -> bool:
    return ONEDNN_IS_FASTEST and x.device.type == "cpu" and x.dtype == torch.float32
