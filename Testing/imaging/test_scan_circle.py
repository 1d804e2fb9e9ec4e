"""The body continued beyond the border of the scan circle."""

import numpy as np
import pytest

from ASCONDenoiseLib.imaging.hounsfield import padding_mask
from ASCONDenoiseLib.imaging.scan_circle import REACH_PX, continued, mirror


def a_cut_disc(radius_px=30, cut_px=20, padding_hu=-2048, body_hu=40):
    """(96, 80) int16: a noisy body cut by a circle; and where it is padding."""
    y, x = np.mgrid[:96, :80].astype(float)
    r = np.hypot(y - 47, x - 40)
    image = np.where(r <= radius_px, body_hu, -1000) + np.random.default_rng(0).normal(0, 20, r.shape)
    outside = r > cut_px
    return np.where(outside, padding_hu, np.rint(image)).astype(np.int16), outside


@pytest.mark.parametrize("padding_hu", [-1024, -2048, -3024])
def test_against_a_naive_loop(padding_hu):
    image, outside = a_cut_disc(padding_hu=padding_hu)
    padding = padding_mask(image)
    assert (padding == outside).all()
    found = continued(image, padding)
    scan = np.argwhere(~padding)
    for p in np.argwhere(padding):
        distance = np.hypot(*(scan - p).T)
        least = distance.min()
        expected = set()
        for q in scan[distance == least]:  # where several are as near, any of them will do
            j = q + np.rint((q - p) - (q - p) / least).astype(int)
            expected.add(image[tuple(q)] if padding[tuple(j)] else image[tuple(j)])
        if least > REACH_PX + 0.5:
            expected = {padding_hu}
        elif least > REACH_PX:
            expected.add(padding_hu)
        assert found[tuple(p)] in expected
    np.testing.assert_array_equal(found[~padding], image[~padding])


def test_the_texture_of_noise_is_kept():
    image, outside = a_cut_disc(cut_px=28)
    ring = continued(image, outside) != image
    values = continued(image, outside)[ring]
    assert ring.sum() > 1000 and abs(values.std() - 20) < 2 and abs(values.mean() - 40) < 3


def test_beside_air_and_without_padding_nothing_is_copied():
    image, outside = a_cut_disc(radius_px=15)
    assert continued(image, outside) is image
    assert continued(image, np.zeros_like(outside)) is image
    assert continued(image, np.ones_like(outside)) is image
    assert mirror(image, outside)[0].shape == (0, 2)


def test_a_floor_of_the_air_at_the_skin_is_left_as_it_is():
    """A scanner that cuts air off at -1024: the blurred skin beside it is below BODY_HU."""
    profile = np.r_[np.full(20, -1024), -900, -420, 10, np.full(20, 40)]
    image = np.tile(profile.astype(np.int16), (30, 1))
    assert continued(image, padding_mask(image)) is image


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (3, 3), (9, 200)])
@pytest.mark.parametrize("dtype", ["int16", "float32", ">i2"])
def test_any_size(shape, dtype):
    image = np.full(shape, 40, dtype)
    image.flat[:: max(2, image.size // 3)] = -2000
    padding = padding_mask(image)
    found = continued(image, padding)
    assert found.dtype == image.dtype and found.shape == shape
    assert ((found == 40) | padding).all() and (padding.all() or (found[~padding] == 40).all())


def test_one_mirror_serves_an_ldct_and_its_ndct():
    ndct, padding = a_cut_disc()
    ldct = np.where(padding, ndct, ndct + 7).astype(np.int16)
    padded, mirrored = mirror(ndct, padding)
    ldct[tuple(padded.T)] = ldct[tuple(mirrored.T)]
    difference = ldct - continued(ndct, padding)
    assert (difference[tuple(padded.T)] == 7).all()
