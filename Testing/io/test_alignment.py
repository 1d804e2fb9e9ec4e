"""Volumes brought into one order: exactly, or refused."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from alignment_fixtures import other_order
from dicom_fixtures import oblique_direction

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.alignment import in_order_of
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume

GEOMETRY = Geometry((0.7, 0.8, 2.5), (-100.0, -90.5, 30.25), oblique_direction())


@pytest.fixture
def a_volume() -> Volume:
    """All sides differ, no two voxels are alike."""
    return Volume(np.arange(3 * 5 * 4, dtype=np.int16).reshape(3, 5, 4), GEOMETRY)


ORDERS = [(a, s) for a in itertools.permutations(range(3)) for s in itertools.product((1, -1), repeat=3)]


@pytest.mark.parametrize(("axes", "signs"), ORDERS)
def test_all_48_orders_are_brought_back_exactly(a_volume, axes, signs):
    stored = other_order(a_volume, axes, signs)
    np.testing.assert_array_equal(in_order_of(stored, a_volume), a_volume.voxels)
    np.testing.assert_array_equal(in_order_of(a_volume, stored), stored.voxels)


@pytest.mark.parametrize("name", ["a.nrrd", "a.nii.gz", "a.mha"])
@pytest.mark.parametrize(("axes", "signs"), ORDERS[::7])
def test_the_same_through_files_which_round(a_volume, tmp_path, name, axes, signs):
    write_image(other_order(a_volume, axes, signs), tmp_path / name)
    np.testing.assert_array_equal(in_order_of(read_volume(tmp_path / name), a_volume), a_volume.voxels)


def test_a_cube_whose_shape_tells_nothing(a_volume):
    cube = Volume(np.arange(64, dtype=np.int16).reshape(4, 4, 4), Geometry((1.0, 1.0, 1.0)))
    for axes, signs in ORDERS:
        np.testing.assert_array_equal(in_order_of(other_order(cube, axes, signs), cube), cube.voxels)


def test_one_slice_may_face_either_way(a_volume):
    one = Volume(a_volume.voxels[:1], GEOMETRY)
    d = np.reshape(GEOMETRY.direction, (3, 3)) * (1, 1, -1)
    other = replace(GEOMETRY, direction=tuple(d.ravel().tolist()), spacing_mm=(0.7, 0.8, 1.0))  # of one slice: unknown
    np.testing.assert_array_equal(in_order_of(Volume(one.voxels, other), one), one.voxels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"origin_mm": (-100.0, -90.5, 30.65)}, "0.4 mm apart"),
        ({"origin_mm": (-100.0, -90.5, 33.0)}, "2.75 mm apart"),
        ({"spacing_mm": (0.8, 0.8, 2.5)}, "0.3 mm apart"),
        ({"direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, "turned against each other"),
    ],
)
def test_what_lies_elsewhere_is_refused_with_how_far(a_volume, change, words):
    with pytest.raises(InputError, match=words):
        in_order_of(replace(a_volume, geometry=replace(GEOMETRY, **change)), a_volume)


def test_other_sizes_are_refused_in_one_order(a_volume):
    cut = other_order(Volume(a_volume.voxels[:, :4], GEOMETRY), (2, 0, 1), (1, 1, 1))
    with pytest.raises(InputError, match="3 x 5 x 4 and 3 x 4 x 4"):
        in_order_of(cut, a_volume)
