"""Views fitted to the body, on real slice nodes and slice logics."""

from __future__ import annotations

import numpy as np
import pytest
from scene_fixtures import OBLIQUE, a_volume, slicer, vtk

from ASCONDenoiseLib.scene.display import show_scale
from ASCONDenoiseLib.scene.view_fit import FittedViews, body_corners, fit_views, set_zoom, zoom_of


@pytest.fixture
def some_views(a_scene):
    """Makes slice nodes of these sizes, each with a logic as the application's views have one."""
    logics = {}

    def make(*sizes):
        for i, (columns, rows) in enumerate(sizes):
            view = a_scene.CreateNodeByClass("vtkMRMLSliceNode")
            view.SetName(f"view {i}")  # links go by this name
            view.SetLayoutName(f"view {i}")
            a_scene.AddNode(view)
            view.UnRegister(None)
            view.SetMappedInLayout(True)
            view.SetDimensions(columns, rows, 1)
            view.SetOrientation("Axial")
            logics[view] = slicer.vtkMRMLSliceLogic()
            logics[view].SetMRMLScene(a_scene)
            logics[view].SetSliceNode(view)
        return list(logics)

    def resize(view, columns, rows):
        logics[view].ResizeSliceNode(columns, rows)
        event_loop()

    make.resize = resize
    yield make
    for logic in logics.values():
        logic.SetMRMLScene(None)


waiting = []


def event_loop() -> None:
    while waiting:
        waiting.pop(0)()


def a_body(scene, **geometry):
    """A body of 42 x 28 mm in a field of view of 140 mm, not in its middle."""
    voxels = np.full((9, 200, 200), -1000, np.int16)
    voxels[:, 30:70, 100:160] = 40
    return a_volume(scene, voxels, **geometry)


def pixels_of_corners(view, corners) -> np.ndarray:
    """Columns and rows, (8, 2), where the view draws the corners."""
    ras_to_xy = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(view.GetXYToRAS(), ras_to_xy)
    return np.array([ras_to_xy.MultiplyPoint((*corner, 1.0))[:2] for corner in corners])


def margins(view, corners) -> list[float]:
    places, size = pixels_of_corners(view, corners), np.array(view.GetDimensions()[:2]) - 1
    return [*places.min(axis=0), *(size - places.max(axis=0))]


@pytest.mark.parametrize("directions", [np.eye(3), np.diag([-1, -1, 1]), OBLIQUE], ids=["RAS", "LPS", "oblique"])
def test_the_body_is_in_the_middle_of_each_view_with_one_zoom(a_scene, some_views, directions):
    volume = a_body(a_scene, directions=directions)
    views = some_views((400, 300), (300, 300), (900, 250))
    for view in views:
        view.RotateToVolumePlane(volume)
        view.SetXYZOrigin(7, 8, 0)
    offsets = [view.GetSliceOffset() for view in views]
    corners = body_corners(volume)
    zoom = fit_views(views, corners)
    assert [zoom_of(view) for view in views] == pytest.approx([zoom] * 3)
    assert [view.GetFieldOfView()[1] / view.GetDimensions()[1] for view in views] == pytest.approx([zoom] * 3)
    assert [view.GetSliceOffset() for view in views] == pytest.approx(offsets)  # the plane stays
    for view in views:
        left, bottom, right, top = margins(view, corners)
        assert min(left, bottom, right, top) > 3
        assert left == pytest.approx(right, abs=2) and bottom == pytest.approx(top, abs=2)
    assert min(min(margins(view, corners)) for view in views) < 15  # one is filled


def test_a_volume_that_is_moved_is_found(a_scene):
    volume = a_body(a_scene)
    before = np.array(body_corners(volume))
    transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(1, 3, 25.0)
    transform.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    np.testing.assert_allclose(np.array(body_corners(volume)) - before, np.tile([0, 25, 0], (8, 1)), atol=1e-9)


def test_views_are_fitted_again_when_they_get_their_size(a_scene, some_views):
    volume = a_body(a_scene)
    views = some_views((64, 64), (64, 64))  # a layout that has not settled
    corners = body_corners(volume)
    fitted = FittedViews(views, volume, waiting.append)
    some_views.resize(views[0], 400, 300)
    some_views.resize(views[1], 424, 300)
    assert zoom_of(views[0]) == pytest.approx(zoom_of(views[1]))
    assert 3 < min(margins(views[0], corners)) < 20
    some_views.resize(views[0], 200, 300)  # the user moves the border between them
    some_views.resize(views[1], 624, 300)
    assert zoom_of(views[0]) == pytest.approx(zoom_of(views[1]))
    assert 3 < min(margins(views[0], corners)) < 10
    fitted.close()
    fitted.close()
    some_views.resize(views[0], 100, 300)
    assert min(margins(views[0], corners)) < 0


