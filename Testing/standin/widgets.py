"""CTK's and Slicer's widgets, as far as a panel needs them, on PySide6."""

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .inventory import IMPLEMENTATIONS


def offered(cls: type) -> type:
    """Register an implementation under its own name."""
    IMPLEMENTATIONS[cls.__name__] = cls
    return cls


def stored(kind: object, default: object, name: str) -> Property:
    """A property that only remembers its value."""
    return Property(
        kind,
        lambda self: self.__dict__.get("_" + name, default),
        lambda self, value: self.__dict__.__setitem__("_" + name, value),
    )


# -- CTK ---------------------------------------------------------------------------------------------------------------


@offered
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that hides what is below it."""

    contentsCollapsed = Signal(bool)
    flat = stored(bool, False, "flat")
    contentsLineWidth = stored(int, 1, "contentsLineWidth")
    collapsedHeight = stored(int, 10, "collapsedHeight")
    contentsFrameShape = stored(QtWidgets.QFrame.Shape, QtWidgets.QFrame.Shape.StyledPanel, "contentsFrameShape")
    contentsFrameShadow = stored(QtWidgets.QFrame.Shadow, QtWidgets.QFrame.Shadow.Sunken, "contentsFrameShadow")

    def __init__(self, parent=None):
        super().__init__(parent)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.MinimumExpanding, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header(), 0, 0)
        self.toggled.connect(lambda opened: self._show(not opened))

    def _header(self):
        return self.fontMetrics().height() + 10

    def _show(self, collapsed):
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not collapsed)
        self.setMaximumHeight(self._header() if collapsed else 16777215)
        if self.layout() is not None:
            self.layout().invalidate()  # or it goes on with the sizes of what was hidden
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    def childEvent(self, event):
        if self.collapsed and event.type() == QtCore.QEvent.Type.ChildPolished and event.child().isWidgetType():
            event.child().hide()

    def sizeHint(self):
        inner = (
            self.layout().totalSizeHint() if self.layout() and not self.collapsed else QtCore.QSize(120, self._header())
        )
        return inner.expandedTo(QtCore.QSize(120, self._header()))

    minimumSizeHint = sizeHint

    def hitButton(self, position):
        return position.y() < self._header()

    def paintEvent(self, _event):
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect.setHeight(self._header())
        option.text = ("▸  " if self.collapsed else "▾  ") + self.text()
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        painter.drawText(option.rect.adjusted(8, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, option.text)

    collapsed = Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))


@offered
class ctkComboBox(QtWidgets.QComboBox):
    defaultText = stored(str, "", "defaultText")
    forceDefault = stored(bool, False, "forceDefault")


@offered
class ctkDoubleSlider(QtWidgets.QWidget):
    """A slider of floats: the integers inside count single steps from the minimum."""

    valueChanged, valueIsChanging = Signal(float), Signal(float)
    sliderMoved, sliderPressed, sliderReleased = Signal(float), Signal(), Signal()
    tickInterval = stored(float, 0.0, "tickInterval")
    tracking = stored(bool, True, "tracking")
    pageStep = stored(float, 10.0, "pageStep")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._low, self._high, self._step, self._value = 0.0, 99.0, 1.0, 0.0
        self._slider = QtWidgets.QSlider(Qt.Orientation.Horizontal, self)
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._slider)
        self._slider.valueChanged.connect(lambda n: self.setValue(self._low + n * self._step))
        self._slider.sliderPressed.connect(self.sliderPressed)
        self._slider.sliderReleased.connect(self.sliderReleased)
        self._fit()

    def _fit(self):
        with QtCore.QSignalBlocker(self._slider):
            self._slider.setRange(0, round((self._high - self._low) / self._step))
            self._slider.setValue(round((self._value - self._low) / self._step))

    def setRange(self, low, high):
        self._low, self._high = low, max(low, high)
        self.setValue(self._value)
        self._fit()

    def setValue(self, value):
        value = min(max(value, self._low), self._high)
        changed, self._value = value != self._value, value
        self._fit()
        if changed:
            self.valueIsChanging.emit(value)
            self.valueChanged.emit(value)

    def _set_step(self, step):
        self._step = step if step > 0 else self._step
        self._fit()

    def _set_orientation(self, orientation):
        self._slider.setOrientation(orientation)

    orientation = Property(Qt.Orientation, lambda self: self._slider.orientation(), _set_orientation)
    value = Property(float, lambda self: self._value, setValue)
    minimum = Property(float, lambda self: self._low, lambda self, low: self.setRange(low, self._high))
    maximum = Property(float, lambda self: self._high, lambda self, high: self.setRange(min(self._low, high), high))
    singleStep = Property(float, lambda self: self._step, _set_step)


@offered
class ctkSliderWidget(QtWidgets.QWidget):
    """A slider with a spin box. Without tracking, a drag says valueIsChanging and valueChanged only at its end."""

    valueChanged, valueIsChanging = Signal(float), Signal(float)
    tickInterval = stored(float, 0.0, "tickInterval")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._slider, self._box = ctkDoubleSlider(self), QtWidgets.QDoubleSpinBox(self)
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._slider, 1)
        box.addWidget(self._box)
        self._box.setRange(0, 99)
        self._tracking, self._said = True, 0.0
        self._slider.valueChanged.connect(self._moved)
        self._box.valueChanged.connect(self._typed)
        self._slider.sliderReleased.connect(self._say)

    def _typed(self, value):
        self._slider.setValue(value)

    def _moved(self, value):
        with QtCore.QSignalBlocker(self._box):
            self._box.setValue(value)
        dragging = self._slider._slider.isSliderDown()
        if dragging:
            self.valueIsChanging.emit(value)
        if self._tracking or not dragging:
            self._say()

    def _say(self):
        if self.value != self._said:
            self._said = self.value
            self.valueChanged.emit(self._said)

    def setRange(self, low, high):
        with QtCore.QSignalBlocker(self._box):
            self._box.setRange(low, high)
        self._slider.setRange(low, high)

    def setValue(self, value):
        self._slider.setValue(round(value, self._box.decimals()))

    def reset(self):
        self.setValue(0.0)

    def _set_step(self, step):
        self._slider.singleStep = step
        self._box.setSingleStep(step)

    def _set_tracking(self, tracking):
        self._tracking = tracking

    value = Property(float, lambda self: self._slider.value, setValue)
    minimum = Property(float, lambda self: self._slider.minimum, lambda self, v: self.setRange(v, self._slider.maximum))
    maximum = Property(float, lambda self: self._slider.maximum, lambda self, v: self.setRange(self._slider.minimum, v))
    singleStep = Property(float, lambda self: self._slider.singleStep, _set_step)
    pageStep = Property(float, lambda self: self._slider.pageStep, lambda self, v: setattr(self._slider, "pageStep", v))
    decimals = Property(int, lambda self: self._box.decimals(), lambda self, n: self._box.setDecimals(n))
    suffix = Property(str, lambda self: self._box.suffix(), lambda self, text: self._box.setSuffix(text))
    prefix = Property(str, lambda self: self._box.prefix(), lambda self, text: self._box.setPrefix(text))
    tracking = Property(bool, lambda self: self._tracking, _set_tracking)
    spinBoxVisible = Property(bool, lambda self: not self._box.isHidden(), lambda self, v: self._box.setVisible(v))


@offered
class qMRMLSliderWidget(ctkSliderWidget):
    def setMRMLScene(self, scene):
        self._scene = scene

    def mrmlScene(self):
        return getattr(self, "_scene", None)


@offered
class ctkMessageBox(QtWidgets.QMessageBox):
    dontShowAgainSettingsKey = stored(str, "", "dontShowAgainSettingsKey")
    dontShowAgainVisible = stored(bool, False, "dontShowAgainVisible")


@offered
class ctkDICOMDatabase(QtCore.QObject):
    """Files by SOP Instance UID, and single values of their headers, as text."""

    isOpen = Property(bool, lambda self: True)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._files = {}

    def insert(self, path, storeFile=True, generateThumbnail=True, createHierarchy=True, folder=""):
        import pydicom

        self._files[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)] = path

    def fileForInstance(self, uid):
        return self._files.get(uid, "")

    def instanceValue(self, uid, tag):
        import pydicom

        if uid not in self._files:
            return ""
        header = pydicom.dcmread(self._files[uid], stop_before_pixels=True)
        element = header.get(tuple(int(part, 16) for part in tag.split(",")))
        values = [] if element is None or element.value is None else element.value
        return "\\".join(map(str, values)) if element and element.VM > 1 else str(values or "")


# -- Slicer ------------------------------------------------------------------------------------------------------------


class _WithScene:
    """Children of a panel follow its scene by the connection that the .ui file makes."""

    def setMRMLScene(self, scene):
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return getattr(self, "_scene", None)


@offered
class qMRMLWidget(_WithScene, QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)


@offered
class qSlicerWidget(_WithScene, QtWidgets.QWidget):
    mrmlSceneChanged = Signal(object)
