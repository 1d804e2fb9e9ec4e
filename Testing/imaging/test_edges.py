"""Widths of edges that are known."""

import numpy as np
import pytest
from noise_fixtures import noise
from scipy import ndimage
from scipy.special import erf

from ASCONDenoiseLib.imaging.edges import circular_edge_width_mm, edge_width_mm, fit_line, line_profile

SPACING_MM = (0.8, 0.8, 3.0)


def insert(spacing_mm, radius_mm, sigma_mm, contrast_hu=200.0, side=96):
    """A round insert off the pixel grid, whose edge is an error function of the radius."""
    x, y, _ = spacing_mm
    rows, columns = np.mgrid[:side, :side]
    r = np.hypot((rows - 46.4) * y, (columns - 48.8) * x)
    return 50 + contrast_hu * 0.5 * (1 - erf((r - radius_mm) / (sigma_mm * np.sqrt(2))))


@pytest.mark.parametrize("sigma_mm", [0.4, 0.8, 1.5])
@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 2.0), (0.9, 0.6, 2.0)])
@pytest.mark.parametrize("contrast_hu", [200.0, -150.0])
def test_circular_edge_of_known_width(sigma_mm, spacing_mm, contrast_hu):
    image = insert(spacing_mm, 12.0, sigma_mm, contrast_hu)
    guess_px = (47.5, 47.5)  # about a pixel off: the centre is fitted
    assert circular_edge_width_mm(image, spacing_mm, guess_px, 11.0) == pytest.approx(2.563 * sigma_mm, rel=0.01)
    noisy = image + noise((1, *image.shape), 25, seed=4)[0]
    assert circular_edge_width_mm(noisy, spacing_mm, guess_px, 11.0) == pytest.approx(2.563 * sigma_mm, rel=0.15)


def test_a_blurred_insert_is_wider_by_the_blur():
    spacing_mm = (0.7, 0.7, 2.0)
    image = ndimage.gaussian_filter(insert(spacing_mm, 12.0, 0.8), 1.0 / 0.7)  # 0.8 and 1.0 mm add in quadrature
    width = circular_edge_width_mm(image, spacing_mm, (46, 49), 12.0)
    assert width == pytest.approx(2.563 * np.hypot(0.8, 1.0), rel=0.03)


@pytest.mark.parametrize("sign", [1, -1])
def test_edge_along_a_line(sign):
    distance = np.arange(40) * 0.6
    values = sign * 300 * erf((distance - 9.3) / (1.1 * np.sqrt(2)))
    assert edge_width_mm(distance, values) == pytest.approx(2.563 * 1.1, rel=1e-3)
    assert edge_width_mm(distance[::-1], values[::-1]) == pytest.approx(2.563 * 1.1, rel=1e-3)


def test_no_edge_is_an_error_not_a_number():
    flat = noise((1, 96, 96), 30)[0]
    with pytest.raises(ValueError, match="No edge"):
        circular_edge_width_mm(flat, SPACING_MM, (48, 48), 10)
    with pytest.raises(ValueError, match="No edge"):
        edge_width_mm(np.arange(20), np.full(20, 7.0))
    with pytest.raises(ValueError, match="too few pixels"):
        circular_edge_width_mm(flat, SPACING_MM, (48, 48), 1)
    with pytest.raises(ValueError, match="6 points"):
        edge_width_mm(np.arange(4), np.arange(4))


@pytest.mark.parametrize("angle_deg", [0, 7, 30, 90, 200])
@pytest.mark.parametrize("askew_deg", [0, 12])
def test_a_straight_edge_of_known_width_that_a_line_crosses_askew(angle_deg, askew_deg):
    spacing_mm, sigma_mm = (0.7, 0.9, 3.0), 0.9
    rows, columns = np.mgrid[:80, :96]
    y, x = (rows - 40.3) * 0.9, (columns - 48.2) * 0.7
    angle = np.radians(angle_deg)
    image = 40 + 75 * (1 + erf((x * np.cos(angle) + y * np.sin(angle)) / (sigma_mm * np.sqrt(2))))
    line = np.radians(angle_deg + askew_deg)
    ends = [(40.3 + k * 12 * np.sin(line) / 0.9, 48.2 + k * 12 * np.cos(line) / 0.7) for k in (-1, 1)]
    found = fit_line(image, spacing_mm, *ends)
    assert found.width_mm == pytest.approx(2.563 * sigma_mm, rel=1e-3)
    assert (found.low_hu, found.high_hu) == pytest.approx((40, 190), rel=1e-4)
    noisy = fit_line(image + noise((1, *image.shape), 8, seed=1)[0], spacing_mm, *ends)
    assert noisy.width_mm == pytest.approx(2.563 * sigma_mm, rel=0.12)
    assert noisy.noise_hu == pytest.approx(8, rel=0.1)


def test_a_profile_reads_what_lies_along_the_line():
    rows, columns = np.mgrid[:60, :60]
    image = 3.0 * rows - 2.0 * columns  # cubic splines keep planes
    along, values = line_profile(image, (0.5, 1.0, 3.0), (10, 50), (40, 20), lateral_mm=2.0)
    assert along[-1] == pytest.approx(np.hypot(30, 15)) and np.diff(along) == pytest.approx(0.25, rel=0.01)
    assert values == pytest.approx(np.linspace(30 - 100, 120 - 40, len(along)), abs=0.01)
    across = line_profile(np.where(rows < 30, 0.0, 100.0), (1, 1, 1), (10, 30), (50, 30))[1]
    assert across[0] == pytest.approx(0, abs=1e-3) and across[-1] == pytest.approx(100, abs=1e-3)
    with pytest.raises(ValueError, match="no length"):
        line_profile(image, (1, 1, 1), (4, 4), (4, 4))


def test_lines_that_are_too_short_or_outside_are_refused():
    with pytest.raises(ValueError, match="shorter than 4 pixels"):
        fit_line(np.zeros((40, 40)), SPACING_MM, (10, 10), (12, 10))
    with pytest.raises(ValueError, match="too few pixels"):
        fit_line(np.zeros((40, 40)), SPACING_MM, (100, 100), (120, 100))
