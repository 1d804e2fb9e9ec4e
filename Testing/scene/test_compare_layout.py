"""The compare layouts on real slice nodes and slice logics."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from scene_fixtures import a_volume, slicer, vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.scene.compare_layout import (
    COMPARE_LAYOUTS,
    PANES,
    VIEW_GROUP,
    VOLUME_ORIENTATION,
    columns_that_show_most,
    compare_layout_xml,
    compare_volumes,
    label_panes,
    pane_labels,
    register_compare_layouts,
    show_slice,
    shown_planes,
    shown_slices,
    slice_view,
    view_name,
)
from ASCONDenoiseLib.scene.volumes import ijk_to_world
from ASCONDenoiseLib.scene.voxels import blend_in_pieces, image_array, volume_array, voxels_modified


@pytest.fixture
def a_layout(a_scene):
    """Shows panes as the application does: slice nodes made by the layout logic, a composite node for each."""
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(a_scene)

    def show(*panes: str):
        layout_node = logic.GetLayoutNode()
        register_compare_layouts(layout_node, {"denoised": "Denoised & <new>"})
        layout_node.SetViewArrangement(COMPARE_LAYOUTS[panes])
        for pane in panes:
            composite = slicer.vtkMRMLSliceCompositeNode()
            composite.SetLayoutName(view_name(pane))
            a_scene.AddNode(composite)
            slice_view(a_scene, pane)[0].SetDimensions(400, 300, 1)
        return layout_node

    yield show
    logic.SetMRMLScene(None)  # before the scene goes


@pytest.mark.parametrize(("panes", "number"), COMPARE_LAYOUTS.items())
def test_the_layout_has_a_linked_view_for_each_pane(a_scene, a_layout, panes, number):
    assert number >= 500 and a_layout(*panes).GetViewArrangement() == number
    views = [slice_view(a_scene, pane)[0] for pane in panes]
    assert [view.GetName() for view in views] == [view_name(pane) for pane in panes]  # links go by this name
    assert {view.GetViewGroup() for view in views} == {VIEW_GROUP}
    assert [view.GetLayoutLabel() for view in views][:2] == ["LDCT", "Denoised & <new>"]
    assert {view.GetOrientation() for view in views} == {"Axial"}
    root = ElementTree.fromstring(compare_layout_xml(panes))
    rows = root.findall("item/layout") if len(panes) == 4 else [root]
    assert [len(row.findall("item/view")) for row in rows] == ([2, 2] if len(panes) == 4 else [len(panes)])


@pytest.mark.parametrize(
    ("width", "height", "columns"),
    [
        (958, 788, (2, 2, 2)),  # of a window of 1400 x 870, with the panel beside the views
        (2000, 600, (2, 3, 4)),  # a wide screen
        (700, 1000, (1, 2, 2)),  # a screen on its side
        (1500, 1300, (2, 2, 2)),
        (0, 0, (2, 3, 2)),  # not known
    ],
)
def test_the_columns_depend_on_the_window(a_scene, width, height, columns):
    assert tuple(columns_that_show_most(panes, width, height) for panes in (2, 3, 4)) == columns
    node = slicer.vtkMRMLLayoutNode()
    a_scene.AddNode(node)
    register_compare_layouts(node, size=(width, height))
    for panes, number in COMPARE_LAYOUTS.items():
        root = ElementTree.fromstring(node.GetLayoutDescription(number))
        rows = [len(row.findall("item/view")) for row in root.findall("item/layout") or [root]]
        assert sum(rows) == len(panes) and set(rows[:-1]) <= {columns[len(panes) - 2]}
        assert 0 < rows[-1] <= columns[len(panes) - 2]


def test_the_layout_that_is_on_follows_the_window(a_scene, a_layout):
    node = a_layout("LDCT", "denoised", "difference")
    first = node.GetCurrentLayoutDescription()
    register_compare_layouts(node, {"denoised": "Denoised & <new>"}, (958, 788))
    assert node.GetCurrentLayoutDescription() != first
    assert node.GetViewArrangement() == COMPARE_LAYOUTS["LDCT", "denoised", "difference"]


def test_names_of_panes_are_short_and_say_the_strength(a_scene, a_layout):
    labels = pane_labels(0.75)
    assert list(labels) == list(PANES)
    assert list(labels.values()) == ["LDCT", "75\N{NO-BREAK SPACE}%", "NDCT", "diff."]
    assert max(map(len, labels.values())) <= 5
    assert pane_labels(0.75, 0.4)["denoised"] == "30\N{NO-BREAK SPACE}%"  # which is what a mixture of the two shows
    assert pane_labels(0.75, 0)["denoised"] == "LDCT"
    assert pane_labels(1, translate=str.upper)["difference"] == "DIFF."
    a_layout("LDCT", "denoised")
    label_panes(a_scene, labels)
    assert [slice_view(a_scene, pane)[0].GetLayoutLabel() for pane in PANES[:2]] == ["LDCT", labels["denoised"]]


def test_the_layout_can_be_registered_again_with_other_labels(a_scene):
    node = slicer.vtkMRMLLayoutNode()
    a_scene.AddNode(node)
    register_compare_layouts(node)
    assert "vorher" not in node.GetLayoutDescription(7460)
    register_compare_layouts(node, {"LDCT": "vorher"})
    assert all("vorher" in node.GetLayoutDescription(number) for number in COMPARE_LAYOUTS.values())


def test_compare_shows_one_volume_per_view_linked_with_the_same_place_and_zoom(a_scene, a_layout):
    panes = ("LDCT", "denoised", "NDCT", "difference")
    a_layout(*panes)
    volumes = {pane: a_volume(a_scene, name=pane) for pane in panes}
    first = slice_view(a_scene, "LDCT")[0]
    first.SetFieldOfView(123, 92.25, 1)
    first.SetSliceOffset(81.4)
    first.SetXYZOrigin(3, 4, 0)
    slice_view(a_scene, "NDCT")[0].SetDimensions(200, 300, 1)
    views = compare_volumes(a_scene, volumes)
    assert [view.GetLayoutName() for view in views] == [view_name(pane) for pane in panes]
    for pane, view in zip(panes, views, strict=True):
        _, composite = slice_view(a_scene, pane)
        assert composite.GetBackgroundVolumeID() == volumes[pane].GetID()
        assert composite.GetForegroundVolumeID() is None and composite.GetLabelVolumeID() is None
        assert composite.GetLinkedControl() and composite.GetHotLinkedControl()
        assert view.GetSliceOffset() == pytest.approx(81.4) and view.GetXYZOrigin() == (3, 4, 0)
        zoom = [fov / pixels for fov, pixels in zip(view.GetFieldOfView()[:2], view.GetDimensions()[:2], strict=True)]
        assert zoom == pytest.approx([123 / 400] * 2)


def test_a_view_that_is_not_there_is_said(a_scene):
    with pytest.raises(InputError, match="no view for denoised"):
        compare_volumes(a_scene, {"denoised": a_volume(a_scene)})


def pixels_of(scene, pane: str) -> np.ndarray:
    """What the pane's view draws of its background volume, before the window: (rows, columns), 0 outside."""
    view, composite = slice_view(scene, pane)
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceNode(view)
    logic.SetSliceCompositeNode(composite)
    layer = logic.GetBackgroundLayer()
    reslice = layer.GetReslice()
    reslice.Update()
    pixels = image_array(reslice.GetOutput())[0].copy()
    logic.SetMRMLScene(None)
    return pixels


