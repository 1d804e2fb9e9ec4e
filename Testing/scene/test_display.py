"""Windows, the colours of differences, and two volumes in one view."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from scene_fixtures import a_volume, slicer, vtk

from ASCONDenoiseLib.imaging.difference import difference_colours
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
from ASCONDenoiseLib.scene.display import (
    SharedWindow,
    difference_colors,
    is_automatic_window,
    reveal,
    set_window,
    show_as_difference,
    show_scale,
    window_of,
)


def test_a_preset_is_applied_to_all(a_scene):
    volumes = [a_volume(a_scene, name=name) for name in ("a", "b", "c")]
    volumes[1].GetDisplayNode().SetAutoWindowLevel(True)
    set_window(volumes, DISPLAY_WINDOWS_HU["lung"])
    for volume in volumes:
        assert window_of(volume) == (-1350, 150)
        assert (volume.GetDisplayNode().GetWindow(), volume.GetDisplayNode().GetLevel()) == (1500, -600)
        assert not volume.GetDisplayNode().GetAutoWindowLevel()


def test_a_shared_window_follows_whichever_is_changed_until_it_is_closed(a_scene):
    volumes = [a_volume(a_scene, name=name) for name in ("a", "b", "c")]
    set_window(volumes[:1], (0, 80))
    shared = SharedWindow(volumes)
    assert [window_of(volume) for volume in volumes] == [(0, 80)] * 3
    volumes[2].GetDisplayNode().SetWindowLevel(400, 40)
    assert [window_of(volume) for volume in volumes] == [(-160, 240)] * 3
    volumes[0].GetDisplayNode().SetAutoWindowLevel(True)  # the button "auto" in one view
    assert len({window_of(volume) for volume in volumes}) == 1
    a_scene.RemoveNode(volumes[1])
    set_window(volumes[:1], (1, 2))
    assert window_of(volumes[2]) == (1, 2)
    shared.close()
    set_window(volumes[:1], (5, 6))
    assert window_of(volumes[2]) == (1, 2)
    shared.close()
    forgotten = weakref.ref(shared)
    del shared
    gc.collect()
    assert forgotten() is None  # no observer holds it


def test_differences_are_shown_in_diverging_colours_around_zero(a_scene):
    node = a_volume(a_scene, np.array([[[-100, -50, 0, 50, 100]]], np.int16))
    show_as_difference(node, 100)
    scale = show_scale(node)
    display = node.GetVolumeDisplayNode()
    assert window_of(node) == (-100, 100)
    assert display.GetColorNode() is difference_colors(a_scene)
    display.GetOutputImageDataConnection().GetProducer().Update()
    rgba = numpy_rgba(display)
    low, quarter, zero, _, high = rgba[:, :3].astype(int)
    assert low[2] - low[0] > 50 and high[0] - high[2] > 50  # blue, red
    assert np.ptp(zero) <= 1 and zero[0] < 15  # dark, whatever the limit
    assert quarter[2] - quarter[0] > 100 and (np.abs(quarter - 255 * difference_colours(np.array(-0.5))) <= 6).all()
    assert scale.GetTitleText() == "HU" and scale.GetPrimaryDisplayNode() is display
    modified = []
    scale.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: modified.append(True))
    show_as_difference(node, 40)
    assert window_of(node) == (-40, 40) and modified
    assert show_scale(node) is not scale
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 1
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1
    assert node.GetVolumeDisplayNode() is display


def test_a_scene_with_other_colours_of_differences_gets_these(a_scene):
    node = a_volume(a_scene)
    show_as_difference(node)
    colors = difference_colors(a_scene)
    wanted = lookup_table(colors)
    colors.GetLookupTable().SetTableValue(127, 0.87, 0.87, 0.87, 1)
    again = difference_colors(a_scene)
    assert again is colors
    np.testing.assert_array_equal(lookup_table(again), wanted)


def test_the_window_is_the_automatic_one_until_one_is_chosen(a_scene):
    volume = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "without a display")
    assert not is_automatic_window(volume)
    volume.CreateDefaultDisplayNodes()
    assert is_automatic_window(volume)
    set_window([volume], (0, 80))
    assert not is_automatic_window(volume)


def test_the_colours_of_differences_come_back_with_the_scene(a_scene, tmp_path):
    show_as_difference(a_volume(a_scene), 40)
    before = lookup_table(difference_colors(a_scene))
    a_scene.SetURL(str(tmp_path / "scene.mrml"))
    assert a_scene.Commit()  # without the file of the colours
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    np.testing.assert_array_equal(lookup_table(difference_colors(again)), before)
    assert len(before) == 255 and again.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1
    loaded = again.GetFirstNodeByName("scan").GetDisplayNode()
    assert loaded.GetColorNode() is difference_colors(again)


def lookup_table(colors) -> np.ndarray:
    return vtk.util.numpy_support.vtk_to_numpy(colors.GetLookupTable().GetTable()).copy()


def numpy_rgba(display) -> np.ndarray:
    image = display.GetOutputImageDataConnection().GetProducer().GetOutputDataObject(0)
    return vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())


def test_reveal_fades_from_before_to_after(a_scene):
    before, after = a_volume(a_scene), a_volume(a_scene)
    composite = slicer.vtkMRMLSliceCompositeNode()
    a_scene.AddNode(composite)
    for share, opacity in ((0, 0), (0.3, 0.3), (1, 1), (1.7, 1)):
        reveal(composite, before, after, share)
        assert composite.GetForegroundOpacity() == pytest.approx(opacity)
    assert composite.GetBackgroundVolumeID() == before.GetID() and composite.GetForegroundVolumeID() == after.GetID()
