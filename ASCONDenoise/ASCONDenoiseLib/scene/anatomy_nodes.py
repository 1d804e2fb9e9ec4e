"""The anatomy that a model's features show, as nodes: a segmentation, a table, a scatter plot of sample points.

These nodes hold everything, so that a saved scene has it all: the segmentation refers to the volume, to the table of
the clusters, to the table of the points and to the chart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import slicer
import vtk

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.scene.compare_layout import view_name
from ASCONDenoiseLib.scene.provenance import INPUT_ROLE, set_provenance
from ASCONDenoiseLib.scene.tables import column_of, fill_with_numbers, rows_of, text_table
from ASCONDenoiseLib.scene.volumes import ijk_to_ras_matrix, place_beside, transformed

TABLE_ROLE, POINTS_ROLE, CHART_ROLE, MARK_ROLE = "ASCON.Table", "ASCON.Points", "ASCON.Chart", "ASCON.Mark"
"""Node references of the segmentation; INPUT_ROLE refers to the volume."""

SEPARATION = {"silhouette": "Silhouette", "davies_bouldin": "DaviesBouldin", "intra_inter": "IntraInter"}
"""Field of `clustering.Separation` -> attribute of the segmentation, after "ASCON."."""

NEAR_MM = 10.0
"""Within this distance a point of the slice that was picked is preferred to points of other slices."""

MARKER_SIZE, MARK_SIZE = 6.0, 18.0
MARK_COLOR = (0.0, 0.0, 0.0)
"""Of the marked point, on the light background of Slicer's plots."""

VIEWS = "vtkMRMLAbstractViewNode"

LABELMAP = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


# --------------------------------------------------------------------------------------------------------- new nodes


def new_label_image(source: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkOrientedImageData:
    """An image for one label (uint8) per voxel of a volume, with its geometry; it is not initialised."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(source.GetImageData().GetDimensions())
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    directions = vtk.vtkMatrix4x4()
    source.GetIJKToRASDirectionMatrix(directions)
    image.SetDirectionMatrix(directions)
    image.SetSpacing(source.GetSpacing())
    image.SetOrigin(source.GetOrigin())
    return image


def show_anatomy(
    source: slicer.vtkMRMLScalarVolumeNode,
    labels: slicer.vtkOrientedImageData,
    facts: Mapping[str, Any],
    points: Mapping[str, np.ndarray],
    before: slicer.vtkMRMLSegmentationNode | None = None,
    translate: Callable[[str], str] = str,
) -> slicer.vtkMRMLSegmentationNode:
    """Makes all nodes for a volume's anatomy, in its scene; returns the segmentation. Copies no labels.

    Args:
        source: the volume node.
        labels: from `new_label_image`, 0 is the background; all segments share it.
        facts: the worker's result of `cluster`.
        points: ijk (N, 3), labels (N,), hu (N,) and xy (N, 2) of the sample points.
        before: an earlier segmentation whose nodes are used again, their contents replaced; None: new ones.
        translate: a function that translates texts.
    """
    scene, clusters = source.GetScene(), facts["clusters"]
    names = [messages.segment_name(cluster, translate) for cluster in clusters]
    segmentation = before or _new_segmentation(source)
    name = segmentation.GetName()

    def node_for(role: str, class_name: str, suffix: str) -> Any:
        node = segmentation.GetNodeReference(role) or scene.AddNewNodeByClass(class_name, f"{name} {suffix}")
        segmentation.SetNodeReferenceID(role, node.GetID())
        return node

    table = node_for(TABLE_ROLE, "vtkMRMLTableNode", "table")
    text_table(scene, table.GetName(), messages.cluster_rows(clusters, translate), table)
    points_table = node_for(POINTS_ROLE, "vtkMRMLTableNode", "points")
    _fill_points(points_table, clusters, points)
    _fill_chart(node_for(CHART_ROLE, "vtkMRMLPlotChartNode", "t-SNE"), points_table, clusters, names)
    _fill_segments(segmentation.GetSegmentation(), labels, clusters, names)
    made = {key: facts[key] for key in ("model", "device", "precision", "notes", "fit_slices")}
    set_provenance(segmentation, source, made | (facts["separation"] or {}))
    keep_off_difference(scene)
    return segmentation


def keep_off_difference(scene: slicer.vtkMRMLScene) -> None:
    """Keeps all anatomies out of the view of the difference, or shows them in all views where that is not on.

    Call it when that view comes or goes. A display node can only name the views that it is shown in.
    """
    views = [scene.GetNthNodeByClass(i, VIEWS) for i in range(scene.GetNumberOfNodesByClass(VIEWS))]
    others = [view.GetID() for view in views if view.GetLayoutName() != view_name("difference")]
    is_on = any(view.IsMappedInLayout() for view in views if view.GetID() not in others)
    for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        segmentation = scene.GetNthNodeByClass(i, "vtkMRMLSegmentationNode")
        display = segmentation.GetDisplayNode()
        if display is not None and segmentation.GetNodeReferenceID(TABLE_ROLE):
            with slicer.util.NodeModify(display):
                display.RemoveAllViewNodeIDs()
                for view_id in others if is_on else []:
                    display.AddViewNodeID(view_id)


def _new_segmentation(source: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """A node without segments, in the volume's scene, transformed as the volume is and beside it in the hierarchy."""
    scene = source.GetScene()
    name = scene.GenerateUniqueName(f"{source.GetName()} anatomy")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    node.CreateDefaultDisplayNodes()
    set_opacity(node, 0.0)  # outlines first: they hide nothing
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())  # before the next, or a saved one is resampled
    node.SetReferenceImageGeometryParameterFromVolumeNode(source)
    place_beside(source, node)
    return node


