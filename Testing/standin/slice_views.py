"""Slice views on real slice logics; slicer-core's displayable managers draw their pictures."""

import slicer
import vtk
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
        self._image = picture_of(window)

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


def picture_of(window):
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
        self._slider.valueChanged.connect(self.setSliceOffsetValue)
        logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        self._show()

    def _show(self):
        node = self._logic.GetSliceNode()
        self._label.setText(node.GetLayoutLabel() or "")
        colour = QtGui.QColor.fromRgbF(*node.GetLayoutColor()).name()
        style = f"background: {colour}; font-weight: bold; padding: 0 6px"
        if style != self._label.styleSheet():  # a change is slow
            self._label.setStyleSheet(style)
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
