"""Noise whose standard deviation is known, everywhere and place by place."""

from collections import Counter

import numpy as np
import pytest
from anatomy_fixtures import anatomy
from noise_fixtures import noise
from scipy import ndimage

from ASCONDenoiseLib.imaging import noise as measured

SPACING_MM = (0.8, 0.8, 3.0)


@pytest.fixture(scope="module")
def a_scan():
    clean = anatomy()
    return clean, clean + noise(clean.shape, 20)


@pytest.mark.parametrize("window_px", [8, 11])
def test_windows_lie_in_soft_tissue_and_in_the_image(a_scan, window_px):
    clean, noisy = a_scan
    centres = measured.flat_soft_tissue_windows(noisy, SPACING_MM, window_px=window_px)
    assert len(centres) > 100 and set(centres[:, 0]) == {0, 1, 2}
    for s, row, column in centres:
        first, last = np.array([row, column]) - window_px // 2, np.array([row, column]) - window_px // 2 + window_px
        assert (first >= 0).all() and (last <= clean.shape[1]).all()
        assert (clean[s, first[0] : last[0], first[1] : last[1]] == 40).all()


def test_windows_are_not_chosen_by_their_variance(a_scan):
    """Choosing low-variance windows would give less than the true 20 HU: the chosen and the rejected must agree."""
    _, noisy = a_scan
    kept, everything = (measured.flat_soft_tissue_windows(noisy, SPACING_MM, keep=keep) for keep in (0.5, 1.0))
    kept_set = Counter(map(tuple, kept))
    rejected = np.array([centre for centre in everything if tuple(centre) not in kept_set])
    kept_variance, rejected_variance = (measured.window_variance(noisy, c).mean() for c in (kept, rejected))
    assert len(kept) == pytest.approx(len(everything) / 2, rel=0.1)
    assert kept_variance == pytest.approx(rejected_variance, rel=0.04)
    assert kept_variance == pytest.approx(400, rel=0.03)


def test_steep_places_are_rejected():
    """A vessel-like texture in the left half must push the windows to the right half."""
    volume = np.full((1, 128, 128), 45.0)
    volume[0, :, :64] += 25 * np.sin(np.arange(128) / 3)[:, None]
    centres = measured.flat_soft_tissue_windows(volume + noise(volume.shape, 10), SPACING_MM)
    assert len(centres) > 30 and (centres[:, 2] >= 60).all()


def test_window_variance_is_that_of_a_least_squares_plane():
    volume = noise((2, 30, 40), 15, seed=3) + 7 * np.arange(40) + 3 * np.arange(30)[:, None]
    centres = np.array([[1, 5, 5], [0, 24, 34], [1, 10, 20]])
    rows, columns = np.mgrid[:11, :11]
    design = np.stack([np.ones(121), rows.ravel(), columns.ravel()], axis=1)
    for (s, row, column), variance in zip(centres, measured.window_variance(volume, centres), strict=True):
        window = volume[s, row - 5 : row + 6, column - 5 : column + 6].ravel()
        residual = window - design @ np.linalg.lstsq(design, window, rcond=None)[0]
        assert variance == pytest.approx((residual**2).sum() / 118, rel=1e-9)


@pytest.mark.parametrize("kernel", [None, 0.18, 0.25])
def test_the_same_windows_give_the_ratio_of_two_noises(kernel):
    """What a dose calibration asks: windows found in one image, noise of the same texture in another."""
    clean = anatomy(slices=16, side=256)
    normal = clean + noise(clean.shape, 12, seed=1, kernel=kernel)
    inserted = noise(clean.shape, 30, seed=2, kernel=kernel)
    centres = measured.flat_soft_tissue_windows(normal, SPACING_MM)
    ratio = np.median(measured.window_variance(inserted, centres)) / np.median(
        measured.window_variance(normal, centres)
    )
    assert ratio == pytest.approx((30 / 12) ** 2, rel=0.025)


