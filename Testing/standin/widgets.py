"""CTK's and Slicer's widgets, as far as a panel needs them, on PySide6."""

import re
from xml.etree import ElementTree

import slicer
import vtk
from PySide6 import QtCore, QtUiTools, QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .pythonqt import API, IMPLEMENTATIONS, find, implementation, wrap


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


@offered
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Nodes of given classes in a scene. Rows: "None" when enabled, the nodes in the scene's order, the actions."""

    currentNodeChanged = Signal((object,), (bool,))
    currentNodeIDChanged, currentNodeRenamed = Signal(str), Signal(str)
    nodeActivated, nodeAdded, nodeAddedByUser = Signal(object), Signal(object), Signal(object)
    nodeAddedByUserAction, nodeAboutToBeRemoved, nodeAboutToBeEdited = Signal(object), Signal(object), Signal(object)
    selectNodeUponCreation = stored(bool, True, "selectNodeUponCreation")
    interactionNodeSingletonTag = stored(str, "", "interactionNodeSingletonTag")

    def __init__(self, parent=None):
        super().__init__(parent)
        self._types, self._hidden_types, self._attributes, self._labels = [], [], {}, {}
        self._flags = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "editEnabled": False}
        self._flags |= {"renameEnabled": False, "showHidden": False, "showChildNodeTypes": True}
        self._none_display, self._base_name, self._scene, self._tags = "None", "", None, []
        self._current, self._requested, self._filling = None, None, False
        self._combo = QtWidgets.QComboBox(self)
        box = QtWidgets.QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._combo)
        self._combo.activated.connect(self._activated)
        self.destroyed.connect(lambda *_, tags=self._tags: [who.RemoveObserver(tag) for who, tag in tags])
        self.setEnabled(False)

    # what is shown

    def _fits(self, node):
        if self._flags["showChildNodeTypes"]:
            kinds = [kind for kind in self._types if node.IsA(kind)]
        else:
            kinds = [kind for kind in self._types if node.GetClassName() == kind]
        if not kinds:  # most nodes, and this is asked often
            return False
        hidden = node.GetHideFromEditors() and not self._flags["showHidden"]
        wanted = [pair for kind in kinds for pair in self._attributes.get(kind, {}).items()]
        fits = all(node.GetAttribute(k) is not None and v in (None, "", node.GetAttribute(k)) for k, v in wanted)
        return not hidden and fits and not any(node.IsA(kind) for kind in self._hidden_types)

    def _nodes(self):
        if self._scene is None:
            return []
        nodes = self._scene.GetNodes()
        return [n for n in map(nodes.GetItemAsObject, range(nodes.GetNumberOfItems())) if self._fits(n)]

    def _actions(self):
        label = self.nodeTypeLabel(self._types[0] if len(self._types) == 1 else "")
        texts = {"renameEnabled": "Rename current ", "editEnabled": "Edit current ", "removeEnabled": "Delete current "}
        found = [text + label for flag, text in texts.items() if self._flags[flag]]
        if self._flags["addEnabled"]:
            found += ["Create new " + self.nodeTypeLabel(kind) for kind in self._types]
        return found

    def _fill(self):
        """Rows anew; the current node stays current when it is still there. Emits nothing."""
        self._combo.clear()
        if self._flags["noneEnabled"]:
            self._combo.addItem(self._none_display)
        for node in self._nodes():
            self._combo.addItem(node.GetName() or "", node.GetID())
        for text in self._actions():
            self._combo.addItem(text)
        shown = self._combo.findData(self._current.GetID()) if self._current is not None else -1
        self._combo.setPlaceholderText(f"Select a {self.nodeTypeLabel(self._types[0] if self._types else '')}")
        self._combo.setCurrentIndex(shown if shown >= 0 else 0 if self._flags["noneEnabled"] else -1)

    # what is chosen

    def currentNode(self):
        return self._current

    def setCurrentNode(self, node):
        if isinstance(node, str):
            return self.setCurrentNodeID(node)
        if self._scene is None:
            self._requested = node
            return None
        node = node if node is not None and any(n is node for n in self._nodes()) else None
        changed = node is not self._current
        self._current = node
        self._fill()
        if changed:
            self._say()
        return None

    def setCurrentNodeID(self, node_id):
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene is not None and node_id else None)

    def setCurrentNodeIndex(self, index):
        nodes = self._nodes()
        self.setCurrentNode(nodes[index] if 0 <= index < len(nodes) else None)

    def _say(self):
        self.currentNodeChanged[object].emit(self._current)
        self.currentNodeChanged[bool].emit(self._current is not None)
        self.currentNodeIDChanged.emit(self._current.GetID() if self._current is not None else "")

    def _activated(self, row):
        text, node_id = self._combo.itemText(row), self._combo.itemData(row)
        if node_id or (self._flags["noneEnabled"] and row == 0):
            self.setCurrentNodeID(node_id)
            self.nodeActivated.emit(self._current)
            return
        self._fill()
        if text.startswith("Create new "):
            kind = next(k for k in self._types if text == "Create new " + self.nodeTypeLabel(k))
            self.nodeAddedByUserAction.emit(self.addNode(kind))
        elif text.startswith("Delete current "):
            self.removeCurrentNode()
        elif text.startswith("Edit current "):
            self.editCurrentNode()

    # the scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        for who, tag in self._tags:
            who.RemoveObserver(tag)
        self._tags.clear()
        self._scene = scene
        self.setEnabled(scene is not None)
        if scene is None:
            self._requested, self._current = self._current, None
            self._fill()
            return

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def added(_scene, _event, node):
            self._added(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removing(_scene, _event, node):
            if self._fits(node):
                self._leaving = (self._nodes().index(node), node)
                self.nodeAboutToBeRemoved.emit(node)

        @vtk.calldata_type(vtk.VTK_OBJECT)
        def removed(_scene, _event, node):
            self._removed(node)

        kinds = slicer.vtkMRMLScene
        for event, callback in (
            (kinds.NodeAddedEvent, added),
            (kinds.NodeAboutToBeRemovedEvent, removing),
            (kinds.NodeRemovedEvent, removed),
            (kinds.EndBatchProcessEvent, lambda *_: self._fill()),
        ):
            self._tags.append((scene, scene.AddObserver(event, callback)))
        for node in self._nodes():
            self._watch(node)
        requested, nodes = self._requested, self._nodes()
        self._requested = None
        first = nodes[0] if nodes and not self._flags["noneEnabled"] else None
        self.setCurrentNode(requested or self._current or first)

    def _watch(self, node):
        names = {"last": node.GetName()}

        def modified(*_):
            if node.GetName() != names["last"]:
                names["last"] = node.GetName()
                self._fill()
            elif self._combo.findData(node.GetID()) >= 0 and not self._fits(node):  # hidden, attribute gone
                self.setCurrentNode(None if node is self._current else self._current)

        self._tags.append((node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, modified)))

    def _added(self, node):
        self._watch(node)
        if not self._fits(node):
            return
        only = len(self._nodes()) == 1 and not self._flags["noneEnabled"] and not self._actions()
        self._fill()
        self.nodeAdded.emit(node)
        if only:
            self.setCurrentNode(node)

    def _removed(self, node):
        for entry in [t for t in self._tags if t[0] is node]:
            node.RemoveObserver(entry[1])
            self._tags.remove(entry)
        if node is not self._current:
            self._fill()
            return
        nodes, (place, _) = self._nodes(), getattr(self, "_leaving", (0, None))  # Qt moves on to the row that follows
        self._current = node
        self.setCurrentNode(nodes[min(place, len(nodes) - 1)] if nodes else None)

    def mrmlScene(self):
        return self._scene

    def nodeCount(self):
        return len(self._nodes())

    def nodeFromIndex(self, index):
        nodes = self._nodes()
        return nodes[index] if 0 <= index < len(nodes) else None

    def addNode(self, kind=None):
        kind = kind or (self._types[0] if self._types else None)
        if kind not in self._types:
            return None
        name = self._base_name or self.nodeTypeLabel(kind)
        node = self._scene.CreateNodeByClass(kind)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(name))
        for key, value in self._attributes.get(kind, {}).items():
            node.SetAttribute(key, value or "")
        self._scene.AddNode(node)
        if node.IsA("vtkMRMLDisplayableNode"):
            node.CreateDefaultDisplayNodes()
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        self._scene.RemoveNode(self._current)

    def editCurrentNode(self):
        self.nodeAboutToBeEdited.emit(self._current)

    def addAttribute(self, kind, name, value=None):
        self._attributes.setdefault(kind, {})[name] = value
        self._fill()

    def removeAttribute(self, kind, name):
        self._attributes.get(kind, {}).pop(name, None)
        self._fill()

    def setNodeTypeLabel(self, label, kind):
        self._labels[kind] = label
        self._fill()

    def nodeTypeLabel(self, kind):
        label = self._scene.GetTypeDisplayNameByClassName(kind) if self._scene is not None and kind else ""
        return self._labels.get(kind) or label or "node"

    def _set(self, name, value):
        setattr(self, name, value)
        self.setCurrentNode(self._current) if self._scene is not None else self._fill()

    def _set_flag(self, name, value):
        self._flags[name] = value
        self._fill()

    nodeTypes = Property("QStringList", lambda s: s._types, lambda s, v: s._set("_types", [t for t in v if t]))
    hideChildNodeTypes = Property(
        "QStringList", lambda s: s._hidden_types, lambda s, v: s._set("_hidden_types", list(v))
    )
    noneDisplay = Property(str, lambda s: s._none_display, lambda s, v: s._set("_none_display", v))
    baseName = Property(str, lambda s: s._base_name, lambda s, v: s._set("_base_name", v))
    currentNodeID = Property(
        str, lambda s: s._current.GetID() if s._current is not None else "", lambda s, v: s.setCurrentNodeID(v)
    )
    noneEnabled = Property(bool, lambda s: s._flags["noneEnabled"], lambda s, v: s._set_flag("noneEnabled", v))
    addEnabled = Property(bool, lambda s: s._flags["addEnabled"], lambda s, v: s._set_flag("addEnabled", v))
    removeEnabled = Property(bool, lambda s: s._flags["removeEnabled"], lambda s, v: s._set_flag("removeEnabled", v))
    editEnabled = Property(bool, lambda s: s._flags["editEnabled"], lambda s, v: s._set_flag("editEnabled", v))
    renameEnabled = Property(bool, lambda s: s._flags["renameEnabled"], lambda s, v: s._set_flag("renameEnabled", v))
    showHidden = Property(bool, lambda s: s._flags["showHidden"], lambda s, v: s._set_flag("showHidden", v))
    showChildNodeTypes = Property(
        bool, lambda s: s._flags["showChildNodeTypes"], lambda s, v: s._set_flag("showChildNodeTypes", v)
    )


