"""Plot views: scatter plots by VTK's own charts."""

import vtk
import vtkmodules.vtkChartsCore
import vtkmodules.vtkRenderingContextOpenGL2
import vtkmodules.vtkViewsContext2D  # noqa: F401 - or vtk has no charts
from PySide6 import QtGui, QtWidgets
from PySide6.QtCore import Signal

from .slice_views import picture_of
from .widgets import offered, qMRMLWidget


@offered
class qMRMLPlotView(QtWidgets.QWidget):
    """A chart node's scatter series in VTK's chart, which selects as in Slicer; other kinds of series are refused."""

    mrmlSceneChanged, dataSelected = Signal(object), Signal(object, object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = self._chart_node = self._image = None
        self._tags, self._plots = [], {}  # series node's ID -> plot
        self._view, self._chart = vtk.vtkContextView(), vtk.vtkChartXY()
        self._view.GetRenderWindow().SetOffScreenRendering(1)
        self._view.GetScene().AddItem(self._chart)
        self._chart.GetBackgroundBrush().SetColor(255, 253, 246, 255)
        self._chart.AddObserver("SelectionChangedEvent", lambda *_: self._selected())
        self.setMinimumSize(64, 64)

    def setMRMLScene(self, scene):
        self.mrmlSceneChanged.emit(scene)

    def setMRMLPlotViewNode(self, node):
        self._node = node
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._follow())
        self._follow()

    def chart(self):
        return self._chart

    def renderWindow(self):
        return self._view.GetRenderWindow()

    def RemovePlotSelections(self):
        for plot in self._plots.values():
            plot.SetSelection(None)

    def _follow(self):
        chart = self._node.GetPlotChartNode()
        if chart is not self._chart_node:
            for node, tag in self._tags:
                node.RemoveObserver(tag)
            self._chart_node, self._tags = chart, []
            if chart is not None:
                self._tags = [(chart, chart.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._draw()))]
        self._draw()

    def _draw(self):
        node = self._chart_node
        series = [node.GetNthPlotSeriesNode(i) for i in range(node.GetNumberOfPlotSeriesNodes())] if node else []
        series = {one.GetID(): one for one in series if one is not None and one.GetTableNode() is not None}
        for gone in [one for one in self._plots if one not in series]:
            self._chart.RemovePlotInstance(self._plots.pop(gone))
        for name, one in series.items():
            if one.GetPlotType() != one.PlotTypeScatter:
                raise NotImplementedError("plots other than scatter plots are not offered by the stand-in")
            if name not in self._plots:
                self._plots[name] = vtk.vtkPlotLine()
                self._chart.AddPlot(self._plots[name])
            plot = self._plots[name]
            plot.SetInputData(one.GetTableNode().GetTable(), one.GetXColumnName(), one.GetYColumnName())
            plot.SetColorF(*one.GetColor(), 1.0)
            plot.SetWidth(one.GetLineWidth())
            plot.GetPen().SetLineType(one.GetLineStyle())  # both count as VTK's pens do
            plot.SetMarkerSize(one.GetMarkerSize())
            plot.SetMarkerStyle(one.GetMarkerStyle())
            plot.SetLabel(one.GetName())
        if node is not None:
            self._chart.SetTitle((node.GetTitle() or "") if node.GetTitleVisibility() else "")
            self._chart.GetTitleProperties().SetFontSize(node.GetTitleFontSize())
            self._chart.SetShowLegend(node.GetLegendVisibility())
            self._chart.GetLegend().GetLabelProperties().SetFontSize(node.GetLegendFontSize())
            for axis, shown in ((0, node.GetYAxisTitleVisibility()), (1, node.GetXAxisTitleVisibility())):
                title = (node.GetYAxisTitle, node.GetXAxisTitle)[axis]()
                self._chart.GetAxis(axis).SetTitle((title or "") if shown else "")
                self._chart.GetAxis(axis).SetGridVisible(node.GetGridVisibility())
        self._image = None
        self.update()

    def _selected(self):
        names, rows = vtk.vtkStringArray(), vtk.vtkCollection()
        for name, plot in self._plots.items():
            if plot.GetSelection() is not None and plot.GetSelection().GetNumberOfValues():
                names.InsertNextValue(name)
                rows.AddItem(plot.GetSelection())
        self.dataSelected.emit(names, rows)

    def paintEvent(self, _event):
        if self._image is None:
            self.renderWindow().SetSize(self.width(), self.height())
            self._image = picture_of(self.renderWindow())
        QtGui.QPainter(self).drawImage(self.rect(), self._image)

    def resizeEvent(self, _event):
        self._image = None


@offered
class qMRMLPlotWidget(qMRMLWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._view = qMRMLPlotView(self)
        box = QtWidgets.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._view)

    def setMRMLPlotViewNode(self, node):
        self.setObjectName(f"qMRMLPlotWidget{node.GetLayoutName()}")
        self._node = node
        self._view.setMRMLPlotViewNode(node)

    def mrmlPlotViewNode(self):
        return self._node

    mrmlAbstractViewNode = mrmlPlotViewNode

    def plotView(self):
        return self._view

    viewWidget = plotView
