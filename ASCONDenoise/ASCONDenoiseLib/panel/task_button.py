"""A button that starts a task and cancels it, with a progress bar and a line of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import AsconError
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.task_queue import Task


class TaskButton:
    """Starts a task with a click and, while the task is under way, cancels it with the next."""

    def __init__(self, kind: str, panel: PanelContext, widgets: tuple[qt.QPushButton, qt.QProgressBar, qt.QLabel]):
        """Takes a button, a progress bar and a label; `kind` is that of the task which the button starts."""
        self.button, self.bar, self.label = widgets
        self.panel = panel
        self._kind = kind
        self._doing = ""  # the line of text while the task is under way

    def say(self, text: str) -> None:
        """Shows a line of text."""
        self.label.text = text

    def nowDoing(self, doing: str) -> None:
        """Changes the line of text while the task is under way, and begins the bar anew."""
        self._doing = doing
        self.bar.setRange(0, 0)
        self._showProgress(_("handing the voxels over"))

    def update(self, text: str, purpose: str, obstacle: str) -> None:
        """Labels and enables the button.

        Args:
            text: on the button while its task is not under way.
            purpose: what the button does, for the tool tip.
            obstacle: why the task cannot start, for the tool tip of a disabled button; "" where it can.
        """
        logic = self.panel.logic
        busy, current = logic.tasks.busy(self._kind), logic.tasks.current
        if logic.installing:
            obstacle = _("Packages are being installed.")
        elif logic.tasks.busy("denoise", "several", "anatomy"):
            obstacle = _("Wait until the other work is done, or cancel it.")
        cancelling = current is not None and current.kind == self._kind and current.cancelling
        self.button.text = _("Cancelling...") if cancelling else _("Cancel") if busy else text
        self.button.enabled = busy or not obstacle
        self.button.toolTip = _("Stop; nothing is changed.") if busy else obstacle or purpose

    def startOrCancel(self, start: Callable[[], str], packages: Sequence[str] = ()) -> None:
        """Does what a click asks for: cancels the task that is under way, or installs `packages` and calls `start`.

        `start` returns the line of text for the time that the task is under way; an AsconError of it is shown.
        """
        logic = self.panel.logic
        if logic.tasks.busy(self._kind):
            current = logic.tasks.current
            if current is not None and current.kind != self._kind:  # the task waits for its turn and will never begin
                self.say(_("Cancelled. Nothing was changed."))
            logic.cancel(_("Cancelled."))
            self.panel.update()
            return
        logic.installing = True
        self.panel.update()
        try:
            logic.ensurePackages(packages)
            self.nowDoing(start())
        except AsconError as error:
            self.say(str(error))
        finally:
            logic.installing = False
            self.panel.update()

    def onProgress(self, task: Task, event: dict) -> None:
        """Shows an event of the worker; only the button's own task has a line of text besides the bar."""
        text = messages.progress(event, _, slices=task.kind != "anatomy")
        if not text:
            return
        if event["event"] == "progress":
            self.bar.setRange(0, event["total"])
            self.bar.value = event["done"]
        if task.kind == self._kind:
            self._showProgress(text)
        else:
            self.bar.format = text

    def _showProgress(self, text: str) -> None:
        """In the bar; in the line below too where Qt draws no text in it: before a total is known, and on macOS."""
        self.bar.format = text
        unseen = self.bar.maximum == 0 or sys.platform == "darwin"
        self.say(f"{self._doing} {text}" if unseen else self._doing)