def test_the_users_zoom_stays_when_a_view_is_resized(a_scene, some_views):
    volume = a_body(a_scene)
    views = some_views((400, 300), (424, 300))
    fitted = FittedViews(views, volume, waiting.append)
    zoom = zoom_of(views[0])
    set_zoom(views[1], zoom / 2)
    event_loop()
    assert zoom_of(views[0]) == pytest.approx(zoom / 2)  # the others follow
    some_views.resize(views[0], 300, 500)
    some_views.resize(views[1], 524, 500)
    assert [zoom_of(view) for view in views] == pytest.approx([zoom / 2] * 2)
    fitted.fit()
    some_views.resize(views[0], 400, 300)
    some_views.resize(views[1], 424, 300)
    assert [zoom_of(view) for view in views] == pytest.approx([zoom] * 2)
    fitted.close()


def test_linked_views_of_different_widths_keep_one_zoom(a_scene, some_views):
    """Slicer's links give all views one field of view in mm, from the left to the right border."""
    volume = a_body(a_scene)
    links = slicer.vtkMRMLSliceLinkLogic()
    links.SetMRMLScene(a_scene)
    views = some_views((400, 300), (800, 300))
    for view in views:
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(view.GetLayoutName())
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)
        a_scene.AddNode(composite)

    def zoom_by_mouse(view, factor):
        view.SetInteractionFlags(view.FieldOfViewFlag)
        view.InteractingOn()
        view.SetFieldOfView(*(factor * mm for mm in view.GetFieldOfView()))
        view.UpdateMatrices()
        view.InteractingOff()
        event_loop()

    zoom_by_mouse(views[0], 0.5)
    assert zoom_of(views[0]) == pytest.approx(2 * zoom_of(views[1]))  # without help
    fitted = FittedViews(views, volume, waiting.append)
    zoom = zoom_of(views[0])
    for view in views:
        zoom_by_mouse(view, 0.5)
        zoom /= 2
        assert [zoom_of(each) for each in views] == pytest.approx([zoom] * 2)
    fitted.close()
    links.SetMRMLScene(None)


def test_a_view_that_is_maximised_is_filled(a_scene, some_views):
    volume = a_body(a_scene)
    views = some_views((200, 200), (200, 200))
    corners = body_corners(volume)
    fitted = FittedViews(views, volume, waiting.append)
    small = zoom_of(views[0])
    views[1].SetMappedInLayout(False)
    some_views.resize(views[0], 800, 800)
    assert 10 < min(margins(views[0], corners)) < 40
    assert zoom_of(views[0]) == pytest.approx(small / 4)
    views[1].SetMappedInLayout(True)
    some_views.resize(views[0], 200, 200)
    assert [zoom_of(view) for view in views] == pytest.approx([small] * 2)
    fitted.close()


@pytest.mark.parametrize(
    ("size", "upright"), [((384, 800), False), ((420, 380), False), ((900, 380), True), ((30, 20), False)]
)
def test_the_scale_of_a_difference_lies_beside_the_body(a_scene, some_views, size, upright):
    volume = a_body(a_scene)
    views = some_views((384, 800), size)
    scale = show_scale(volume)
    fit_views(views, body_corners(volume), scale, views[1])
    assert (scale.GetOrientation() == scale.Vertical) is upright
    columns, rows = size
    thick, length = scale.GetSize()
    width, height = (thick * columns, length * rows) if upright else (length * columns, thick * rows)
    left, bottom = (
        share * free for share, free in zip(scale.GetPosition(), (columns - width, rows - height), strict=True)
    )
    assert left >= 0 and bottom >= 0 and left + width <= columns and bottom + height <= rows
    if min(size) > 100:  # below that there is no room
        places = pixels_of_corners(views[1], body_corners(volume))
        right, lowest = places[:, 0].max(), places[:, 1].min()
        assert left > right if upright else bottom + height < lowest
    assert zoom_of(views[0]) == pytest.approx(zoom_of(views[1]))
