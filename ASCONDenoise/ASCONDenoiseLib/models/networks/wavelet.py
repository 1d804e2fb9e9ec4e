"""The low band of an image: what six levels of the wavelet db3 leave when all details are taken away.

The transform is linear and acts on rows and columns alike, so it is one matrix for each side length, computed once.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

LEVELS = 6
_TEN, _ROOT, _NORM = math.sqrt(10), math.sqrt(5 + 2 * math.sqrt(10)), 16 * math.sqrt(2)
DB3 = (
    (1 + _TEN + _ROOT) / _NORM,
    (5 + _TEN + 3 * _ROOT) / _NORM,
    (10 - 2 * _TEN + 2 * _ROOT) / _NORM,
    (10 - 2 * _TEN - 2 * _ROOT) / _NORM,
    (5 + _TEN - 3 * _ROOT) / _NORM,
    (1 + _TEN - _ROOT) / _NORM,
)
"""The low-pass filter of reconstruction, db3 (Daubechies, Ten Lectures on Wavelets, SIAM 1992, Table 6.1)."""
TAPS = len(DB3)


def low_band(x: torch.Tensor) -> torch.Tensor:
    """The approximation of level 6 alone, brought back to full size: (B, C, H, W) -> the same shape, in x's type.

    Images are mirrored at their borders (the outermost pixel is repeated) by at least three filter lengths of the
    coarsest level, so that no border of the transform lies in the image. A constant comes back as it is.
    """
    rows, columns = (torch.from_numpy(low_band_matrix(side)).to(x.device, x.dtype) for side in x.shape[-2:])
    with torch.autocast(x.device.type, enabled=False):  # bf16 products would move CT numbers
        return rows @ x @ columns.mT


@functools.lru_cache(maxsize=64)
def low_band_matrix(length: int) -> np.ndarray:
    """(length, length) float64: what `low_band` does to a row of so many pixels."""
    step = 2**LEVELS
    more = -length % step + TAPS * step
    before = more // 2
    mirrored = np.eye(length)[_mirrored(np.arange(length + more) - before, length)]
    return np.ascontiguousarray(_approximated(mirrored, LEVELS)[before : before + length])


def _approximated(x: np.ndarray, levels: int) -> np.ndarray:
    """(N, K), each column through `levels` steps of analysis and back, without the details: (N, K)."""
    if levels == 0:
        return x
    length = len(x)
    count = (length + TAPS - 1) // 2
    # coefficient k is the sum of DB3[i] x[2k - 4 + i], and gives DB3[i] to pixel 2k - 4 + i in return
    k, i = np.meshgrid(np.arange(count), np.arange(TAPS), indexing="ij")
    pixel = 2 * k - (TAPS - 2) + i
    analysis = np.zeros((count, length))
    np.add.at(analysis, (k, _mirrored(pixel, length)), np.array(DB3)[i])
    inside = (pixel >= 0) & (pixel < length)
    synthesis = np.zeros((length, count))
    synthesis[pixel[inside], k[inside]] = np.array(DB3)[i[inside]]
    back: np.ndarray = synthesis @ _approximated(analysis @ x, levels - 1)
    return back


def _mirrored(index: np.ndarray, length: int) -> np.ndarray:
    """Places in an image that is mirrored at both ends, its outermost pixels repeated, without end."""
    index = index % (2 * length)
    return np.where(index < length, index, 2 * length - 1 - index)
