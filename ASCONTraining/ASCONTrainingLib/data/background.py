"""How much of an NDCT is background, and which slices and patches are left when those with too much of it are not.

Background is counted once, when a set is prepared, in cells of 8x8 pixels; patches lie on the grid of these cells.
"""

from __future__ import annotations

import numpy as np

BACKGROUND_HU = -500.0
"""Air and lung lie at this value or below; the paper's notebook leaves out what has too much of them."""

CELL = 8
"""Side of a cell in pixels."""


def background_cells(ndct_hu: np.ndarray) -> np.ndarray:
    """(S, H, W) HU -> (S, ceil(H / 8), ceil(W / 8)) uint8: pixels at BACKGROUND_HU or below in each 8x8 cell."""
    s, h, w = ndct_hu.shape
    rows, columns = -(-h // CELL), -(-w // CELL)
    cells = np.empty((s, rows, columns), np.uint8)
    for slice_cells, image in zip(cells, ndct_hu, strict=True):
        air = np.zeros((rows * CELL, columns * CELL), bool)
        air[:h, :w] = image <= BACKGROUND_HU
        slice_cells[:] = air.reshape(rows, CELL, columns, CELL).sum((1, 3))
    return cells


def slice_table(cells: np.ndarray, shape: tuple[int, int, int], max_background: float) -> np.ndarray:
    """Choose whole slices.

    Args:
        cells: as from `background_cells`.
        shape: slices, rows, columns of the volume.
        max_background: fraction of background from which on a slice is left out.

    Returns:
        (N, 3) int32 rows (slice, 0, 0).
    """
    background = cells.sum((1, 2), dtype=np.int64) / (shape[1] * shape[2])
    kept = np.flatnonzero(background < max_background)
    return np.stack([kept, np.zeros_like(kept), np.zeros_like(kept)], axis=1).astype(np.int32)


def patch_table(
    cells: np.ndarray, shape: tuple[int, int, int], patch: int, stride: int, max_background: float
) -> np.ndarray:
    """Choose square patches, which start every `stride` pixels and as near to the far borders as the grid allows.

    Args:
        cells, shape: as for `slice_table`.
        patch, stride: pixels, multiples of CELL.
        max_background: fraction of background from which on a patch is left out.

    Returns:
        (N, 3) int32 rows (slice, top, left).
    """
    tops, lefts = (_starts(side, patch, stride) for side in shape[1:])
    if not len(tops) or not len(lefts):
        return np.empty((0, 3), np.int32)
    total = np.zeros((cells.shape[0], cells.shape[1] + 1, cells.shape[2] + 1), np.int32)  # summed-area table
    total[:, 1:, 1:] = cells.cumsum(1, dtype=np.int32).cumsum(2)
    y0, x0 = tops[:, None] // CELL, lefts[None, :] // CELL
    y1, x1 = y0 + patch // CELL, x0 + patch // CELL
    background = (total[:, y1, x1] - total[:, y0, x1] - total[:, y1, x0] + total[:, y0, x0]) / patch**2
    z, row, column = np.nonzero(background < max_background)
    return np.stack([z, tops[row], lefts[column]], axis=1).astype(np.int32)


def _starts(side: int, patch: int, stride: int) -> np.ndarray:
    last = (side - patch) // CELL * CELL
    return np.unique([*range(0, last + 1, stride), last]) if last >= 0 else np.empty(0, int)