def _fill_segments(segmentation: slicer.vtkSegmentation, labels: Any, clusters: list, names: list[str]) -> None:
    segmentation.RemoveAllSegments()
    for cluster, name in zip(clusters, names, strict=True):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(*_unit(cluster["colour"]))
        segment.SetLabelValue(cluster["label"])
        segment.AddRepresentation(LABELMAP, labels)  # the same for all
        segmentation.AddSegment(segment, _segment_id(cluster["label"]))


def _fill_points(node: slicer.vtkMRMLTableNode, clusters: list, points: Mapping[str, np.ndarray]) -> None:
    """One row per point and one column y per cluster, NaN for the points of others: a plot's row is the point's."""
    x, y = points["xy"].astype(np.float32).T
    columns = {"x": x}
    for cluster in clusters:
        mine = points["labels"] == cluster["label"]
        columns[_y_column(cluster["label"])] = np.where(mine, y, np.float32(np.nan))
    columns |= {"y": y, "cluster": points["labels"].astype(np.int32)}
    columns |= {axis: points["ijk"][:, i].astype(np.int32) for i, axis in enumerate("ijk")}
    columns["HU"] = points["hu"].astype(np.float32)
    fill_with_numbers(node, columns)


def _fill_chart(chart: slicer.vtkMRMLPlotChartNode, points: Any, clusters: list, names: list[str]) -> None:
    scene = chart.GetScene()
    for old in [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())]:
        if old is not None:
            table = old.GetTableNode()
            scene.RemoveNode(old)
            if table is not None and table is not points:  # that of the marked point
                scene.RemoveNode(table)
    chart.RemoveAllPlotSeriesNodeIDs()
    chart.SetTitle(chart.GetName())
    chart.SetGridVisibility(False)
    chart.SetLegendVisibility(False)  # it would hide points; the table and the segments have names and colours
    chart.SetTitleFontSize(14)
    chart.SetAxisLabelFontSize(10)
    chart.SetXAxisTitleVisibility(False)  # only distances between points have a meaning
    chart.SetYAxisTitleVisibility(False)
    for cluster, name in zip(clusters, names, strict=True):
        series = _series(scene, name, points, _y_column(cluster["label"]), _unit(cluster["colour"]), MARKER_SIZE)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        chart.AddAndObservePlotSeriesNodeID(series.GetID())


def _series(
    scene: Any, name: str, table: Any, y: str, color: tuple[float, ...], size: float
) -> slicer.vtkMRMLPlotSeriesNode:
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName(y)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
    series.SetMarkerSize(size)
    series.SetColor(*color)
    return series


# -------------------------------------------------------------------------------------------------- what the nodes hold


