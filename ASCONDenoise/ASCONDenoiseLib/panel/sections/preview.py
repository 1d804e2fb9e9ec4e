"""The button Preview: while it is down, the axial slice in sight is denoised alone, and again when another is."""

from __future__ import annotations

from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import AsconError
from ASCONDenoiseLib.models.files import FAST
from ASCONDenoiseLib.panel import network_input
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.sections.compare import CompareSection
from ASCONDenoiseLib.panel.task_queue import Task
from ASCONDenoiseLib.panel.worker_client import WorkerClient
from ASCONDenoiseLib.scene.compare_layout import slice_in_sight
from ASCONDenoiseLib.scene.preview import Preview, preview
from ASCONDenoiseLib.scene.volumes import remove_volume

PAUSE_MS = 100
"""How long a view rests on a slice before that is denoised: scrolling passes over many."""


class PreviewSection(VTKObservationMixin):
    """Denoises the slice in sight with the fast model, or with one that was chosen by name.

    Attributes:
        worker: a process of its own, so that a preview neither waits for a whole volume nor is in its way.
        shown: what is on show; None: nothing.
        busy: whether a preview is being made, or soon will be.
    """

    def __init__(self, panel: PanelContext, compare: CompareSection):
        VTKObservationMixin.__init__(self)
        self.panel = panel
        self.button = panel.ui.previewButton
        self.worker = WorkerClient(idleMinutes=5)
        self.shown: Preview | None = None
        self._compare = compare
        self._made: tuple[Any, ...] | None = None  # what `shown` is of, as `_wanted` has it
        self._task: Task | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._renew)
        self.button.toggled.connect(self.onToggled)

    @property
    def busy(self) -> bool:
        return self._task is not None or self._timer.active

    def close(self) -> None:
        """Ends the preview and the worker."""
        self.button.checked = False
        self.worker.stop("")

    def update(self) -> None:
        """Follows the user's choices: another volume or model is another preview."""
        choices, obstacle = self.panel.choices, _("There is no scene.")
        if choices is not None:
            obstacle = network_input.obstacle(choices.inputVolume, model=choices.model)
        if not obstacle and slicer.app.layoutManager() is None:
            obstacle = _("There are no views: Slicer runs without its main window.")
        purpose = _("See what denoising does to the axial slice in sight, at once. Scroll: the next slice follows.")
        self.button.enabled = not obstacle
        self.button.toolTip = obstacle or purpose
        if obstacle or (self.shown is not None and choices.inputVolume is not self.shown.input):
            self._forget()
        if obstacle:
            self.button.checked = False
        elif self.button.checked:
            self._soon()

    def onToggled(self, on: bool) -> None:
        """The button went down, or up."""
        self.removeObservers()
        if not on:
            self._stop()
            return
        try:
            self.panel.logic.ensurePackages()
        except AsconError as error:
            self.button.checked = False
            self.panel.say(str(error))
            return
        self.onLayoutChanged()
        self._renew()

    def onLayoutChanged(self) -> None:
        """Follows the views that there are now."""
        self.removeObservers()
        if self.button.checked:
            for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
                self.addObserver(view, vtk.vtkCommand.ModifiedEvent, self._soon)
            self._soon()

    def onStrength(self) -> None:
        """The strength slider has moved."""
        if self.shown is not None and self.shown.node.GetScene() is not None:
            self.shown.show_strength(self.panel.logic.strength)

    def onNodeAboutToBeRemoved(self, node: Any) -> None:
        """The LDCT takes its preview with it; else a selector would take that for another LDCT."""
        if self._task is not None and node in self._task.nodes:
            self._stop()
        if self.shown is not None and node is self.shown.input:
            self._forget()

    def _soon(self, _caller: Any = None, _event: Any = None) -> None:
        if self._wanted() != self._made:
            self._timer.start(PAUSE_MS)

    def _wanted(self) -> tuple[Any, ...] | None:
        """Volume, its state, the slice in sight, model and device; None where no view shows a slice."""
        choices = self.panel.choices
        volume = choices.inputVolume if choices is not None else None
        if volume is None or volume.GetImageData() is None:
            return None
        views = [view for view in slicer.util.getNodesByClass("vtkMRMLSliceNode") if view.IsMappedInLayout()]
        index = slice_in_sight(volume, views)
        time = volume.GetImageData().GetMTime()
        return None if index is None else (volume, time, index, choices.model or FAST, choices.device)

    def _renew(self) -> None:
        """Makes what is wanted, unless that is on show; one after the other, only the last of them."""
        if not self.button.checked or self._task is not None:
            return
        wanted = self._wanted()
        if wanted is None:
            self._say(_("No axial slice is in sight, and the network works on those. Show one for a preview."))
        elif wanted != self._made:
            logic = self.panel.logic
            volume, _time, index, model, device = wanted
            node = self.shown.node if self.shown is not None else None
            work = preview(volume, index, node, strength=lambda: logic.strength, **network_input.means(model, device))
            self._say(_("Preview of slice {number}...").format(number=index + 1))
            self._made = wanted
            self._task = Task("preview", work, [volume], self.worker, self._onProgress, self._onEnd)

    def _onProgress(self, _task: Task, event: dict) -> None:
        if event["event"] == "stage":
            self._say(_("Preview: {doing}...").format(doing=messages.progress(event, _)))

    def _onEnd(self, _task: Task, result: Any, error: Exception | None) -> None:
        self._task = None
        if error is not None:
            self._made = None
            self.button.checked = False
            self._say(str(error))
            return
        first, self.shown = self.shown is None, result
        if first:
            self._compare.showResult(result.node)
            self._compare.update()
        facts = result.facts
        text = _("Preview of slice {number} alone, {model} {version}, {seconds} s. Denoise does them all.")
        model, version = facts["model"]["name"], facts["model"]["version"]
        seconds = f"{facts['times']['total']:.1f}"
        self._say(text.format(number=result.index + 1, model=model, version=version, seconds=seconds))
        self._soon()

    def _stop(self) -> None:
        self._timer.stop()
        if self._task is not None:
            self._task.close()
            self._task = None
        self._forget()

    def _forget(self) -> None:
        """Takes the preview out of scene and views."""
        self._made = None
        if self.shown is not None:
            node = self.shown.node
            self.shown = None
            self._compare.endPreview()
            self._compare.update()
            remove_volume(node)

    def _say(self, text: str) -> None:
        """Below the button Denoise, whose own words come first."""
        if not self.panel.logic.tasks.busy("denoise", "several", "save"):
            self.panel.say(text)
