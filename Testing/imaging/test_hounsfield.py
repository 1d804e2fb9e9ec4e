"""The units, and what counts as padding."""

import numpy as np
import pytest

from ASCONDenoiseLib.imaging import hounsfield


@pytest.mark.parametrize(("hu", "unit"), [(-1000, 0.0), (2000, 1.0), (500, 0.5), (-2500, -0.5)])
def test_unit_range(hu, unit):
    assert hounsfield.to_unit(hu) == unit
    assert hounsfield.to_hu(unit) == hu


def test_clip_to_window():
    assert hounsfield.clip_to_window(np.array([-3024, -1000, 40, 2000, 3071])).tolist() == [
        -1000,
        -1000,
        40,
        2000,
        2000,
    ]


def test_gray_levels_of_a_display_window():
    hu = np.array([-500, -160, 40, 240, 3000])
    assert hounsfield.to_gray(hu, hounsfield.DISPLAY_WINDOWS_HU["abdomen"]).tolist() == [0, 0, 128, 255, 255]


def a_slice(seed=0, air_hu=-1000.0, sd_hu=20.0):
    """Noisy air around a disc of tissue: (96, 96) int16."""
    y, x = np.mgrid[:96, :96] - 47.5
    image = np.where(np.hypot(x, y) < 30, 40.0, air_hu)
    return np.rint(image + np.random.default_rng(seed).normal(0, sd_hu, image.shape)).astype(np.int16)


def test_noisy_air_is_not_padding():
    image = a_slice()
    assert (image <= -1024).sum() > 500
    assert hounsfield.padding_mask(image).sum() < 5


@pytest.mark.parametrize("value", [-1024, -2048, -3024, -32768])
def test_padding_beside_noisy_air_is_padding(value):
    image = a_slice()
    y, x = np.mgrid[:96, :96] - 47.5
    outside = np.hypot(x, y) > 44
    image[outside] = value
    assert hounsfield.padding_mask(image)[outside].all()
    assert not hounsfield.padding_mask(image)[np.hypot(x, y) < 38].any()


def test_the_edge_of_padding_is_padding():
    """Corners outside a scan circle, in a thin ring of air: many of their voxels have mostly air around them."""
    image = a_slice()
    y, x = np.mgrid[:96, :96] - 47.5
    for radius in (46, 50, 55, 60, 64):
        padded = image.copy()
        padded[np.hypot(x, y) > radius] = -1024
        inner = np.hypot(x, y) > radius
        assert hounsfield.padding_mask(padded)[inner].mean() > 0.98


def test_single_voxels_of_padding_in_tissue_are_padding():
    image = np.full((20, 30), 40, np.int16)
    image[3, 4] = image[0, 0] = -1024
    image[10, 10] = -2000
    expected = image < 0
    assert (hounsfield.padding_mask(image) == expected).all()


def test_named_padding_value():
    image = np.full((5, 5), -999, np.int16)
    image[2, 2] = 40
    assert not hounsfield.padding_mask(image).any()
    assert (hounsfield.padding_mask(image, -999.0) == (image == -999)).all()


def test_a_range_of_padding_values():
    image = np.arange(-1000, -900, dtype=np.int16).reshape(10, 10)
    assert (hounsfield.padding_mask(image, (-980.0, -950.0)) == ((image >= -980) & (image <= -950))).all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_padding_against_a_naive_loop(dtype):
    image = a_slice(seed=1, sd_hu=60.0).astype(dtype)
    image[:20, :20] = -1024
    image[50, 50] = image[5, 60] = -1400
    around, found = np.pad(image, 3, mode="edge"), hounsfield.padding_mask(image)
    assert found[:20, :20].all() and 400 < found.sum() < 1000
    for row, column in np.ndindex(image.shape):
        value = image[row, column]
        window = around[row : row + 7, column : column + 7]
        alike = (window[2:5, 2:5] == value).sum() - 1
        noise = value > -1500 and alike < 2 and -1016 < np.median(window) < -900
        assert found[row, column] == (value <= -1024 and not noise)


def test_a_floor_of_minus_1024_is_kept_as_before():
    """Air that a scanner has cut off at -1024 stays what it is."""
    image = np.full((30, 30), -1024, np.int16)
    assert hounsfield.padding_mask(image).all()
