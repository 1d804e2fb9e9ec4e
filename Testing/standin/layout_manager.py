"""The layout manager: Slicer's own layout logic and the slice and plot views it asks for; 3D and table views: none."""

from xml.etree import ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .plot_views import qMRMLPlotWidget
from .slice_views import qMRMLSliceWidget
from .widgets import offered


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
        for widget in self._widgets.values():
            widget.mrmlSliceNode().SetMappedInLayout(False)
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
        node.SetMappedInLayout(True)
        self._widgets[tag].show()
        return self._widgets[tag]