# -- .ui files ---------------------------------------------------------------------------------------------------------


class UiError(ValueError):
    """A .ui file that a real Slicer would load differently, or not at all."""


def _checked(xml: bytes) -> tuple[bytes, list[tuple[str, str, str, str]]]:
    """The file without its connections, and these. Unknown classes and properties are refused."""
    root = ElementTree.fromstring(xml)
    for element in [root.find("widget"), *root.findall("widget//widget"), *root.findall("widget//layout")]:
        kind, name = element.get("class"), element.get("name")
        if kind not in API or (kind.startswith("Q") is False and implementation(kind) is None):
            raise UiError(f"{kind} ({name}) is not in the inventory, or the stand-in does not offer it")
        for entry in element.findall("property"):
            known = find(kind, entry.get("name"))
            margin = kind.endswith("Layout") and re.search("Margin$|pacing$|Stretch$", entry.get("name"))
            if entry.get("stdset") != "0" and not margin and (known is None or known[0] != "property"):
                raise UiError(f"{kind} ({name}) has no property {entry.get('name')}")
            if entry.get("name").startswith("Slicer") and entry.get("stdset") != "0":
                raise UiError(f'{name}: {entry.get("name")} is a dynamic property and needs stdset="0"')
    joins = root.findall("connections/connection")
    found = [tuple(c.findtext(part) for part in ("sender", "signal", "receiver", "slot")) for c in joins]
    for element in root.findall("connections"):
        root.remove(element)
    return ElementTree.tostring(root), found


@offered
class QUiLoader(QtUiTools.QUiLoader):
    """Qt's own loader; the file is checked first, and its connections are made by PythonQt's rules."""

    def __init__(self, parent=None):
        super().__init__(parent)
        for name, kind in IMPLEMENTATIONS.items():
            if issubclass(kind, QtWidgets.QWidget) and API[name]["creatable"] and name != "qSlicerMainWindow":
                self.registerCustomWidget(kind)

    def load(self, device, parent=None):
        xml, joins = _checked(bytes(device.readAll().data()))
        buffer = QtCore.QBuffer()
        buffer.setData(xml)
        widget = super().load(buffer, parent)
        if widget is None:
            return None
        everyone = {w.objectName(): w for w in [widget, *widget.findChildren(QtCore.QObject)]}
        for sender, signal, receiver, slot in joins:
            if not wrap(everyone[sender]).connect(signal, wrap(everyone[receiver]), slot):
                raise UiError(f"connection {sender}.{signal} -> {receiver}.{slot} can not be made")
        return widget
