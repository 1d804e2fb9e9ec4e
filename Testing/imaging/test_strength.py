"""The noise that each strength leaves, known without blending; the strength for a target."""

import numpy as np
import pytest
from noise_fixtures import noise

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows, noise_hu
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.imaging.strength import TARGETS, NoiseByStrength, Target, noise_by_strength

SPACING_MM = (0.8, 0.8, 3.0)


def a_scan_and_its_result(dtype="float32", shape=(3, 128, 128), keeps=0.2, adds_hu=3.0):
    """Noise of 30 HU in soft tissue; the result keeps a part of it and has some of its own, of another texture."""
    y, x = np.mgrid[: shape[1], : shape[2]]
    anatomy = 45 + 10 * np.sin(x / 20) + 8 * np.cos(y / 25)
    found = noise(shape, 30.0, seed=1, kernel=0.25)
    before = anatomy + found
    after = anatomy + keeps * found + noise(shape, adds_hu, seed=2, kernel=0.1)
    images = [np.rint(image) if dtype == "int16" else image for image in (before, after)]
    return [image.astype(dtype) for image in images]


@pytest.mark.parametrize(("dtype", "tolerance_hu"), [("float32", 1e-3), ("int16", 0.15)])
def test_what_is_predicted_is_what_is_measured(dtype, tolerance_hu):
    """Integers are rounded after blending: x + 0.99 (y - x) is y wherever the two are less than 50 HU apart."""
    before, after = a_scan_and_its_result(dtype)
    predicted = noise_by_strength(before, after, SPACING_MM)
    centres = flat_soft_tissue_windows(before.astype(np.float32), SPACING_MM)
    assert len(centres) > 100
    for strength in (0, 0.1, 0.37, 0.5, 0.75, 0.99, 1):
        measured = noise_hu(blend(before, after, strength), SPACING_MM, centres=centres)
        assert predicted.at(strength) == pytest.approx(measured.sd_hu, abs=tolerance_hu)


def test_against_the_closed_form():
    """Uncorrelated parts: SD^2 = (1 - s + s keeps)^2 30^2 + s^2 adds^2."""
    predicted = noise_by_strength(*a_scan_and_its_result(), SPACING_MM)
    one = predicted.at(0)
    assert one == pytest.approx(30, rel=0.1)  # each window is less its plane
    for strength in (0.25, 0.5, 0.75):
        expected = one * (1 - 0.8 * strength)
        assert predicted.at(strength) == pytest.approx(expected, rel=0.02)


def test_noise_that_a_strong_result_brings_in():
    """A result with more noise of its own than it removes: the least noise is in between."""
    predicted = noise_by_strength(*a_scan_and_its_result(keeps=0.0, adds_hu=30.0), SPACING_MM)
    assert predicted.at(0.5) < 0.8 * min(predicted.at(0), predicted.at(1))
    assert 0.3 < predicted.strength_for(0.0) < 0.7


def test_the_strength_for_a_target():
    linear = NoiseByStrength(tuple(np.linspace(32, 8, 101)))
    assert Target("all").strength(linear) == (1.0, "")
    assert Target("half-noise").strength(linear) == (0.67, "")
    assert Target("normal-dose", 0.25).strength(linear) == (0.67, "")  # a quarter of the dose has twice the noise
    assert Target("normal-dose", 1.0).strength(linear) == (0.0, "")
    strength, note = Target("normal-dose", 0.04).strength(linear)
    assert strength == 1.0 and "is 6.4 HU, and the model leaves 8.0 HU at least" in note
    for name in TARGETS[1:]:
        strength, note = Target(name, 0.5).strength(None)
        assert strength == 1.0 and "no flat soft tissue" in note
    assert Target("all").strength(None) == (1.0, "")


@pytest.mark.parametrize(
    ("name", "dose", "words"),
    [
        ("normal-dose", None, "the dose of this scan must be known"),
        ("normal-dose", 0.0, "above 0 and up to 1; got 0"),
        ("normal-dose", 1.5, "got 1.5"),
        ("some", None, 'no target "some"'),
    ],
)
def test_targets_that_cannot_be(name, dose, words):
    with pytest.raises(InputError, match=words):
        Target(name, dose)


def test_no_soft_tissue_no_prediction():
    air = np.full((2, 64, 64), -1000, np.int16)
    assert noise_by_strength(air, air, SPACING_MM) is None
