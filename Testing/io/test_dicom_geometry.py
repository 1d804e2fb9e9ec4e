"""The order, spacing and axes of DICOM slices, against ITK and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_fixtures import (
    IDENTITY,
    SAGITTAL,
    edit_file,
    make_ct_series,
    oblique_direction,
    some_voxels,
)

from ASCONDenoiseLib.io.reading import read_volume


@pytest.mark.parametrize("direction", [IDENTITY, SAGITTAL, oblique_direction()], ids=["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("file_order", [None, (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)], ids=["sorted", "reversed", "shuffled"])
def test_voxels_and_geometry_are_those_that_itk_reads(a_folder, direction, file_order):
    """Oracle: SimpleITK's ImageSeriesReader with GDCM's sorting; an odd, non-square size."""
    voxels = some_voxels((5, 23, 31))
    files = make_ct_series(a_folder, voxels_hu=voxels, direction=direction, file_order=file_order)
    volume = read_volume(a_folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(a_folder))
    image = sitk.ReadImage(names)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, voxels)
    assert np.array_equal(volume.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(volume.geometry.spacing_mm, image.GetSpacing(), atol=1e-9)
    np.testing.assert_allclose(volume.geometry.origin_mm, image.GetOrigin(), atol=1e-12)
    np.testing.assert_allclose(volume.geometry.direction, image.GetDirection(), atol=1e-9)
    np.testing.assert_allclose(volume.geometry.direction, direction, atol=1e-9)
    assert volume.source.files == tuple(files) == tuple(map(Path, names))


def test_slices_ascend_along_the_normal_even_when_numbered_from_the_top(a_folder):
    """Instance numbers and file names run downwards; with a left-handed stack the direction stays right-handed."""
    voxels = some_voxels((4, 12, 10))
    left_handed = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    files = make_ct_series(a_folder, voxels_hu=voxels, direction=left_handed, origin_mm=(0, 0, 100))
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, voxels[::-1])
    assert volume.source.files == tuple(files[::-1])
    assert volume.geometry.origin_mm == (0.0, 0.0, 92.5)
    assert volume.geometry.direction == IDENTITY


@pytest.mark.parametrize(
    ("edits", "spacing_k"),
    [
        ({"SliceThickness": "3"}, 3.0),
        ({"SliceThickness": "3", "SpacingBetweenSlices": "20"}, 3.0),
        ({"SliceThickness": None, "SpacingBetweenSlices": "1.5"}, 1.5),
        ({"SliceThickness": None}, 1.0),
    ],
)
def test_one_slice(a_folder, edits, spacing_k):
    (file,) = make_ct_series(a_folder, shape=(1, 13, 7), direction=oblique_direction())
    edit_file(file, **edits)
    for path in (a_folder, file):
        volume = read_volume(path)
        assert np.array_equal(volume.voxels, some_voxels((1, 13, 7)))
        assert volume.geometry.spacing_mm == (0.7, 0.8, spacing_k)
        np.testing.assert_allclose(volume.geometry.direction, oblique_direction(), atol=1e-9)


def test_one_file_of_a_series_is_one_slice(a_folder):
    files = make_ct_series(a_folder)
    assert np.array_equal(read_volume(files[2]).voxels, some_voxels()[2:3])


def test_positions_rounded_in_the_header_are_still_even(a_folder):
    """0.625 mm written with one decimal: 0, 0.6, 1.2 (1.25), 1.9, ..."""
    positions = [(0, 0, round(0.625 * k, 1)) for k in range(17)]
    make_ct_series(a_folder, shape=(17, 4, 5), positions_mm=positions)
    assert read_volume(a_folder).geometry.spacing_mm[2] == pytest.approx(0.625, abs=1e-9)
