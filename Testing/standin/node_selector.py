"""`qMRMLNodeComboBox` on PySide6: it follows a real MRML scene."""

import slicer
import vtk
from PySide6 import QtWidgets
from PySide6.QtCore import Property, Qt, Signal

from .widgets import offered, stored


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


@offered
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):
    """A box beside each node, at first not ticked; the closed list names those that are."""

    checkedNodesChanged = Signal()

    def __init__(self, parent=None):
        self._ticked = []  # before the base fills the list
        super().__init__(parent)

    def _fill(self):
        there = self._nodes()
        before, self._ticked = self._ticked, [node for node in there if any(node is one for one in self._ticked)]
        super()._fill()
        names = "None" if not self._ticked else "All" if len(self._ticked) == len(there) else ""
        self._combo.setCurrentIndex(-1)
        self._combo.setPlaceholderText(names or ", ".join(node.GetName() for node in self._ticked))
        for row in range(self._combo.count()):
            item = self._combo.model().item(row)
            on = any(node.GetID() == self._combo.itemData(row) for node in self._ticked)
            item.setCheckState(Qt.CheckState.Checked if on else Qt.CheckState.Unchecked)
        if len(before) != len(self._ticked):
            self.checkedNodesChanged.emit()

    def _activated(self, row):
        node = self._scene.GetNodeByID(self._combo.itemData(row))
        self.setCheckState(node, Qt.CheckState.Unchecked if self.checkState(node) else Qt.CheckState.Checked)

    def checkedNodes(self):
        return tuple(self._ticked)

    def uncheckedNodes(self):
        return tuple(node for node in self._nodes() if not self.checkState(node))

    def allChecked(self):
        return not self.uncheckedNodes()

    def noneChecked(self):
        return not self._ticked

    def checkState(self, node):
        return 2 if any(node is one for one in self._ticked) else 0

    def setCheckState(self, node, state):
        on = int(getattr(state, "value", state)) == 2
        if on == bool(self.checkState(node)) or not any(node is one for one in self._nodes()):
            return
        self._ticked = [*self._ticked, node] if on else [one for one in self._ticked if one is not node]
        self._ticked = [one for one in self._nodes() if self.checkState(one)]
        self._fill()
        self.checkedNodesChanged.emit()

    def check(self, node):
        self.setCheckState(node, 2)

    def uncheck(self, node):
        self.setCheckState(node, 0)
