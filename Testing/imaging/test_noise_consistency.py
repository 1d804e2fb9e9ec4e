"""Noise is told from structure: in pure noise as rarely as promised, and discs that were removed or added are found."""

import json

import numpy as np
import pytest
from noise_fixtures import noise
from scipy import ndimage, special, stats

from ASCONDenoiseLib.imaging import noise_consistency as consistency

SPACING_MM = (0.8, 0.8, 3.0)
SHAPE = (6, 128, 128)


def body(contrast_hu=0.0, diameter_mm=10.0):
    """A round body of 50 HU with fat and bone in it, and a disc in slices 2 to 4 at row 40, column 70."""
    rows, columns = np.mgrid[:128, :128]
    image = np.where(np.hypot(rows - 64, 0.8 * (columns - 64)) < 58, 50.0, -1000.0)
    image[np.hypot(rows - 80, columns - 50) < 9] = -100
    image[np.hypot(rows - 80, columns - 80) < 7] = 500
    volume = np.repeat(image[None], SHAPE[0], axis=0)
    disc = 0.5 + 0.5 * special.erf((diameter_mm / 2 - 0.8 * np.hypot(rows - 40, columns - 70)) / 0.9)
    volume[2:5] += contrast_hu * disc
    return volume


def noise_of(seed, kernel=0.25, correlated=False):
    """Noise that grows from left to right by a factor of 2.6, as in a patient that lies off-centre."""
    e = noise((SHAPE[0] + 2, *SHAPE[1:]), 20, seed=seed, kernel=kernel)
    e = (e[:-2] + 1.5 * e[1:-1] + e[2:]) / 2 if correlated else e[2:]
    return e * np.linspace(0.6, 1.6, SHAPE[2])


@pytest.mark.parametrize(("kernel", "correlated"), [(0.25, False), (None, False), (0.18, True)])
def test_pure_noise_has_the_peaks_that_the_theory_gives(kernel, correlated):
    """Above each of three heights, all scales together. 5 % too little noise would change the counts by a third."""
    heights, clean = np.array([3.5, 3.8, 4.1]), body()
    seen, expected = np.zeros(3), np.zeros(3)
    for seed in range(8):
        removed = noise_of(seed, kernel, correlated).astype(np.float32)
        flat, patient = consistency._masks(clean, removed, SPACING_MM)
        for layer in consistency._layers(removed, flat, patient, SPACING_MM):
            z = np.abs(consistency._peaks(layer)[:, 5])
            seen += [(z > height).sum() for height in heights]
            expected += np.interp(heights, consistency.HEIGHTS, consistency._null_peaks(layer))
    assert expected[0] > 150
    for number, wanted in zip(seen, expected, strict=True):
        assert abs(number - wanted) < 0.12 * wanted + 3 * np.sqrt(wanted), (seen, expected)


def test_pure_noise_rarely_has_a_place():
    """5 % of volumes: 6 or more of 24 come once in 800 times, and that is with fixed seeds."""
    clean = body()
    found = sum(bool(consistency.measure(clean + noise_of(seed), clean, SPACING_MM).places) for seed in range(100, 124))
    assert found <= 5


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("removed", [True, False])
def test_a_disc_that_is_taken_away_or_added_is_found(sign, removed):
    contrast = 25.0 * sign
    with_disc, without = body(contrast), body()
    before = (with_disc if removed else without) + noise_of(3)
    after = (without if removed else with_disc) + 0.3 * noise_of(4)
    found = consistency.measure(before, after, SPACING_MM)
    first = found.places[0]
    assert np.hypot(first.row - 40, first.column - 70) * 0.8 < 2.5 and 2 <= first.slice_index <= 4
    assert 6 <= first.diameter_mm <= 13
    assert first.contrast_hu == pytest.approx(contrast if removed else -contrast, rel=0.3)
    assert np.sign(first.z) == np.sign(first.contrast_hu) and abs(first.z) >= found.threshold_z
    assert first.tissue == "soft tissue"
    assert abs(found.z[3, 40, 70]) > 0.9 * abs(first.z)
    assert len(found.places) <= 2  # the disc, and at most one false one
    assert json.loads(json.dumps(found.to_dict()))["places"][0]["row"] == first.row


def test_a_disc_below_the_noise_is_not_found():
    found = consistency.measure(body(2.0, 4.0) + noise_of(3), body(), SPACING_MM)
    assert not found.places and found.threshold_z == np.inf and found.to_dict()["threshold_z"] is None
    assert found.z.shape == SHAPE and found.z.dtype == np.float32
    assert not found.z[:, 0].any() and 3 < np.abs(found.z).max() < 5.5  # air has none


def test_a_blur_is_caught_at_edges():
    before = body() + noise_of(5)
    found = consistency.measure(before, ndimage.gaussian_filter(before, (0, 1.2, 1.2)), SPACING_MM)
    assert len(found.places) > 10
    assert np.mean([place.at_edge for place in found.places]) > 0.9
    assert any(np.hypot(p.row - 80, p.column - 80) < 12 for p in found.places)  # the bone


def test_what_was_left_alone_is_no_noise_and_no_place():
    clean = body()
    assert not consistency.measure(clean, clean, SPACING_MM).places
    half = clean + noise_of(6)
    output = half.copy()
    output[:, :, 64:] = clean[:, :, 64:]  # nothing was done to the left half
    found = consistency.measure(half, output, SPACING_MM)
    assert not [place for place in found.places if place.column < 60]


def test_one_slice_is_enough():
    found = consistency.measure((body(60.0) + noise_of(7))[3:4], body()[3:4], SPACING_MM)
    assert found.places and np.hypot(found.places[0].row - 40, found.places[0].column - 70) < 4


def test_higher_than_both_neighbours_in_closed_form():
    heights = np.array([1.0, 3.0, 5.0])
    independent = consistency._above_both(heights, 0.0)
    assert independent == pytest.approx(special.ndtr(heights) ** 2, abs=1e-6)
    rng = np.random.default_rng(0)
    for correlation in (0.5, 0.9):  # three points whose correlations fall as a Gaussian's do
        wide = correlation**4
        matrix = np.array([[1, correlation, wide], [correlation, 1, correlation], [wide, correlation, 1]])
        x = rng.multivariate_normal(np.zeros(3), matrix, 1_500_000)
        near = np.abs(x[:, 1] - 1.0) < 0.05
        share = (x[near, 1] > np.maximum(x[near, 0], x[near, 2])).mean()
        assert consistency._above_both(heights[:1], correlation)[0] == pytest.approx(share, abs=0.02)


def test_students_t_becomes_normal():
    t = np.array([-6.0, -2.0, 0.5, 4.0, 6.0], np.float32)
    for freedom in (30, 200, 3000):
        wanted = special.ndtri(stats.t.cdf(-np.abs(t), freedom))
        assert consistency._normal(t, freedom) == pytest.approx(np.sign(t) * np.abs(wanted), rel=0.01)


def test_the_end_slices_of_mirrored_noise_have_more_of_it():
    e = noise((9, 200, 200), 1.0, seed=1)
    measured = ndimage.gaussian_filter1d(e, 1.5, axis=0, truncate=3.5).std(axis=(1, 2))
    assert consistency._end_slices(9, 1.5, 0.0) == pytest.approx(measured / measured[4], rel=0.03)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        consistency.measure(body(), body()[:2], SPACING_MM)
    with pytest.raises(ValueError, match="between 0 and 1"):
        consistency.measure(body(), body(), SPACING_MM, rate=1.5)