def volume_of(segmentation: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume whose anatomy it is; None where that was removed."""
    return segmentation.GetNodeReference(INPUT_ROLE)


def chart_of(segmentation: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLPlotChartNode | None:
    """The scatter plot; None where that was removed."""
    return segmentation.GetNodeReference(CHART_ROLE)


def cluster_table(segmentation: slicer.vtkMRMLSegmentationNode) -> list[tuple[str, ...]]:
    """The rows of `messages.cluster_rows`, the header first; empty where the table was removed."""
    node = segmentation.GetNodeReference(TABLE_ROLE)
    return [] if node is None else rows_of(node)


def cluster_colors(segmentation: slicer.vtkMRMLSegmentationNode) -> list[tuple[float, float, float]]:
    """The segments' colours in their order, 0 to 1."""
    segments = segmentation.GetSegmentation()
    return [segments.GetNthSegment(i).GetColor() for i in range(segments.GetNumberOfSegments())]


def separation(segmentation: slicer.vtkMRMLSegmentationNode) -> dict[str, float] | None:
    """`clustering.Separation` as a dictionary; None where there is only one cluster."""
    texts = {name: segmentation.GetAttribute(f"ASCON.{attribute}") for name, attribute in SEPARATION.items()}
    return None if None in texts.values() else {name: float(text) for name, text in texts.items()}


def set_opacity(segmentation: slicer.vtkMRMLSegmentationNode, opacity: float) -> None:
    """How much the segments cover the image, 0 to 1; outlines stay."""
    if (display := segmentation.GetDisplayNode()) is not None:
        display.SetOpacity2DFill(opacity)


def set_outlines(segmentation: slicer.vtkMRMLSegmentationNode, shown: bool) -> None:
    """Whether slice views draw the segments' outlines."""
    if (display := segmentation.GetDisplayNode()) is not None:
        display.SetVisibility2DOutline(shown)


# ----------------------------------------------------------------------------------------------- points, plot and place


def point_name(segmentation: slicer.vtkMRMLSegmentationNode, row: int) -> str:
    """ "3 fat (suggested), -96 HU" """
    table = segmentation.GetNodeReference(POINTS_ROLE).GetTable()
    label, hu = (table.GetColumnByName(name).GetValue(row) for name in ("cluster", "HU"))
    segment = segmentation.GetSegmentation().GetSegment(_segment_id(label))
    return f"{segment.GetName() if segment else label}, {hu:.0f} HU"


def selected_point(
    segmentation: slicer.vtkMRMLSegmentationNode, series_ids: Iterable[str], rows: Iterable[np.ndarray]
) -> int | None:
    """The row of the point in the middle of those selected in the plot; None where none is a point of a cluster.

    Args:
        segmentation: of the anatomy.
        series_ids: of the plot series with selected points.
        rows: which points of each of those series, as the plot view reports them.
    """
    chart, points = chart_of(segmentation), segmentation.GetNodeReference(POINTS_ROLE)
    if chart is None or points is None:
        return None
    mine = [
        chosen
        for series_id, chosen in zip(series_ids, rows, strict=False)
        if chart.HasPlotSeriesNodeID(series_id) and _is_of(series_id, points)
    ]
    if not sum(map(len, mine)):
        return None
    chosen = np.concatenate(mine)
    xy = np.stack([_column(segmentation, name) for name in ("x", "y")], axis=1)[chosen]
    return int(chosen[np.square(xy - xy.mean(axis=0)).sum(axis=1).argmin()])


def place_of(segmentation: slicer.vtkMRMLSegmentationNode, row: int) -> tuple[float, float, float] | None:
    """Where a point lies, in the views' RAS (mm), the volume's transforms included; None without the volume."""
    volume = volume_of(segmentation)
    if volume is None or segmentation.GetNodeReference(POINTS_ROLE) is None:
        return None
    ijk = [float(_column(segmentation, axis)[row]) for axis in "ijk"]
    ras = ijk_to_ras_matrix(volume).MultiplyPoint((*ijk, 1.0))[:3]
    return transformed(volume.GetParentTransformNode(), None, ras)


def nearest_point(
    segmentation: slicer.vtkMRMLSegmentationNode, place: tuple[float, float, float]
) -> tuple[int, float] | None:
    """(row, distance in mm) of the point nearest to a place in the views' RAS; None without the volume or points.

    A point of the same slice within NEAR_MM is preferred to nearer ones of other slices. Distances are measured in the
    volume itself, before its transforms.
    """
    volume = volume_of(segmentation)
    if volume is None or segmentation.GetNodeReference(POINTS_ROLE) is None:
        return None
    ras = transformed(None, volume.GetParentTransformNode(), place)
    matrix = ijk_to_ras_matrix(volume)
    ijk = np.stack([_column(segmentation, axis) for axis in "ijk"], axis=1)
    if not len(ijk):
        return None
    to_ras = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(3)])
    distances = np.linalg.norm(ijk @ to_ras[:, :3].T + to_ras[:, 3] - ras, axis=1)
    matrix.Invert()
    own_slice = round(matrix.MultiplyPoint((*ras, 1.0))[2])
    preferred = np.where((ijk[:, 2] == own_slice) & (distances <= NEAR_MM), distances, distances + NEAR_MM)
    row = int(preferred.argmin())
    return row, float(distances[row])


def mark_point(segmentation: slicer.vtkMRMLSegmentationNode, row: int, name: str = "picked") -> None:
    """Marks one point in the plot by a series called `name`; the mark before is moved."""
    chart = chart_of(segmentation)
    if chart is None:
        return
    place = {axis: _column(segmentation, axis)[[row, row]] for axis in "xy"}  # twice: VTK refuses a line of one point
    scene, series = segmentation.GetScene(), segmentation.GetNodeReference(MARK_ROLE)
    if series is None:
        table = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{segmentation.GetName()} {name}")
        table.SetHideFromEditors(True)
        fill_with_numbers(table, place)
        series = _series(scene, name, table, "y", MARK_COLOR, MARK_SIZE)
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCross)
        segmentation.SetNodeReferenceID(MARK_ROLE, series.GetID())
    else:
        fill_with_numbers(series.GetTableNode(), place)
    if not chart.HasPlotSeriesNodeID(series.GetID()):
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    chart.Modified()


def _column(segmentation: slicer.vtkMRMLSegmentationNode, name: str) -> np.ndarray:
    return column_of(segmentation.GetNodeReference(POINTS_ROLE), name)


def _is_of(series_id: str, points: slicer.vtkMRMLTableNode) -> bool:
    return points.GetScene().GetNodeByID(series_id).GetTableNode() is points


def _unit(colour: Iterable[int]) -> tuple[float, ...]:
    return tuple(value / 255 for value in colour)


def _segment_id(label: int) -> str:
    return f"cluster-{label}"


def _y_column(label: int) -> str:
    return f"y {label}"
