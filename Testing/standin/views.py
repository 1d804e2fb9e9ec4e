"""Layout manager, slice and plot views: real layout and slice logics; pictures come from slicer-core's displayable
managers, those of plots from VTK's own charts. 3D and table views are empty frames: their counts are 0.
"""

from xml.etree import ElementTree

import slicer
import vtk
import vtkmodules.vtkChartsCore
import vtkmodules.vtkRenderingContextOpenGL2
import vtkmodules.vtkViewsContext2D  # noqa: F401 - or vtk has no charts
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property, Signal
from vtkmodules.util.numpy_support import vtk_to_numpy

from .widgets import offered, qMRMLSliderWidget, qMRMLWidget

MANAGERS = ("VolumeGlyphSlice", "ModelSlice", "Crosshair", "OrientationMarker", "Ruler", "ScalarBar")
MODULE_MANAGERS = ("vtkMRMLColorLegendDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D")


@offered
class qMRMLSliceView(QtWidgets.QWidget):
    """The picture of a slice, rendered when somebody looks. As in Slicer, it draws scales that come after it only."""

    resized = Signal(QtCore.QSize)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._logic = self._window = self._image = None
        self._tags, self._paused = [], False
        self.setMinimumSize(64, 64)

    def set_logic(self, logic):
        self._logic = logic
        for who in (logic, logic.GetBlend(), logic.GetSliceNode()):
            self._tags.append((who, who.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.scheduleRender())))
        self.renderWindow()

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def renderWindow(self):
        if self._window is not None:
            return self._window
        self._window, self._renderer = vtk.vtkRenderWindow(), vtk.vtkRenderer()
        self._window.SetOffScreenRendering(1)
        self._window.AddRenderer(self._renderer)
        self._window.SetMultiSamples(0)
        mapper, actor = vtk.vtkImageMapper(), vtk.vtkActor2D()
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor.SetMapper(mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._mapper, self._actor = mapper, actor
        self._renderer.AddViewProp(actor)
        self._corner = vtk.vtkCornerAnnotation()
        self._renderer.AddViewProp(self._corner)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._window.SetSize(self.width(), self.height())
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        for name in [f"vtkMRML{kind}DisplayableManager" for kind in MANAGERS] + list(MODULE_MANAGERS):
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = factory.InstantiateDisplayableManagers(self._renderer)
        self._group.SetMRMLDisplayableNode(self._logic.GetSliceNode())
        self._group.AddObserver(vtk.vtkCommand.UpdateEvent, lambda *_: self.scheduleRender())
        return self._window

    def interactor(self):
        self.renderWindow()
        return self._interactor

    def cornerAnnotation(self):
        self.renderWindow()
        return self._corner

    def displayableManagerByClassName(self, name):
        self.renderWindow()
        return self._group.GetDisplayableManagerByClassName(name)

    def scheduleRender(self):
        self._image = None
        self.update()

    def forceRender(self):
        window = self.renderWindow()
        window.SetSize(self.width(), self.height())
        image = self._logic.GetImageDataConnection()
        self._actor.SetVisibility(image is not None)
        if image is not None:
            self._mapper.SetInputConnection(image)
        self._image = _picture(window)

    def paintEvent(self, _event):
        if self._image is None and not self._paused:
            self.forceRender()
        if self._image is not None:
            QtGui.QPainter(self).drawImage(self.rect(), self._image)

    def resizeEvent(self, _event):
        if self._logic is not None:
            self._logic.ResizeSliceNode(self.width(), self.height())
        self.scheduleRender()
        self.resized.emit(self.size())


def _picture(window):
    """What a render window shows."""
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.ShouldRerenderOff()
    grabber.Update()
    output = grabber.GetOutput()
    width, height, _ = output.GetDimensions()
    pixels = vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)[::-1].tobytes()
    return QtGui.QImage(pixels, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


@offered
class qMRMLSliceControllerWidget(qMRMLWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._label, self._slider = QtWidgets.QLabel(self), qMRMLSliderWidget(self)
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(2, 0, 2, 0)
        box.addWidget(self._label)
        box.addWidget(self._slider, 1)

    def set_logic(self, logic):
        self._logic, self._tags = logic, []
        node = logic.GetSliceNode()
        self._label.setText(node.GetLayoutLabel() or node.GetLayoutName())
        colour = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
        self._label.setStyleSheet(f"background: {colour.name()}; font-weight: bold; padding: 0 6px")
        self._slider.valueChanged.connect(self.setSliceOffsetValue)
        logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())

    def _show(self):
        ends, step = [0.0, 0.0], vtk.reference(0.0)
        if self._logic.GetSliceOffsetRangeResolution(ends, step):
            with QtCore.QSignalBlocker(self._slider):
                self._slider.setRange(*ends)
                self._slider.singleStep = float(step)
                self._slider.setValue(self._logic.GetSliceOffset())

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceLogic(self):
        return self._logic

    def sliceOffsetSlider(self):
        return self._slider

    def setSliceOffsetValue(self, offset):
        self._logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.SliceToRASFlag)
        self._logic.SetSliceOffset(offset)
        self._logic.EndSliceNodeInteraction()

    def fitSliceToBackground(self):
        self._logic.StartSliceNodeInteraction(slicer.vtkMRMLSliceNode.ResetFieldOfViewFlag)
        self._logic.FitSliceToBackground()
        self._logic.GetSliceNode().UpdateMatrices()
        self._logic.EndSliceNodeInteraction()

    def setSliceLink(self, linked):
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetLinkedControl(linked)

    def setHotLinked(self, hot):
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            composite.SetHotLinkedControl(hot)


