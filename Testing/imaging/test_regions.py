"""Regions of interest whose numbers are known."""

import numpy as np
import pytest
from noise_fixtures import noise

from ASCONDenoiseLib.imaging.regions import lesion_and_background, region


def test_a_lesion_before_and_after():
    rows, columns = np.mgrid[:64, :64]
    lesion, background = (np.hypot(rows - 20, columns - c) < 9 for c in (20, 44))
    clean = 50.0 + 30 * lesion
    before = clean + noise((1, 64, 64), 10, seed=1)[0]
    after = 50.0 + 24 * lesion + (before - clean) / 2
    found = lesion_and_background({"LDCT": before, "denoised": after}, lesion, background)
    inside, outside = before[lesion], before[background]
    assert found["LDCT"].lesion.mean_hu == pytest.approx(inside.mean()) and found["LDCT"].contrast_kept is None
    assert found["LDCT"].lesion.sd_hu == pytest.approx(inside.std(ddof=1))
    assert found["LDCT"].contrast_hu == pytest.approx(inside.mean() - outside.mean())
    cnr = abs(inside.mean() - outside.mean()) / np.sqrt((inside.var(ddof=1) + outside.var(ddof=1)) / 2)
    assert found["LDCT"].cnr == pytest.approx(cnr)
    change = (after[lesion].mean() - after[background].mean()) / found["LDCT"].contrast_hu
    assert found["denoised"].contrast_kept == pytest.approx(change) and change == pytest.approx(0.8, abs=0.05)
    assert found["denoised"].cnr == pytest.approx(1.6 * cnr, rel=0.1)


def test_without_noise_there_is_no_ratio_and_without_voxels_no_region():
    flat = np.zeros((8, 8))
    upper = np.arange(64).reshape(8, 8) < 32
    assert lesion_and_background({"a": flat, "b": flat}, upper, ~upper)["b"].cnr is None
    assert lesion_and_background({"a": flat, "b": flat}, upper, ~upper)["b"].contrast_kept is None
    assert region(flat, upper).voxels == 32 and region(flat, np.arange(64).reshape(8, 8) == 3).sd_hu == 0
    for mask in (np.zeros((8, 8)), np.ones((4, 8))):
        with pytest.raises(ValueError, match="at least one voxel"):
            region(flat, mask)
