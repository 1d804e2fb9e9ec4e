"""The button that saves the result as a DICOM series derived from the LDCT's."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.network_input import openDatabase
from ASCONDenoiseLib.scene import operations
from ASCONDenoiseLib.scene.volumes import instance_uids


class ExportSection:
    """Saves as DICOM, and offers to import what was saved into Slicer's database."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        panel.ui.saveDicomButton.clicked.connect(self.onSaveDicomButton)

    def update(self) -> None:
        """Follows the user's choices."""
        if self.panel.choices is not None:
            obstacle = self._obstacle()
            purpose = _("Write the denoised volume as a derived DICOM series.")
            self.panel.ui.saveDicomButton.enabled = not obstacle
            self.panel.ui.saveDicomButton.toolTip = obstacle or purpose

    def _obstacle(self) -> str:
        choices = self.panel.choices
        if choices.inputVolume is None or choices.outputVolume is None:
            return _("Denoise a volume first.")
        if not instance_uids(choices.inputVolume) or openDatabase() is None:
            return _("The LDCT was not loaded from the DICOM database, so there is no series to derive one from.")
        busy = self.panel.logic.tasks.busy("denoise", "several", "anatomy", "blend", "save")
        return _("Wait until the work is done.") if busy else ""

    def onSaveDicomButton(self) -> None:
        parent = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the new DICOM series"))
        if parent:
            self.saveDicom(parent)

    def saveDicom(self, parent: str) -> None:
        """Writes the series into a new folder of `parent`."""
        ldct, denoised = self.panel.choices.inputVolume, self.panel.choices.outputVolume
        self.panel.logic.saveDicom(ldct, denoised, operations.new_folder(parent, denoised.GetName()))
        self.panel.update()

    def onSaved(self, result: dict) -> None:
        """Says where the series is; asks about the import when the worker's answer has been dealt with."""
        folder, count = result["folder"], result["files"]
        self.panel.say(_("{count} DICOM files were written to {folder}.").format(count=count, folder=folder))
        qt.QTimer.singleShot(0, lambda: _offerToImport(folder, count))


def _offerToImport(folder: str, count: int) -> None:
    question = _("{count} DICOM files were written to\n{folder}\n\nImport them into Slicer's DICOM database?")
    if slicer.util.confirmYesNoDisplay(question.format(count=count, folder=folder)):
        from DICOMLib import DICOMUtils  # type: ignore[import-not-found]

        DICOMUtils.importDicom(folder)
