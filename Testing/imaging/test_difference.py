"""The colours of differences, and the limits they are shown between."""

import numpy as np
import pytest

from ASCONDenoiseLib.imaging.difference import LIMITS_HU, difference_colours, limit_for_spread


def lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB colours (..., 3) from 0 to 1."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16


def test_zero_is_dark_and_neutral_and_both_sides_grow_equally_light():
    up, down = difference_colours(np.linspace(0, 1, 101)), difference_colours(np.linspace(0, -1, 101))
    assert np.ptp(up[0]) == 0 and lightness(up[0]) < 5
    assert (np.diff(lightness(up)) > 0).all() and (np.diff(lightness(down)) > 0).all()
    assert np.abs(lightness(up) - lightness(down)).max() < 3
    assert (up[10:, 0] > up[10:, 2] + 0.05).all()  # red where HU rose
    assert (down[10:, 2] > down[10:, 0] + 0.05).all()  # blue where they fell


def test_beyond_the_limits_the_colours_stay_the_same():
    ends = difference_colours(np.array([[-7, -1], [1, 7]]))
    assert ends.shape == (2, 2, 3)
    np.testing.assert_array_equal(ends[0, 0], ends[0, 1])
    np.testing.assert_array_equal(ends[1, 0], ends[1, 1])


@pytest.mark.parametrize(
    ("spread_hu", "limit_hu"),
    [(0, 5), (1.6, 5), (1.7, 10), (5, 20), (6.7, 50), (16.7, 100), (66, 200), (500, 200), (float("nan"), 200)],
)
def test_three_standard_deviations_fit_in(spread_hu, limit_hu):
    assert limit_for_spread(spread_hu) == limit_hu and limit_hu in LIMITS_HU