def a_turn(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.insert(np.insert([[c, -s], [s, c]], axis, 0, axis=0), axis, np.eye(3)[axis], axis=1)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    "directions",
    [
        np.eye(3),
        np.diag([-1.0, -1.0, 1.0]),
        np.diag([-1.0, -1.0, 1.0]) @ a_turn(20, 0) @ a_turn(-15, 1) @ a_turn(30, 2),
    ],
    ids=["RAS", "LPS", "oblique"],
)
def test_the_slice_that_is_asked_for_is_the_one_drawn_and_the_one_that_is_found(a_scene, a_layout, directions, moved):
    values = 100 + np.arange(9, dtype=np.int16)
    volume = a_volume(a_scene, np.tile(values[:, None, None], (1, 40, 60)), directions=directions)
    if moved:
        transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy((0.96, -0.28, 0, 10, 0.28, 0.96, 0, -20, 0, 0, 1, 5, 0, 0, 0, 1))
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
    a_layout("LDCT", "denoised")
    views = compare_volumes(a_scene, {"LDCT": volume, "denoised": a_volume(a_scene)})
    for index in (None, 7, 0):
        show_slice(views, volume, index)
        k = 4 if index is None else index
        assert shown_slices(volume, views) == [k]
        drawn = pixels_of(a_scene, "LDCT")
        assert drawn.shape == (300, 400) and set(np.unique(drawn)) <= {0, values[k]}
        rows, columns = np.nonzero(drawn)  # all of it, as large as fits: 42 mm of 60 columns, 28 mm of 40 rows
        margin = [rows.min(), 299 - rows.max(), columns.min(), 399 - columns.max()]
        assert 5 <= min(margin) <= 12
        assert abs(margin[0] - margin[1]) <= 2 and abs(margin[2] - margin[3]) <= 2
        area = len(rows) * (views[0].GetFieldOfView()[0] / 400) ** 2
        assert area == pytest.approx(60 * 40 * 0.7**2, rel=0.03)