@pytest.mark.parametrize("sd_hu", [5, 20, 50])
@pytest.mark.parametrize(("kernel", "tolerance"), [(None, 0.03), (0.25, 0.03), (0.18, 0.07)])
def test_noise_of_known_deviation(sd_hu, kernel, tolerance):
    clean = anatomy()
    found = measured.noise_hu((clean + noise(clean.shape, sd_hu, seed=5, kernel=kernel)).astype(np.int16), SPACING_MM)
    assert found.sd_hu == pytest.approx(sd_hu, rel=tolerance)


def test_noise_is_none_without_soft_tissue_and_water_has_its_own_range():
    water = noise((2, 96, 96), 10)
    assert measured.noise_hu(water - 1000, SPACING_MM) is None
    assert measured.noise_hu(water - 40, SPACING_MM) is None
    assert measured.noise_hu(water, SPACING_MM, tissue_hu=(-20, 20)).sd_hu == pytest.approx(10, rel=0.04)
    assert measured.noise_hu(np.full((1, 8, 8), 40), SPACING_MM) is None  # smaller than one window
    with pytest.raises(ValueError, match="slices, rows, columns"):
        measured.noise_hu(water[0], SPACING_MM)


def test_the_map_shows_the_noise_of_each_place(a_scan):
    """Noise that grows from left to right: the map follows it, and edges leave no trace in it."""
    clean, _ = a_scan
    level = np.linspace(10, 40, clean.shape[2])
    found = measured.noise_map_hu(clean + level * noise(clean.shape, 1, seed=3), SPACING_MM)
    known = np.isfinite(found)
    assert known[clean == 40].mean() > 0.7 and not known[:, :3].any()  # air has none
    ratio = found / level
    assert np.median(ratio[known]) == pytest.approx(1, rel=0.02)
    assert ratio[known].std() == pytest.approx(1 / np.sqrt(2 * 63), rel=0.3)  # 8 x 8 pixels
    assert np.quantile(ratio[known], 0.999) < 1.5  # an edge of 140 HU would give 3 or more
    for left, right in ((30, 60), (90, 110), (130, 160)):
        part = ratio[:, :, left:right][known[:, :, left:right]]
        assert part.mean() == pytest.approx(1, rel=0.03)


def test_the_map_is_that_of_a_naive_loop():
    volume = 40 + noise((1, 30, 34), 15, seed=4)
    found = measured.noise_map_hu(volume, (1.2, 1.0, 3.0), window_mm=5)  # 5 rows, 4 columns
    for row, column in ((10, 12), (20, 25)):
        window = volume[0, row - 2 : row + 3, column - 2 : column + 2]
        assert found[0, row, column] == pytest.approx(window.std(ddof=1), rel=1e-5)


def test_volumes_are_compared_with_the_edges_of_one_of_them(a_scan):
    clean, noisy = a_scan
    maps = [measured.noise_map_hu(v, SPACING_MM, guide_hu=noisy) for v in (noisy, clean + (noisy - clean) / 2)]
    assert np.array_equal(np.isfinite(maps[0]), np.isfinite(maps[1]))
    inside = np.isfinite(maps[0]) & (ndimage.minimum_filter(clean, 15) == ndimage.maximum_filter(clean, 15))
    assert maps[1][inside] == pytest.approx(maps[0][inside] / 2, rel=1e-4)
    with pytest.raises(ValueError, match="differ in shape"):
        measured.noise_map_hu(noisy, SPACING_MM, guide_hu=noisy[:1])


@pytest.mark.parametrize("kernel", [None, 0.25])
def test_the_global_noise_level_is_the_usual_one(kernel):
    """A sixth of the body has three times the noise: the mode forgets it, a mean would not."""
    clean = anatomy()
    level = np.where(np.arange(192) < 48, 60, 20)[:, None]
    noisy = clean + level * noise(clean.shape, 1, seed=6, kernel=kernel)
    found = measured.global_noise_hu(measured.noise_map_hu(noisy, SPACING_MM), clean)
    assert found == pytest.approx(20, rel=0.06)
    assert np.isnan(measured.global_noise_hu(np.full((1, 4, 4), np.nan), np.zeros((1, 4, 4))))
