"""Anatomy as nodes of a real MRML scene: labels, tables, plot, and the way from a point to a place and back."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scene_fixtures import OBLIQUE, a_volume, matrix_of, vtk

from ASCONDenoiseLib.scene import anatomy_nodes
from ASCONDenoiseLib.scene.compare_layout import view_name
from ASCONDenoiseLib.scene.tables import column_of
from ASCONDenoiseLib.scene.voxels import image_array

SHAPE = (12, 30, 26)


def some_facts(labels: np.ndarray) -> dict:
    """What the worker would say of these labels, as far as the nodes show it."""
    clusters = [
        {
            "label": int(label),
            "reading": "soft tissue",
            "colour": [20 * int(label), 255 - 20 * int(label), 100],
            "volume_ml": float((labels == label).sum()),
            "mean_before_hu": 10.0 * label,
            "sd_before_hu": 5.0,
            "mean_after_hu": 10.0 * label,
            "sd_after_hu": 3.0,
            "noise_removed_hu": 4.0,
        }
        for label in np.unique(labels[labels > 0])
    ]
    separation = {"silhouette": 0.25, "davies_bouldin": 1.5, "intra_inter": 0.5}
    facts = {"device": "cpu", "precision": "fp32", "notes": [], "model": {"name": "M", "version": "1"}}
    return facts | {"clusters": clusters, "separation": separation, "fit_slices": 4}


def some_points(labels: np.ndarray, count: int = 80, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    kji = rng.permutation(np.argwhere(labels))[:count]
    kji = kji[np.argsort(kji[:, 0], kind="stable")]
    values = labels[tuple(kji.T)]
    xy = rng.normal(size=(len(kji), 2)).astype(np.float32)
    return {"ijk": kji[:, ::-1], "labels": values, "hu": (100 * values).astype(np.int16), "xy": xy}


def an_anatomy(volume, labels: np.ndarray, points: dict, before=None):
    image = anatomy_nodes.new_label_image(volume)
    image_array(image)[...] = labels
    return anatomy_nodes.show_anatomy(volume, image, some_facts(labels), points, before)


@pytest.fixture
def some_labels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.uint8)


@pytest.fixture
def a_scan(a_scene):
    return a_volume(a_scene, np.zeros(SHAPE, np.int16), directions=OBLIQUE)


def moved_by(scene, kind: str):
    """A parent transform, and what it does to points (N, 3)."""
    if kind == "linear":
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        turn = vtk.vtkTransform()
        turn.Translate(5, -8, 13)
        turn.RotateWXYZ(33, 1, 2, 3)
        node.SetMatrixTransformToParent(turn.GetMatrix())
        return node, turn.TransformPoint
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetBasisToR()
    before, after = vtk.vtkPoints(), vtk.vtkPoints()
    for place in ((-30, 20, 60), (30, 20, 60), (-30, 70, 60), (-30, 20, 110), (10, 50, 80), (0, 40, 95)):
        before.InsertNextPoint(*place)
        after.InsertNextPoint(*(value + (3 if i == 1 else -2) * (place[2] > 90) for i, value in enumerate(place)))
    warp.SetSourceLandmarks(before)
    warp.SetTargetLandmarks(after)
    node.SetAndObserveTransformToParent(warp)
    return node, warp.TransformPoint


def test_the_separation_and_the_table_are_read_back(a_scan, some_labels):
    anatomy = an_anatomy(a_scan, some_labels, some_points(some_labels))
    assert anatomy_nodes.separation(anatomy) == {"silhouette": 0.25, "davies_bouldin": 1.5, "intra_inter": 0.5}
    header, *rows = anatomy_nodes.cluster_table(anatomy)
    assert [row[0] for row in rows] == ["1 soft tissue", "2 soft tissue", "3 soft tissue"]
    assert [row[1] for row in rows] == [f"{(some_labels == label).sum():.1f}" for label in (1, 2, 3)]
    assert anatomy_nodes.volume_of(anatomy) is a_scan
    facts = some_facts(some_labels) | {"separation": None}
    image = anatomy_nodes.new_label_image(a_scan)
    again = anatomy_nodes.show_anatomy(a_scan, image, facts, some_points(some_labels), anatomy)
    assert again is anatomy and anatomy_nodes.separation(anatomy) is None


def test_clusters_are_outlines_at_first(a_scan, some_labels):
    display = an_anatomy(a_scan, some_labels, some_points(some_labels)).GetDisplayNode()
    assert display.GetOpacity2DFill() == 0 and display.GetVisibility2DOutline()


def test_they_are_kept_out_of_the_view_of_the_difference_while_it_is_on(a_scene, a_scan, some_labels):
    views = {}
    for name in ("Red", view_name("LDCT"), view_name("difference")):
        views[name] = a_scene.AddNewNodeByClass("vtkMRMLSliceNode")
        views[name].SetLayoutName(name)
        views[name].SetMappedInLayout(name != "Red")
    *others, difference = (view.GetID() for view in views.values())
    user_made = a_scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    user_made.CreateDefaultDisplayNodes()
    display = an_anatomy(a_scan, some_labels, some_points(some_labels)).GetDisplayNode()
    assert [display.IsDisplayableInView(view) for view in (*others, difference)] == [True, True, False]
    assert user_made.GetDisplayNode().IsDisplayableInView(difference)
    views[view_name("difference")].SetMappedInLayout(False)
    anatomy_nodes.keep_off_difference(a_scene)
    assert display.GetNumberOfViewNodeIDs() == 0  # views that come later show them, too
    views[view_name("difference")].SetMappedInLayout(True)
    anatomy_nodes.keep_off_difference(a_scene)
    assert not display.IsDisplayableInView(difference) and display.IsDisplayableInView(others[0])


def test_used_again_nothing_is_left_of_before(a_scene, a_scan, some_labels):
    anatomy = an_anatomy(a_scan, some_labels, some_points(some_labels))
    anatomy.SetName("mine")
    count = a_scene.GetNumberOfNodes()
    anatomy_nodes.mark_point(anatomy, 3)
    assert a_scene.GetNumberOfNodes() > count
    fewer = np.minimum(some_labels, 2)
    assert an_anatomy(a_scan, fewer, some_points(fewer), anatomy) is anatomy
    assert a_scene.GetNumberOfNodes() == count - 1  # one series less
    assert anatomy.GetName() == "mine"
    assert anatomy.GetSegmentation().GetNumberOfSegments() == 2
    assert anatomy_nodes.chart_of(anatomy).GetNumberOfPlotSeriesNodes() == 2
    anatomy_nodes.mark_point(anatomy, 3)
    assert anatomy_nodes.chart_of(anatomy).GetNumberOfPlotSeriesNodes() == 3


@pytest.mark.parametrize("kind", ["none", "linear", "warp"])
def test_a_point_has_its_place_and_the_place_its_point(a_scene, a_scan, some_labels, kind):
    points = some_points(some_labels)
    anatomy = an_anatomy(a_scan, some_labels, points)
    to_world = tuple
    if kind != "none":
        node, to_world = moved_by(a_scene, kind)
        a_scan.SetAndObserveTransformNodeID(node.GetID())
    matrix = matrix_of(a_scan)
    for row in range(0, len(points["ijk"]), 7):
        ras = matrix[:3, :3] @ points["ijk"][row] + matrix[:3, 3]
        place = anatomy_nodes.place_of(anatomy, row)
        np.testing.assert_allclose(place, to_world(ras), atol=1e-4)
        found, distance_mm = anatomy_nodes.nearest_point(anatomy, place)
        assert found == row and distance_mm < 0.01


def test_the_nearest_point_is_one_of_the_same_slice_where_there_is_one_near(a_scan, some_labels):
    points = some_points(some_labels, 60)
    anatomy = an_anatomy(a_scan, some_labels, points)
    matrix, outcomes = matrix_of(a_scan), set()
    for k in range(SHAPE[0]):
        for j, i in ((2, 3), (15, 12), (28, 25)):
            place = matrix[:3, :3] @ (i, j, k) + matrix[:3, 3]
            away = [np.linalg.norm(matrix[:3, :3] @ one + matrix[:3, 3] - place) for one in points["ijk"]]
            same = [row for row, one in enumerate(points["ijk"]) if one[2] == k and away[row] <= anatomy_nodes.NEAR_MM]
            expected = min(same or range(len(away)), key=away.__getitem__)
            outcomes.add((bool(same), expected == int(np.argmin(away))))
            row, distance_mm = anatomy_nodes.nearest_point(anatomy, tuple(place))
            assert row == expected
            assert distance_mm == pytest.approx(away[expected], abs=1e-6)
    assert {(True, False), (True, True), (False, True)} <= outcomes  # all cases happen


def test_the_middle_of_what_is_selected(a_scan, some_labels):
    points = some_points(some_labels)
    anatomy = an_anatomy(a_scan, some_labels, points)
    chart = anatomy_nodes.chart_of(anatomy)
    ids = [chart.GetNthPlotSeriesNodeID(n) for n in range(3)]
    rows = [np.flatnonzero(points["labels"] == label) for label in (1, 2, 3)]
    chosen = np.concatenate(rows[:2])
    xy = points["xy"][chosen].astype(float)
    expected = chosen[np.argmin(((xy - xy.mean(axis=0)) ** 2).sum(axis=1))]
    assert anatomy_nodes.selected_point(anatomy, ids[:2], rows[:2]) == expected
    assert anatomy_nodes.selected_point(anatomy, [], []) is None
    anatomy_nodes.mark_point(anatomy, 5)  # the mark itself is no point of the sample
    mark = chart.GetNthPlotSeriesNodeID(3)
    assert anatomy_nodes.selected_point(anatomy, [mark], [np.array([0])]) is None
    assert anatomy_nodes.selected_point(anatomy, [mark, ids[2]], [np.array([0]), rows[2][:1]]) == rows[2][0]
    table = a_scan.GetScene().AddNewNodeByClass("vtkMRMLPlotSeriesNode", "somebody else's")
    assert anatomy_nodes.selected_point(anatomy, [table.GetID()], [np.array([0])]) is None


def test_a_point_says_what_it_is(a_scan, some_labels):
    points = some_points(some_labels)
    anatomy = an_anatomy(a_scan, some_labels, points)
    label = points["labels"][9]
    assert anatomy_nodes.point_name(anatomy, 9) == f"{label} soft tissue (suggested), {100 * label} HU"
    anatomy.GetSegmentation().GetSegment(f"cluster-{label}").SetName("liver")  # by the user
    assert anatomy_nodes.point_name(anatomy, 9) == f"liver, {100 * label} HU"


def test_the_mark_is_at_its_point(a_scan, some_labels):
    points = some_points(some_labels)
    anatomy = an_anatomy(a_scan, some_labels, points)
    chart = anatomy_nodes.chart_of(anatomy)
    for row in (4, 44):
        anatomy_nodes.mark_point(anatomy, row)
        series = chart.GetNthPlotSeriesNode(3)
        place = [column_of(series.GetTableNode(), axis).tolist() for axis in "xy"]
        assert place == [2 * [float(points["xy"][row, 0])], 2 * [float(points["xy"][row, 1])]]
        assert chart.GetNumberOfPlotSeriesNodes() == 4


def test_without_its_volume_or_plot_nothing_is_found_and_nothing_breaks(a_scene, a_scan, some_labels):
    anatomy = an_anatomy(a_scan, some_labels, some_points(some_labels))
    a_scene.RemoveNode(anatomy_nodes.chart_of(anatomy))
    anatomy_nodes.mark_point(anatomy, 1)
    assert anatomy_nodes.selected_point(anatomy, ["x"], [np.array([1])]) is None
    a_scene.RemoveNode(a_scan)
    assert anatomy_nodes.place_of(anatomy, 1) is None
    assert anatomy_nodes.nearest_point(anatomy, (0.0, 0.0, 0.0)) is None
    a_scene.RemoveNode(anatomy.GetNodeReference(anatomy_nodes.TABLE_ROLE))
    assert anatomy_nodes.cluster_table(anatomy) == []


def test_300_slices_hold_the_main_thread_for_no_time(a_scene):
    """The segments share one image: none is copied, none is looked at."""
    volume = a_volume(a_scene, np.zeros((300, 256, 256), np.int16))
    image = anatomy_nodes.new_label_image(volume)
    labels = np.random.default_rng(0).integers(0, 9, (4, 256, 256)).astype(np.uint8)
    image_array(image)[:4] = labels
    facts, points = some_facts(labels), some_points(labels, 2000)
    started = time.monotonic()
    anatomy = anatomy_nodes.show_anatomy(volume, image, facts, points)
    assert time.monotonic() - started < 0.1
    segments = anatomy.GetSegmentation()
    shared = {segments.GetNthSegment(i).GetRepresentation(anatomy_nodes.LABELMAP) for i in range(8)}
    assert shared == {image} and segments.GetNumberOfLayers() == 1
    started = time.monotonic()
    anatomy_nodes.nearest_point(anatomy, (0.0, 0.0, 0.0))
    anatomy_nodes.mark_point(anatomy, 3)
    assert time.monotonic() - started < 0.05
