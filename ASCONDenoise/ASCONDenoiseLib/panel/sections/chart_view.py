"""A button that shows a chart in Slicer's plot view while it is down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qt
import slicer

from ASCONDenoiseLib.panel.sections.compare import isCompareLayout
from ASCONDenoiseLib.scene.quality_nodes import fill_chart


class ChartView:
    """Holds a chart's curves, and shows and hides them. The scene gets nodes of them when they are first shown.

    Attributes:
        button: is enabled once there are curves.
        chart: the chart's node; None before it was shown.
    """

    def __init__(self, button: qt.QPushButton):
        self.button = button
        self.chart: Any = None
        self._content: tuple[Any, ...] = ()
        self._layoutBefore: int | None = None
        button.clicked.connect(self.onButton)

    def close(self) -> None:
        """Lets go of the chart, which stays in the scene."""
        self.chart, self._content = None, ()

    def fill(
        self, name: str, titles: tuple[str, str], curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    ) -> None:
        """Takes curves for the chart; see `quality_nodes.fill_chart`."""
        self._content = name, titles, curves
        if self.chart is not None and self.chart.GetScene() is not None:
            self._fillChart()
        self.button.enabled = True

    def _fillChart(self) -> None:
        name, titles, curves = self._content
        self.chart = fill_chart(slicer.mrmlScene, name, titles, curves, self.chart)

    def onButton(self) -> None:
        if self.button.checked and self._content:
            self._fillChart()
        manager = slicer.app.layoutManager()
        if manager is None or self.chart is None or self.chart.GetScene() is None:
            pass
        elif self.button.checked:
            if not _hasPlot(manager.layout):
                four = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
                self._layoutBefore = four if isCompareLayout(manager.layout) else manager.layout
            slicer.modules.plots.logic().ShowChartInLayout(self.chart)
        elif _hasPlot(manager.layout):
            manager.setLayout(self._layoutBefore or slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.onLayoutChanged()

    def onLayoutChanged(self) -> None:
        """Follows plot views, which come and go with Slicer's own buttons and show other charts too."""
        manager = slicer.app.layoutManager()
        views = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
        shown = self.chart is not None and any(view.GetPlotChartNodeID() == self.chart.GetID() for view in views)
        self.button.checked = manager is not None and _hasPlot(manager.layout) and shown


def _hasPlot(layout: int) -> bool:
    """Whether Slicer knows this layout as one with a plot view."""
    return slicer.vtkSlicerPlotsLogic.GetLayoutWithPlot(layout) == layout
