"""Transfer functions of edges whose blur is known in closed form."""

import numpy as np
import pytest
from noise_fixtures import noise
from scipy.special import erf

from ASCONDenoiseLib.imaging.transfer import LEAST_CNR, ttf_of_edge, ttf_of_insert

SPACING_MM = (0.7, 0.7, 3.0)


def straight(sigmas_mm, shares, angle_deg=5.0, contrast_hu=300.0):
    """An edge blurred by a sum of Gaussians: its TTF is the same sum of exp(-2 (pi sigma f)^2)."""
    rows, columns = np.mgrid[:96, :96]
    angle = np.radians(angle_deg)
    d = ((columns - 47.6) * np.cos(angle) + (rows - 48.3) * np.sin(angle)) * 0.7
    parts = (w * (1 + erf(d / (s * np.sqrt(2)))) / 2 for s, w in zip(sigmas_mm, shares, strict=True))
    return -50 + contrast_hu * sum(parts)


def insert(sigma_mm, radius_mm=16.0):
    rows, columns = np.mgrid[:96, :96]
    r = np.hypot(rows - 46.4, columns - 48.8) * 0.7
    return 50 + 100 * (1 - erf((r - radius_mm) / (sigma_mm * np.sqrt(2))))


def gaussian_ttf(frequency, sigma_mm):
    return np.exp(-2 * (np.pi * sigma_mm * np.asarray(frequency)) ** 2)


ACROSS = (48, 20), (48, 76)


@pytest.mark.parametrize("sigma_mm", [0.6, 0.9, 1.6])
@pytest.mark.parametrize("shape", ["edge", "insert"])
def test_a_gaussian_blur(sigma_mm, shape):
    if shape == "edge":
        found = ttf_of_edge(straight([sigma_mm], [1.0]), SPACING_MM, *ACROSS)
        assert found.contrast_hu == pytest.approx(300, rel=1e-3)
    else:
        found = ttf_of_insert(insert(sigma_mm), SPACING_MM, (47, 48), 15.0)
        assert found.contrast_hu == pytest.approx(200, rel=1e-3)
    assert found.frequency[-1] == pytest.approx(0.5 / 0.7) and found.ttf[0] == 1
    assert np.array(found.ttf) == pytest.approx(gaussian_ttf(found.frequency, sigma_mm), abs=0.015)
    assert found.ttf50 == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * sigma_mm), rel=0.02)
    if sigma_mm > 0.6:  # else it lies beyond the pixels' own frequencies
        assert found.ttf10 == pytest.approx(np.sqrt(np.log(10) / 2) / (np.pi * sigma_mm), rel=0.02)
    assert found.width_mm == pytest.approx(2.563 * sigma_mm, rel=1e-3)


def test_a_blur_that_is_not_gaussian():
    """Half sharp, half smeared: the fit of one error function cannot show that, the TTF does."""
    found = ttf_of_edge(straight([0.6, 2.0], [0.6, 0.4]), SPACING_MM, (48, 8), (48, 88))
    wanted = 0.6 * gaussian_ttf(found.frequency, 0.6) + 0.4 * gaussian_ttf(found.frequency, 2.0)
    assert np.array(found.ttf) == pytest.approx(wanted, abs=0.03)


def test_slices_are_averaged_and_noise_shows_in_the_cnr():
    clean = straight([0.9], [1.0], contrast_hu=100)
    slices = clean + noise((64, *clean.shape), 20, seed=2)
    one, all_of_them = (ttf_of_edge(v, SPACING_MM, *ACROSS) for v in (slices[0], slices))
    assert one.cnr == pytest.approx(100 / 20, rel=0.1) and one.cnr < LEAST_CNR
    assert all_of_them.cnr == pytest.approx(100 / 20 * 8, rel=0.1)
    assert all_of_them.ttf50 == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * 0.9), rel=0.06)


def test_a_sharp_edge_never_falls_and_a_narrow_region_is_refused():
    rows, columns = np.mgrid[:64, :64]
    sharp = np.where((columns - 32.2) + 0.1 * (rows - 32) > 0, 100.0, 0.0)
    assert ttf_of_edge(sharp, SPACING_MM, (32, 12), (32, 52)).ttf10 is None
    with pytest.raises(ValueError, match="larger one"):
        ttf_of_edge(straight([3.0], [1.0]), SPACING_MM, (48, 38), (48, 58))
