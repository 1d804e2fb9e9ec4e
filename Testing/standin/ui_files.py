"""Loading of `.ui` files by Qt's own loader, after a strict check."""

import re
from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from .inventory import API, IMPLEMENTATIONS, find, implementation
from .pythonqt import wrap
from .tool_tips import wrap_tool_tip
from .widgets import offered


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
        for each in [widget, *widget.findChildren(QtWidgets.QWidget)]:
            wrap_tool_tip(each)
        everyone = {w.objectName(): w for w in [widget, *widget.findChildren(QtCore.QObject)]}
        for sender, signal, receiver, slot in joins:
            if not wrap(everyone[sender]).connect(signal, wrap(everyone[receiver]), slot):
                raise UiError(f"connection {sender}.{signal} -> {receiver}.{slot} can not be made")
        return widget
