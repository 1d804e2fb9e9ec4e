"""Background: how it is counted, and which slices and patches are left."""

from __future__ import annotations

import numpy as np
import pytest
from training_fixtures import some_hu

from ASCONTrainingLib.data.background import background_cells, patch_table, slice_table


def test_background_is_counted_in_cells_of_8():
    ndct = some_hu((2, 21, 30))
    ndct[0, 0, :2] = -500, -499  # the first counts, the second does not
    cells = background_cells(ndct)
    assert cells.shape == (2, 3, 4) and cells.dtype == np.uint8
    for s, row, column in np.ndindex(cells.shape):
        region = ndct[s, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert cells[s, row, column] == sum(int(hu) <= -500 for hu in region.ravel())


@pytest.mark.parametrize(
    ("shape", "patch", "stride"), [((3, 40, 56), 16, 8), ((2, 45, 70), 24, 16), ((2, 33, 33), 32, 8)]
)
def test_patches_are_those_that_a_naive_search_finds(shape, patch, stride):
    ndct = some_hu(shape, seed=3)
    expected = []
    starts = [sorted({*range(0, n - patch + 1, stride), (n - patch) // 8 * 8}) for n in shape[1:]]
    for z in range(shape[0]):
        for top in starts[0]:
            for left in starts[1]:
                region = ndct[z, top : top + patch, left : left + patch]
                if (region <= -500).mean() < 0.5:
                    expected.append((z, top, left))
    table = patch_table(background_cells(ndct), shape, patch, stride, 0.5)
    assert [tuple(row) for row in table.tolist()] == expected
    assert 0 < len(expected) < shape[0] * len(starts[0]) * len(starts[1])


def test_paper_patches_of_a_slice():
    """256x256 at a stride of 64 in 512x512: 25 of them."""
    table = patch_table(np.zeros((1, 64, 64), np.uint8), (1, 512, 512), 256, 64, 0.7)
    assert sorted(map(tuple, table.tolist())) == [(0, 64 * i, 64 * j) for i in range(5) for j in range(5)]


@pytest.mark.parametrize("table", ["patch", "slice"])
@pytest.mark.parametrize(("limit", "kept"), [(0.75, []), (0.76, [0])])
def test_share_at_the_limit_is_left_out(table, limit, kept):
    ndct = np.zeros((1, 16, 16), np.int16)
    ndct[0, :12] = -1000  # three quarters
    if table == "patch":
        rows = patch_table(background_cells(ndct), ndct.shape, 16, 8, limit)
    else:
        rows = slice_table(background_cells(ndct), ndct.shape, limit)
    assert rows[:, 0].tolist() == kept
