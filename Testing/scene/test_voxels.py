"""Voxels of volume nodes as arrays, and work on them in pieces."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scene_fixtures import a_volume, vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.output_rule import blend
from ASCONDenoiseLib.scene.voxels import (
    blend_in_pieces,
    copy_in_pieces,
    difference_dtype,
    image_array,
    new_image,
    subtract_in_pieces,
    volume_array,
    voxels_modified,
    write_in_pieces,
)


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64"])
def test_voxels_are_a_view_in_slices_rows_columns(a_scene, dtype):
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    node = a_volume(a_scene, voxels)
    array = volume_array(node)
    assert array.dtype == voxels.dtype
    np.testing.assert_array_equal(array, voxels)
    assert node.GetImageData().GetScalarComponentAsDouble(4, 2, 1, 0) == voxels[1, 2, 4]
    array[1, 2, 4] = 99
    assert node.GetImageData().GetScalarComponentAsDouble(4, 2, 1, 0) == 99


def test_voxels_outlive_their_node_and_scene(a_scene):
    node = a_volume(a_scene)
    array = volume_array(node)
    before = array.copy()
    a_scene.RemoveNode(node)
    a_scene.Clear(1)
    del node
    np.testing.assert_array_equal(array, before)


def test_nodes_without_a_ct_volume_are_refused(a_scene):
    empty = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(InputError, match='"empty" holds no image'):
        volume_array(empty)
    labels = a_scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    labels.SetAndObserveImageData(new_image((2, 3, 4), np.int16))
    colour = a_scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 3, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    for node in (labels, colour):
        with pytest.raises(InputError, match=f'"{node.GetName()}" is a label map or a colour image'):
            volume_array(node)


def test_writing_to_the_view_reaches_what_shows_it(a_scene):
    """A reslice, as slice views have one, is up to date after `voxels_modified`, and was not before."""
    node = a_volume(a_scene, np.zeros((2, 8, 8), np.int16))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputConnection(node.GetImageDataConnection())
    reslice.Update()
    events = []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: events.append("modified"))
    volume_array(node)[...] = 7
    reslice.Update()
    assert image_array(reslice.GetOutput()).max() == 0
    voxels_modified(node)
    reslice.Update()
    assert image_array(reslice.GetOutput()).min() == 7
    assert events and node.GetModifiedSinceRead()


def test_a_large_volume_is_copied_in_steps_that_keep_the_main_thread_for_little_time(tmp_path):
    """64 MB out to a file and back; a step that took 0.2 s would fail here by far."""
    voxels = np.resize(np.arange(-1000, 1000, dtype=np.int16), (128, 512, 512))
    target = np.empty_like(voxels)
    for work in (
        write_in_pieces(voxels, tmp_path / "in.npy"),
        copy_in_pieces(voxels, target),
    ):
        longest, started, done = 0.0, time.monotonic(), []
        for n in work:
            longest = max(longest, time.monotonic() - started)
            done.append(n)
            started = time.monotonic()
        assert longest < 0.2
        assert done == sorted(set(done)) and done[-1] == len(voxels)
    np.testing.assert_array_equal(target, voxels)
    np.testing.assert_array_equal(np.load(tmp_path / "in.npy", mmap_mode="r"), voxels)


def test_each_step_does_at_least_one_slice_and_time_between_steps_does_not_count():
    voxels = np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    target = np.zeros_like(voxels)
    work = copy_in_pieces(voxels, target, budget_s=0)
    assert next(work) == 1
    np.testing.assert_array_equal(target, [voxels[0], np.zeros((2, 2)), np.zeros((2, 2))])
    assert list(work) == [2, 3]
    np.testing.assert_array_equal(target, voxels)
    work = copy_in_pieces(voxels, target, budget_s=0.5)
    assert list(work) == [3]


def test_volumes_of_different_size_are_refused():
    with pytest.raises(InputError, match="differ in size"):
        copy_in_pieces(np.zeros((2, 3, 4)), np.zeros((2, 3, 5)))


@pytest.mark.parametrize("strength", [0.0, 0.37, 1.0])
def test_shown_slices_are_blended_at_once_and_the_rest_in_pieces(strength):
    rng = np.random.default_rng(2)
    voxels, denoised = rng.integers(-1000, 2000, (2, 4, 8, 8)).astype(np.int16)
    expected = np.rint(voxels + strength * (denoised.astype(float) - voxels)).astype(np.int16)
    target = denoised.copy()
    list(blend_in_pieces(voxels, denoised, target, strength, [2]))
    np.testing.assert_array_equal(target[2], expected[2])
    np.testing.assert_array_equal(target[[0, 1, 3]], denoised[[0, 1, 3]])
    for _ in blend_in_pieces(voxels, denoised, target, strength, [2, 0, 1, 3], budget_s=0):
        pass
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(target, blend(voxels, denoised, strength))


@pytest.mark.parametrize(
    ("dtype", "kept"), [("int16", "int16"), ("uint8", "int16"), ("int32", "float32"), ("float32", "float32")]
)
def test_differences_keep_their_sign_and_do_not_wrap_round(dtype, kept):
    first, second = np.array([[[5, 100, 0]]], dtype), np.array([[[100, 5, 0]]], dtype)
    assert difference_dtype(first) == kept
    target = np.empty(first.shape, difference_dtype(first))
    assert list(subtract_in_pieces(first, second, target)) == [1]
    assert target.tolist() == [[[-95, 95, 0]]]


def test_differences_beyond_int16_are_clipped():
    first, second = np.array([[[32767, -32768]]], np.int16), np.array([[[-32768, 32767]]], np.int16)
    target = np.empty(first.shape, np.int16)
    list(subtract_in_pieces(first, second, target))
    assert target.tolist() == [[[32767, -32768]]]
