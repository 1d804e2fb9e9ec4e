"""Sample data: a low-dose abdomen, made on this computer, and a small one that takes seconds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode as Volume
from slicer.i18n import tr as _

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.errors import Cancelled
from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.panel.installation import ensurePackages
from ASCONDenoiseLib.panel.logic import ASCONDenoiseLogic
from ASCONDenoiseLib.panel.task_queue import Task
from ASCONDenoiseLib.scene.display import set_window
from ASCONDenoiseLib.scene.volumes import remove_volume

THUMBNAIL = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / "ASCONLowDoseAbdomen.png"
"""A slice of the phantom that is shown when offline."""

SMALL_PHANTOM = [4, 256, 256]
"""Slices, rows, columns."""


def register() -> None:
    """Adds the samples to the module Sample Data, the quick one first."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory("ASCON", title=_("ASCON"))
    for name, downloader in (
        (_("ASCON: small phantom"), lambda source=None: load(small=True)),
        (_("ASCON: low-dose abdomen"), lambda source=None: load()),
    ):
        logic.registerCustomSampleDataSource(
            category="ASCON",
            sampleName=name,
            uris=[],
            fileNames=[],
            thumbnailFileName=str(THUMBNAIL),
            customDownloader=downloader,
        )


def load(*, small: bool = False) -> list[Volume]:
    """Makes the nodes LDCT and NDCT: a quarter of the dose, of a CT of Slicer's samples or, offline, of a phantom.

    A window shows how far it is, and cancels; then the list is empty.

    Args:
        small: a phantom of a few slices, which is there in seconds and needs no download.
    """
    logic, normalDose, nodes = ASCONDenoiseLogic(), None, []
    try:
        with slicer.util.tryWithErrorDisplay(_("The low-dose abdomen could not be made.")):
            ensurePackages()
            with _ProgressWindow(logic) as window, contextlib.suppress(Cancelled):
                normalDose = None if small else _download(window)
                nodes = logic.makeSample(normalDose, SMALL_PHANTOM if small else None)
    finally:
        logic.close()
        if normalDose is not None:
            remove_volume(normalDose)
    if nodes:
        set_window(nodes, hounsfield.DISPLAY_WINDOWS_HU["abdomen"])
        slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes


def _download(window: _ProgressWindow) -> Volume | None:
    """The CT of Slicer's samples; None where it cannot be downloaded."""
    import SampleData

    window.say(_("Downloading a CT..."))
    samples = SampleData.SampleDataLogic()
    samples.logMessage = lambda message, *_level: window.say(message)
    try:
        return samples.downloadSample("CTLiver")
    except Cancelled:
        raise
    except Exception:  # offline it raises one error or another
        window.say(_("The CT could not be downloaded. A phantom is simulated instead."))
        return None


class _ProgressWindow:
    """A window with a bar and a button Cancel, which ends what the logic does."""

    def __init__(self, logic: ASCONDenoiseLogic):
        self._logic = logic

    def __enter__(self) -> _ProgressWindow:
        self._dialog = slicer.util.createProgressDialog(
            maximum=0, windowTitle=_("ASCON sample data"), autoClose=False, autoReset=False
        )
        self._dialog.windowModality = qt.Qt.WindowModal  # no second click meanwhile
        self._dialog.show()
        self._dialog.canceled.connect(lambda: self._logic.cancel(_("Cancelled.")))
        self._logic.onProgress = self._onProgress
        return self

    def __exit__(self, *_error: object) -> None:
        self._dialog.hide()
        self._dialog.deleteLater()

    def say(self, text: str) -> None:
        """Shows a line of text. Raises Cancelled after a click on the button."""
        self._dialog.labelText = text
        slicer.app.processEvents()
        if self._dialog.wasCanceled:
            raise Cancelled(_("Cancelled."))

    def _onProgress(self, _task: Task, event: dict) -> None:
        if text := messages.progress(event, _):
            self._dialog.labelText = _("Simulating a low-dose scan: {text}").format(text=text)
        if event["event"] == "progress":
            self._dialog.maximum = event["total"]
            self._dialog.value = event["done"]