@offered
class qMRMLSliceWidget(qMRMLWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._bar, self._view = qMRMLSliceControllerWidget(self), qMRMLSliceView(self)
        box = QtWidgets.QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(0)
        box.addWidget(self._bar)
        box.addWidget(self._view, 1)

    def set_logic(self, logic):
        self._logic = logic
        self.setObjectName(f"qMRMLSliceWidget{logic.GetSliceNode().GetLayoutName()}")
        self._bar.set_logic(logic)
        self._view.set_logic(logic)

    def sliceLogic(self):
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    mrmlAbstractViewNode = mrmlSliceNode

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceController(self):
        return self._bar

    controllerWidget = sliceController

    def sliceView(self):
        return self._view

    viewWidget = sliceView

    def fitSliceToBackground(self):
        self._bar.fitSliceToBackground()

    sliceViewName = Property(str, lambda self: self.mrmlSliceNode().GetLayoutName())
    sliceViewLabel = Property(str, lambda self: self.mrmlSliceNode().GetLayoutLabel())


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
            if one.GetPlotType() != one.PlotTypeScatter or one.GetLineStyle() != one.LineStyleNone:
                raise NotImplementedError("plots other than scatter plots are not offered by the stand-in")
            if name not in self._plots:
                self._plots[name] = vtk.vtkPlotLine()
                self._chart.AddPlot(self._plots[name])
            plot = self._plots[name]
            plot.SetInputData(one.GetTableNode().GetTable(), one.GetXColumnName(), one.GetYColumnName())
            plot.SetColorF(*one.GetColor(), 1.0)
            plot.SetWidth(one.GetLineWidth())
            plot.GetPen().SetLineType(0)
            plot.SetMarkerSize(one.GetMarkerSize())
            plot.SetMarkerStyle(one.GetMarkerStyle())
            plot.SetLabel(one.GetName())
        if node is not None:
            self._chart.SetTitle((node.GetTitle() or "") if node.GetTitleVisibility() else "")
            self._chart.GetTitleProperties().SetFontSize(node.GetTitleFontSize())
            self._chart.SetShowLegend(node.GetLegendVisibility())
            self._chart.GetLegend().GetLabelProperties().SetFontSize(node.GetLegendFontSize())
            for axis, shown in ((0, node.GetYAxisTitleVisibility()), (1, node.GetXAxisTitleVisibility())):
                self._chart.GetAxis(axis).SetTitle("" if not shown else ("Y", "X")[axis])
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
            self._image = _picture(self.renderWindow())
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


@offered
class qSlicerLayoutManager(QtCore.QObject):
    layoutChanged = Signal(int)
    threeDViewCount, tableViewCount = 0, 0

    def __init__(self, application_logic):
        super().__init__()
        self._application, self._viewport, self._widgets, self._shown = application_logic, None, {}, None
        self._plots = {}
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._slices = vtk.vtkCollection()
        application_logic.SetSliceLogics(self._slices)
        slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(application_logic)

    def setViewport(self, widget):
        self._viewport = widget
        box = QtWidgets.QVBoxLayout(widget)
        box.setContentsMargins(0, 0, 0, 0)

    def viewport(self):
        return self._viewport

    def setMRMLScene(self, scene):
        self._scene = scene
        self._logic.SetMRMLApplicationLogic(self._application)
        self._logic.SetMRMLScene(scene)
        node = self._logic.GetLayoutNode()
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._arrange())
        self._arrange()

    def mrmlScene(self):
        return self._scene

    def layoutLogic(self):
        return self._logic

    def mrmlSliceLogics(self):
        return self._slices

    def setLayout(self, number):
        self._logic.GetLayoutNode().SetViewArrangement(number)

    layout = Property(int, lambda self: self._logic.GetLayoutNode().GetViewArrangement(), setLayout)

    def sliceViewNames(self):
        return list(self._widgets)

    def sliceWidget(self, name):
        return self._widgets.get(name)

    plotViewCount = Property(int, lambda self: len(self._plots))

    def plotWidget(self, index):
        return list(self._plots.values())[index] if 0 <= index < len(self._plots) else None

    def viewWidget(self, node):
        return self._widgets.get(node.GetLayoutName()) if node is not None else None

    def viewWidgets(self):
        return list(self._widgets.values())

    def resetSliceViews(self):
        for widget in self._widgets.values():
            widget.fitSliceToBackground()

    def setRenderPaused(self, pause):
        for widget in self._widgets.values():
            widget._view._paused = pause
            widget._view.update()

    # the layout's description -> splitters of views

    def _arrange(self):
        node = self._logic.GetLayoutNode()
        text = node.GetCurrentLayoutDescription()
        if text == self._shown or not text:
            return
        self._shown = text
        box = self._viewport.layout()
        for widget in (*self._widgets.values(), *self._plots.values()):
            widget.hide()
            widget.setParent(self._viewport)
        while box.count():
            box.takeAt(0).widget().deleteLater()
        box.addWidget(self._built(ElementTree.fromstring(text)))
        self.layoutChanged.emit(node.GetViewArrangement())

    def _built(self, element):
        if element.tag == "view":
            return self._view(element)
        horizontal = element.get("type", "horizontal") != "vertical"
        tabs = element.get("type") == "tab"
        holder = QtWidgets.QTabWidget() if tabs else QtWidgets.QSplitter(QtCore.Qt.Orientation(1 if horizontal else 2))
        for item in element.findall("item"):
            for child in item:
                widget = self._built(child)
                holder.addTab(widget, item.get("name", "")) if tabs else holder.addWidget(widget)
        if not tabs:
            holder.setSizes([int(100 * float(i.get("splitSize", 0)) or 1000) for i in element.findall("item")])
        return holder

    def _view(self, element):
        tag = element.get("singletontag")
        node = self._scene.GetSingletonNode(tag, element.get("class"))
        if element.get("class") == "vtkMRMLPlotViewNode" and node is not None:
            if tag not in self._plots:
                self._plots[tag] = qMRMLPlotWidget(self._viewport)
                self._plots[tag].setMRMLPlotViewNode(node)
            self._plots[tag].show()
            return self._plots[tag]
        if element.get("class") != "vtkMRMLSliceNode" or node is None:
            return QtWidgets.QFrame()
        if tag not in self._widgets:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application)
            logic.SetMRMLScene(self._scene)
            logic.SetSliceNode(node)
            self._slices.AddItem(logic)
            self._widgets[tag] = qMRMLSliceWidget(self._viewport)
            self._widgets[tag].set_logic(logic)
        self._widgets[tag].show()
        return self._widgets[tag]
