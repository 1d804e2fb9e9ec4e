"""Where the body lies, the window that suits what a volume shows, and the range of a difference."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scene_fixtures import a_volume

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.scene.body import body_box, difference_limit, suggested_window


def an_ellipse(shape, centre, radii) -> np.ndarray:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def a_trunk(slices: int = 12, noise_hu: float = 20.0, side: int = 256) -> np.ndarray:
    """Soft tissue of 240 x 160 voxels on a table, with fat below the skin and a vertebra. int16, (S, H, W)."""
    image = np.full((side, side), -1000.0)
    middle = side // 2
    image[an_ellipse(image.shape, (middle - 20, middle), (80, 120))] = -100
    image[an_ellipse(image.shape, (middle - 20, middle), (70, 108))] = 50
    image[an_ellipse(image.shape, (middle + 20, middle), (12, 14))] = 500
    image[side - 40 : side - 36] = -200  # the table, 2.8 mm thick, across all columns
    voxels = np.broadcast_to(image, (slices, *image.shape))
    return (voxels + np.random.default_rng(0).normal(0, noise_hu, voxels.shape)).round().astype(np.int16)


def with_lungs(voxels: np.ndarray) -> np.ndarray:
    voxels, middle = voxels.copy(), voxels.shape[1] // 2
    for side in (-1, 1):
        lung = an_ellipse(voxels.shape[1:], (middle - 20, middle + side * 55), (55, 42))
        voxels[:, lung] = voxels[:, lung] - 850
    return voxels


def a_head(slices: int = 10, side: int = 256) -> np.ndarray:
    """Brain in a skull of 7 mm, 150 x 190 mm, of 0.7 mm voxels."""
    image = np.full((side, side), -1000.0)
    middle = side // 2
    for shrunk, hu in ((0, 40), (6, 900), (16, 35), (90, 8)):
        image[an_ellipse(image.shape, (middle, middle), (120 - shrunk, 100 - shrunk))] = hu
    return np.repeat(image[None], slices, axis=0).astype(np.int16)


def test_the_box_is_that_of_the_body_not_of_the_table(a_scene):
    voxels = a_trunk(noise_hu=60)  # of a low dose
    voxels[:3] = voxels[-2:] = -1000
    (left, right), (top, bottom), (first, last) = body_box(a_volume(a_scene, voxels))
    assert abs(left - 8) <= 4 and abs(right - 248) <= 4
    assert abs(top - 28) <= 4 and abs(bottom - 188) <= 4
    assert (first, last) == (3, 9)


def test_what_is_thin_or_absent(a_scene):
    finger = np.full((5, 40, 40), -1000, np.int16)
    finger[:, 20:24, 10:13] = 40  # of 2.8 x 2.1 mm
    assert body_box(a_volume(a_scene, finger)) == ((10, 12), (20, 23), (0, 4))
    air = np.full((5, 40, 30), -1000, np.int16)
    volume = a_volume(a_scene, air)
    assert body_box(volume) == ((0, 29), (0, 39), (0, 4))
    assert suggested_window(volume) == "abdomen"
    assert body_box(a_volume(a_scene, air[:1, :1, :1] + 1000)) == ((0, 0), (0, 0), (0, 0))


def test_large_volumes_take_no_longer_than_small_ones(a_scene):
    voxels = np.broadcast_to(np.int16(40), (400, 512, 512)).copy()
    volume = a_volume(a_scene, voxels)
    started = time.process_time()
    assert body_box(volume) == ((0, 511), (0, 511), (0, 399))
    suggested_window(volume)
    assert time.process_time() - started < 0.2


def test_the_window_suits_what_most_slices_show(a_scene):
    trunk = a_trunk()
    chest = with_lungs(trunk)
    assert suggested_window(a_volume(a_scene, trunk)) == "abdomen"
    assert suggested_window(a_volume(a_scene, chest)) == "lung"
    assert suggested_window(a_volume(a_scene, np.concatenate([chest[:4], trunk]))) == "abdomen"  # begins in the lungs
    assert suggested_window(a_volume(a_scene, a_head())) == "brain"


def test_a_body_part_that_is_known_tells_a_head(a_scene):
    trunk, head = a_volume(a_scene, a_trunk()), a_volume(a_scene, a_head())
    assert suggested_window(trunk, "HEAD ") == "brain"
    assert suggested_window(head, "ABDOMEN") == "abdomen"
    assert suggested_window(a_volume(a_scene, with_lungs(a_trunk())), "CHEST") == "lung"


def test_the_range_of_a_difference_is_three_standard_deviations_in_the_body(a_scene):
    trunk = a_trunk()
    rng = np.random.default_rng(1)
    difference = np.where(trunk > -500, rng.normal(0, 5, trunk.shape), rng.normal(0, 80, trunk.shape)).round()
    source = a_volume(a_scene, trunk)
    limit = difference_limit(a_volume(a_scene, difference.astype(np.int16)), source)
    assert limit == pytest.approx(20)
    air = a_volume(a_scene, np.full((3, 8, 8), -1000, np.int16))
    assert difference_limit(air, air) == 5


def test_a_volume_without_voxels_is_refused(a_scene):
    with pytest.raises(InputError, match="no image"):
        body_box(a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
