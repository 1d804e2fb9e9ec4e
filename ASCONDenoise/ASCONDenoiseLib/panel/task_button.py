"""A button that starts a task and cancels it, with a progress bar and a line of text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import AsconError
from ASCONDenoiseLib.panel.logic import ASCONDenoiseLogic
from ASCONDenoiseLib.panel.task_queue import Task


class TaskButton:
    """Starts a task with a click and, while the task is under way, cancels it with the next."""

    def __init__(
        self,
        kind: str,
        logic: ASCONDenoiseLogic,
        widgets: tuple[qt.QPushButton, qt.QProgressBar, qt.QLabel],
        update: Callable[[], None],
    ):
        """Takes the widgets of a task.

        Args:
            kind: of the task that the button starts.
            logic: runs the task.
            widgets: button, progress bar, and label for the line of text.
            update: brings the panel into line with the logic.
        """
        self.button, self.bar, self.label = widgets
        self._kind = kind
        self._logic = logic
        self._updatePanel = update
        self._doing = ""  # the line of text while the task is under way

    def say(self, text: str) -> None:
        """Shows a line of text."""
        self.label.text = text

    def update(self, text: str, purpose: str, obstacle: str) -> None:
        """Labels and enables the button.

        Args:
            text: on the button while its task is not under way.
            purpose: what the button does, for the tool tip.
            obstacle: why the task cannot start, for the tool tip of a disabled button; "" where it can.
        """
        tasks = self._logic.tasks
        busy, current = tasks.busy(self._kind), tasks.current
        if self._logic.installing:
            obstacle = _("Packages are being installed.")
        elif tasks.busy("denoise", "anatomy"):
            obstacle = _("Wait until the other work is done, or cancel it.")
        cancelling = current is not None and current.kind == self._kind and current.cancelling
        self.button.text = _("Cancelling...") if cancelling else _("Cancel") if busy else text
        self.button.enabled = busy or not obstacle
        self.button.toolTip = _("Stop; nothing is changed.") if busy else obstacle or purpose

    def startOrCancel(self, start: Callable[[], str], packages: Sequence[str] = ()) -> None:
        """Does what a click asks for: cancels the task that is under way, or installs `packages` and calls `start`.

        `start` returns the line of text for the time that the task is under way; an AsconError of it is shown.
        """
        logic = self._logic
        if logic.tasks.busy(self._kind):
            current = logic.tasks.current
            if current is not None and current.kind != self._kind:  # the task waits for its turn and will never begin
                self.say(_("Cancelled. Nothing was changed."))
            logic.cancel(_("Cancelled."))
            self._updatePanel()
            return
        logic.installing = True
        self._updatePanel()
        try:
            logic.ensurePackages(packages)
            self._doing = start()
            self.bar.setRange(0, 0)
            self._showProgress(_("handing the voxels over"))
        except AsconError as error:
            self.say(str(error))
        finally:
            logic.installing = False
            self._updatePanel()

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
