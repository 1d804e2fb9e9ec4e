"""Tool tips as a real Slicer has them: its tool-tip trapper turns plain text into rich text, so that it wraps.

Qt tells the trapper of each change by an event. Here the places where tool tips are set call `wrap_tool_tip`, since a
filter in Python for all of an application's events would be slow.
"""

from PySide6 import QtWidgets
from PySide6.QtGui import Qt


def wrap_tool_tip(target: object) -> None:
    """Turns the tool tip of a widget into rich text; actions and items of tables keep theirs as they are."""
    if isinstance(target, QtWidgets.QWidget):
        text = target.toolTip()
        if text and not Qt.mightBeRichText(text):
            target.setToolTip(Qt.convertFromPlainText(text, Qt.WhiteSpaceMode.WhiteSpaceNormal))
