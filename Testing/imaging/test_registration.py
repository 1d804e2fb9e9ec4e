"""Whether two volumes show one anatomy at one place: noise of any dose is no misfit, a shift is one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from ASCONDenoiseLib.imaging.registration import misfit
from ASCONDenoiseLib.physics.phantoms import abdomen, chest

SHAPE, SPACING_MM = (6, 160, 160), (2.4, 2.4, 8.0)


def noise(sd: float, shape=SHAPE, seed=0) -> np.ndarray:
    """As reconstructions have it: of neighbours alike."""
    white = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (0, 0.7, 0.7))
    return sd * white / white.std()


@pytest.fixture(scope="module")
def an_abdomen() -> np.ndarray:
    return abdomen(3, SHAPE, SPACING_MM).voxels_hu + noise(10, seed=9)


@pytest.mark.parametrize("sd", [0, 20, 80, 300, 1000])
def test_noise_is_no_misfit(an_abdomen, sd):
    low = np.clip(an_abdomen + noise(sd), -1024, 3071)
    assert misfit(an_abdomen, low) is None
    assert misfit(low, an_abdomen) is None
    assert misfit(an_abdomen, ndimage.gaussian_filter(low, (0, 1, 1))) is None  # a denoised one, or a softer kernel


def test_nothing_is_said_of_noise_alone_nor_of_what_is_too_small(an_abdomen):
    assert misfit(noise(30), noise(30, seed=1)) is None
    assert misfit(noise(700), noise(700, seed=1)) is None
    assert misfit(np.full(SHAPE, -1000), np.zeros(SHAPE)) is None
    assert misfit(an_abdomen[:, :24, :24], an_abdomen[:, 24:48, :24]) is None


@pytest.mark.parametrize("sd", [20, 150])
@pytest.mark.parametrize(
    ("shift", "words", "grave"),
    [
        ((0, 1), "1 column", False),
        ((-2, 0), "2 rows", False),
        ((0, 15), "15 columns", True),
        ((4, -9), "4 rows and 9 columns", True),
    ],
)
def test_a_shift_is_measured(an_abdomen, sd, shift, words, grave):
    found = misfit(an_abdomen, np.roll(an_abdomen + noise(sd), shift, axis=(1, 2)))
    assert found is not None and found.text.endswith(f"shifted by {words}") and found.grave == grave


def test_another_patient_a_mirrored_and_a_turned_one_are_told(an_abdomen):
    other = chest(8, SHAPE, SPACING_MM).voxels_hu + noise(20)
    for low in (other, an_abdomen[:, ::-1], np.rot90(an_abdomen, axes=(1, 2))):
        found = misfit(an_abdomen, low)
        assert found is not None


def test_slices_in_reverse_are_told():
    volume = np.concatenate([abdomen(3, SHAPE, SPACING_MM).voxels_hu[:3], chest(3, SHAPE, SPACING_MM).voxels_hu[:3]])
    found = misfit(volume, (volume + noise(20))[::-1])
    assert found is not None


def test_real_scans_and_their_low_dose_fit():
    data = os.environ.get("ASCON_TEST_DATA")
    if not data:
        pytest.skip("ASCON_TEST_DATA names no folder with real CT")
    from ASCONDenoiseLib.io.reading import read_volume

    for path in sorted(Path(data, "validation").glob("*.nii*")):
        ndct = read_volume(path).voxels[:12]
        ldct = np.clip(ndct + noise(60, ndct.shape), -1024, 3071)
        assert misfit(ndct, ldct) is None, path.name
        assert misfit(ndct, np.roll(ldct, 15, axis=2)) is not None, path.name
