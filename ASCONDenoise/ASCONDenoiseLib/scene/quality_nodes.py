"""Image quality in the scene: what the user drew as voxels, curves as a chart, a map over the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.difference import NOTHING, level_colours
from ASCONDenoiseLib.scene.compare_layout import view_name
from ASCONDenoiseLib.scene.display import color_node, difference_colors, show_scale
from ASCONDenoiseLib.scene.tables import fill_with_numbers
from ASCONDenoiseLib.scene.volumes import ijk_to_ras_matrix, ijk_to_world, transformed

Point = tuple[float, float, float]

IN_SLICE = 0.75
"""A curve or a line may leave the middle of its slice by so many slices."""

MAP_LAYER = 3
"""Of slice views, over background, foreground and labels."""

MAP_OPACITY = 0.6

CURVE_COLORS = {"LDCT": (0.76, 0.25, 0.05), "denoised": (0.11, 0.31, 0.85), "NDCT": (0.08, 0.5, 0.24)}

_LEVELS_TAG = "ASCONNoiseColors"

# ------------------------------------------------------------------------------------------------- what the user drew


def region_of(volume: slicer.vtkMRMLScalarVolumeNode, markups: slicer.vtkMRMLMarkupsNode) -> dict[str, Any]:
    """What the worker's job "regions" measures: the inside of a closed curve, or the ellipsoid in a box, in voxels.

    Raises InputError where it is not complete or not in one slice of the volume.
    """
    if markups.IsA("vtkMRMLMarkupsROINode"):
        return _ellipsoid_of(volume, markups)
    points = vtk.vtkPoints()
    markups.GetControlPointPositionsWorld(points)
    if points.GetNumberOfPoints() < 3:
        raise InputError(f'The curve "{markups.GetName()}" needs three points or more.')
    curve = markups.GetCurvePointsWorld()  # between the points, too
    ijk = np.array([_ijk_of(volume, curve.GetPoint(i)) for i in range(curve.GetNumberOfPoints())])
    return {"points": ijk[:, :2].tolist(), "slice": _slice_of(ijk[:, 2], markups)}


def _ellipsoid_of(volume: slicer.vtkMRMLScalarVolumeNode, box: slicer.vtkMRMLMarkupsROINode) -> dict[str, Any]:
    size, to_world = box.GetSize(), box.GetObjectToWorldMatrix()
    if min(size) <= 0:
        raise InputError(f'The box "{box.GetName()}" has no extent. Draw it first.')
    centre = np.array(_ijk_of(volume, to_world.MultiplyPoint((0, 0, 0, 1))[:3]))
    ends = [[half if i == axis else 0.0 for i in range(3)] for axis, half in enumerate(np.array(size) / 2)]
    axes = [np.array(_ijk_of(volume, to_world.MultiplyPoint((*end, 1))[:3])) - centre for end in ends]
    return {"centre": centre.tolist(), "axes": [axis.tolist() for axis in axes]}


def edge_of(volume: slicer.vtkMRMLScalarVolumeNode, line: slicer.vtkMRMLMarkupsLineNode) -> dict[str, Any]:
    """The ends of a line in voxels, for the same job. Raises InputError as `region_of`."""
    points = vtk.vtkPoints()
    line.GetControlPointPositionsWorld(points)
    if points.GetNumberOfPoints() < 2:
        raise InputError(f'The line "{line.GetName()}" needs its second end.')
    start, end = (_ijk_of(volume, points.GetPoint(i)) for i in range(2))
    return {"start": start[:2], "end": end[:2], "slice": _slice_of(np.array([start[2], end[2]]), line)}


def _ijk_of(volume: slicer.vtkMRMLScalarVolumeNode, world: Sequence[float]) -> Point:
    """The voxel (column, row, slice), as real numbers, at a place in the views' RAS."""
    ras = transformed(None, volume.GetParentTransformNode(), (world[0], world[1], world[2]))
    matrix = ijk_to_ras_matrix(volume)
    matrix.Invert()
    i, j, k, _one = matrix.MultiplyPoint((*ras, 1.0))
    return i, j, k


def _slice_of(k: np.ndarray, markups: slicer.vtkMRMLMarkupsNode) -> int:
    if np.abs(k - round(float(k.mean()))).max() > IN_SLICE:
        raise InputError(f'"{markups.GetName()}" does not lie in one axial slice of the volume. Draw it in one.')
    return round(float(k.mean()))


# ------------------------------------------------------------------------------------------------------------- curves


