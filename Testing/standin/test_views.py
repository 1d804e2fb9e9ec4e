"""Slice views and plots show real nodes."""

from __future__ import annotations

import numpy as np
import vtk
from vtk.util import numpy_support

from standin.started import a_volume, qt, slicer


def test_slice_views_show_the_scene() -> None:
    manager = slicer.app.layoutManager()
    window = slicer.util.mainWindow()
    window.resize(600, 400)
    window.show()
    node = a_volume()
    slicer.util.updateVolumeFromArray(node, np.full((9, 32, 32), 100, np.int16))
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(0)
    node.GetDisplayNode().SetWindowLevel(200, 100)
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
    slicer.app.processEvents()
    assert manager.sliceWidget("Red").visible
    assert not manager.sliceWidget("Green").visible
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    view = manager.sliceWidget("Red").sliceView()

    def middle() -> int:
        image = view.grab().toImage()
        return qt.QColor(image.pixel(image.width() // 2, image.height() // 2)).red()

    assert abs(middle() - 128) <= 2  # the centre of the window is mid-grey
    node.GetDisplayNode().SetWindowLevel(200, 0)
    assert middle() == 255
    assert manager.sliceWidget("Red").sliceLogic().GetSliceOffset() == 4
    assert slicer.mrmlScene.GetSubjectHierarchyNode().GetItemByDataNode(node)


def test_views_know_whether_they_are_shown_and_say_what_they_are_called() -> None:
    manager, layouts = slicer.app.layoutManager(), slicer.vtkMRMLLayoutNode
    manager.setLayout(layouts.SlicerLayoutFourUpView)
    nodes = {name: manager.sliceWidget(name).mrmlSliceNode() for name in ("Red", "Green")}
    assert [node.IsMappedInLayout() for node in nodes.values()] == [True, True]
    manager.setLayout(layouts.SlicerLayoutOneUpRedSliceView)
    assert [node.IsMappedInLayout() for node in nodes.values()] == [True, False]
    manager.setLayout(layouts.SlicerLayoutFourUpView)
    assert nodes["Green"].IsMappedInLayout()
    nodes["Red"].SetLayoutLabel("other")
    assert manager.sliceWidget("Red").sliceViewLabel == "other"
    labels = manager.sliceWidget("Red").sliceController().findChildren(qt.QLabel)
    assert [label.text for label in labels] == ["other"]
    nodes["Red"].SetLayoutLabel("R")


def test_plot_views_show_a_chart_and_say_what_is_selected() -> None:
    """Real charts: rows of points that are not numbers are neither drawn nor selected."""
    xy = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    xy[::2, 1] = np.nan
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "points")
    for column, name in zip(xy.T, "xy", strict=True):
        values = numpy_support.numpy_to_vtk(column, deep=True)
        values.SetName(name)
        table.AddColumn(values)
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "some")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(series.PlotTypeScatter)
    series.SetLineStyle(series.LineStyleNone)
    chart_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "chart")
    chart_node.AddAndObservePlotSeriesNodeID(series.GetID())
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    slicer.modules.plots.logic().ShowChartInLayout(chart_node)
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpPlotView
    view = manager.plotWidget(0).plotView()
    assert manager.plotWidget(manager.plotViewCount) is None
    said = []
    view.connect("dataSelected(vtkStringArray*, vtkCollection*)", lambda ids, rows: said.append((ids, rows)))
    view.chart().GetPlot(0).Update()  # as when it is drawn
    view.chart().GetPlot(0).SelectPoints(vtk.vtkVector2f(-1, -1), vtk.vtkVector2f(1, 1))
    view.chart().InvokeEvent("SelectionChangedEvent")
    ((ids, rows),) = said
    assert [ids.GetValue(i) for i in range(ids.GetNumberOfValues())] == [series.GetID()]
    chosen = numpy_support.vtk_to_numpy(rows.GetItemAsObject(0))
    assert chosen.tolist() == np.flatnonzero((abs(xy) <= 1).all(axis=1)).tolist()
    assert len(chosen) > 5
    slicer.mrmlScene.RemoveNode(series)
    assert view.chart().GetNumberOfPlots() == 0
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