def test_a_scene_with_oblique_views_is_read_without_complaint(a_scene, a_layout, tmp_path):
    """Slicer reads a view's orientation by its name, and knows none called "Reformat"."""
    volume = a_volume(a_scene, directions=a_turn(20, 0) @ a_turn(-15, 1))
    a_layout("LDCT", "denoised")
    views = compare_volumes(a_scene, {"LDCT": volume, "denoised": volume})
    show_slice(views, volume)
    assert {view.GetOrientation() for view in views} == {VOLUME_ORIENTATION}
    matrix = slice_to_ras(views[0])
    a_scene.SetURL(str(tmp_path / "scene.mrml"))
    assert a_scene.Commit()
    messages, again = vtk.vtkStringOutputWindow(), slicer.vtkMRMLScene()
    before = vtk.vtkOutputWindow.GetInstance()
    vtk.vtkOutputWindow.SetInstance(messages)
    try:
        again.SetURL(str(tmp_path / "scene.mrml"))
        assert again.Import()
    finally:
        vtk.vtkOutputWindow.SetInstance(before)
    assert "orientation preset" not in messages.GetOutput()
    view, _ = slice_view(again, "LDCT")
    assert view.GetOrientation() == VOLUME_ORIENTATION
    np.testing.assert_allclose(slice_to_ras(view), matrix, atol=1e-4)

    show_slice(views, a_volume(a_scene, directions=a_turn(-10, 0)))  # the name goes with the plane
    assert {view.GetOrientation() for view in views} == {VOLUME_ORIENTATION}
    show_slice(views, a_volume(a_scene))
    assert {view.GetOrientation() for view in views} == {"Axial"}


def slice_to_ras(view) -> np.ndarray:
    matrix = view.GetSliceToRAS()
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def test_a_blended_slice_is_drawn_at_once(a_scene, a_layout):
    voxels, denoised = np.full((3, 8, 8), 100, np.int16), np.full((3, 8, 8), 50, np.int16)
    volume = a_volume(a_scene, denoised)
    a_layout("LDCT", "denoised")
    views = compare_volumes(a_scene, {"LDCT": a_volume(a_scene, voxels), "denoised": volume})
    show_slice(views, volume)
    assert pixels_of(a_scene, "denoised").max() == 50
    shown = shown_slices(volume, views)
    list(blend_in_pieces(voxels, denoised, volume_array(volume), 0.5, shown))
    voxels_modified(volume)
    assert shown == [1] and pixels_of(a_scene, "denoised").max() == 75


def test_views_between_beside_and_across_the_slices(a_scene, a_layout):
    volume = a_volume(a_scene, np.zeros((9, 40, 60), np.int16))
    a_layout("LDCT", "denoised")
    views = compare_volumes(a_scene, {"LDCT": volume, "denoised": volume})
    show_slice(views, volume, 3)
    views[0].SetSliceOffset(views[0].GetSliceOffset() + 1.0)  # of 2.5 mm
    assert shown_slices(volume, views) == [3, 4]
    views[0].SetSliceOffset(1000)
    assert shown_slices(volume, views) == [3]
    views[1].SetOrientation("Coronal")
    assert shown_slices(volume, views) == []


@pytest.mark.parametrize(("orientation", "axis"), [("Coronal", 1), ("Sagittal", 2)])
def test_rows_and_columns_on_show_are_found_and_blended(a_scene, a_layout, orientation, axis):
    voxels = np.full((9, 40, 60), 100, np.int16)
    denoised = np.random.default_rng(0).integers(-100, 100, voxels.shape, np.int16)
    volume = a_volume(a_scene, denoised)
    a_layout("LDCT", "denoised")
    views = compare_volumes(a_scene, {"LDCT": a_volume(a_scene, voxels), "denoised": volume})
    show_slice(views, volume)
    views[1].SetOrientation(orientation)
    index = [4, 17, 23]
    world = ijk_to_world(volume).MultiplyPoint((*index[::-1], 1.0))
    views[1].JumpSliceByCentering(*world[:3])
    shown = shown_planes(volume, views)
    assert shown == sorted(shown, key=len) and len(shown) == 2 and shown[0] == (4,)
    assert shown[1] == (slice(None),) * axis + (index[axis],)
    target = denoised.copy()
    list(blend_in_pieces(voxels, denoised, target, 0.0, shown))
    expected = denoised.copy()
    expected[4] = 100
    np.moveaxis(expected, axis, 0)[index[axis]] = 100
    np.testing.assert_array_equal(target, expected)


def test_oblique_views_have_no_plane_of_their_own(a_scene, a_layout):
    volume = a_volume(a_scene, np.zeros((9, 40, 60), np.int16))
    a_layout("LDCT", "denoised")
    (view, _other) = compare_volumes(a_scene, {"LDCT": volume, "denoised": volume})
    show_slice([view], volume)
    matrix = view.GetSliceToRAS()
    turned = np.array([[matrix.GetElement(i, j) for j in range(3)] for i in range(3)]) @ a_turn(20, 0) @ a_turn(20, 1)
    for i, j in np.ndindex(3, 3):
        matrix.SetElement(i, j, turned[i, j])
    view.UpdateMatrices()
    assert shown_planes(volume, [view]) == []