def fill_chart(
    scene: slicer.vtkMRMLScene,
    name: str,
    titles: tuple[str, str],
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chart: slicer.vtkMRMLPlotChartNode | None = None,
) -> slicer.vtkMRMLPlotChartNode:
    """A chart of curves, each with a table of its own.

    Args:
        scene: gets the nodes.
        name: of the chart.
        titles: of the axes, x and y.
        curves: "LDCT", "denoised", "NDCT" -> x and y.
        chart: an earlier one, whose nodes are used again; None: a new one.
    """
    if chart is None or chart.GetScene() is None:
        chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
        chart.SetTitle(name)
        chart.SetTitleFontSize(14)
        chart.SetAxisLabelFontSize(10)
        chart.SetXAxisTitle(titles[0])
        chart.SetYAxisTitle(titles[1])
        chart.SetLegendVisibility(True)
    known = {series.GetName(): series for i in range(chart.GetNumberOfPlotSeriesNodes())
             if (series := chart.GetNthPlotSeriesNode(i)) is not None}  # fmt: skip
    for gone in [series for curve, series in known.items() if curve not in curves]:
        chart.RemovePlotSeriesNodeID(gone.GetID())
        if gone.GetTableNode() is not None:
            scene.RemoveNode(gone.GetTableNode())
        scene.RemoveNode(gone)
    for curve, (x, y) in curves.items():
        series = known.get(curve) or _series(scene, chart, curve)
        fill_with_numbers(series.GetTableNode(), {"x": np.asarray(x, float), "y": np.asarray(y, float)})
    chart.Modified()
    return chart


def _series(scene: slicer.vtkMRMLScene, chart: slicer.vtkMRMLPlotChartNode, name: str) -> slicer.vtkMRMLPlotSeriesNode:
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{chart.GetName()} {name}")
    fill_with_numbers(table, {"x": np.zeros(2), "y": np.zeros(2)})
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    series.SetName(name)  # the legend; others may have it, too
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleSolid)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    series.SetLineWidth(2)
    series.SetColor(*CURVE_COLORS.get(name, (0.0, 0.0, 0.0)))
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    return series


# ---------------------------------------------------------------------------------------------------------------- maps


def style_noise_map(node: slicer.vtkMRMLScalarVolumeNode, limit_hu: float) -> None:
    """Shows a noise map from 0 to the limit."""
    _style(node, level_colors(node.GetScene()), (0.0, limit_hu))


def style_consistency_map(node: slicer.vtkMRMLScalarVolumeNode, limit_z: float) -> None:
    """Shows where what denoising changed is no noise: blue where HU fell, red where they rose."""
    _style(node, difference_colors(node.GetScene()), (-limit_z, limit_z))


def _style(
    node: slicer.vtkMRMLScalarVolumeNode,
    colors: slicer.vtkMRMLColorTableNode,
    ends: tuple[float, float],
) -> None:
    """Gives a map colours between its ends; where it holds NOTHING it is transparent."""
    display = node.GetVolumeDisplayNode()
    with slicer.util.NodeModify(display):
        display.SetAndObserveColorNodeID(colors.GetID())
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(*ends)
        display.SetInterpolate(False)
        display.SetAutoThreshold(False)
        display.SetThreshold(-NOTHING / 2, NOTHING / 2)
        display.SetApplyThreshold(True)


def level_colors(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    """The scene's colour node for levels of noise, from dark to bright."""
    return color_node(scene, _LEVELS_TAG, "ASCON noise", level_colours(np.linspace(0, 1, 256)))


def show_map(node: slicer.vtkMRMLScalarVolumeNode, unit: str) -> None:
    """Shows a map over the slices in all views but that of the difference, with a scale in its unit."""
    for composite in _composites(node.GetScene()):
        composite.SetNthLayerVolumeID(MAP_LAYER, node.GetID())
        composite.SetNthLayerOpacity(MAP_LAYER, MAP_OPACITY)
    show_scale(node).SetTitleText(unit)


def hide_map(scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Takes the map off the slices."""
    for composite in _composites(scene):
        if node is None or composite.GetNthLayerVolumeID(MAP_LAYER) == node.GetID():
            composite.SetNthLayerVolumeID(MAP_LAYER, None)
    here = node is not None and node.GetScene() is scene
    scale = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node) if here else None
    if scale is not None:
        scene.RemoveNode(scale)


def _composites(scene: slicer.vtkMRMLScene) -> list[Any]:
    kind = "vtkMRMLSliceCompositeNode"
    composites = [scene.GetNthNodeByClass(i, kind) for i in range(scene.GetNumberOfNodesByClass(kind))]
    return [one for one in composites if one.GetLayoutName() != view_name("difference")]


def place_of(volume: slicer.vtkMRMLScalarVolumeNode, ijk: Sequence[float]) -> Point:
    """A voxel (column, row, slice) in the views' RAS."""
    x, y, z = ijk_to_world(volume).MultiplyPoint((*ijk, 1.0))[:3]
    return x, y, z
