"""Sample data: a low-dose abdomen, made on this computer."""

from __future__ import annotations

import contextlib
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.panel.installation import ensurePackages
from ASCONDenoiseLib.panel.logic import ASCONDenoiseLogic
from ASCONDenoiseLib.scene.display import set_window
from ASCONDenoiseLib.scene.volumes import remove_volume

THUMBNAIL = Path(__file__).resolve().parents[2] / "Resources" / "Icons" / "ASCONLowDoseAbdomen.png"
"""A slice of the phantom that is shown when offline."""


def register() -> None:
    """Adds "ASCON: low-dose abdomen" to the module Sample Data."""
    import SampleData

    logic = SampleData.SampleDataLogic
    logic.registerCustomSampleDataCategory("ASCON", title=_("ASCON"))
    logic.registerCustomSampleDataSource(
        category="ASCON",
        sampleName=_("ASCON: low-dose abdomen"),
        uris=[],
        fileNames=[],
        thumbnailFileName=str(THUMBNAIL),
        customDownloader=lambda source=None: load(),
    )


def load() -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Makes the nodes LDCT and NDCT: a quarter of the dose, of a CT of Slicer's samples or, offline, of a phantom."""
    import SampleData

    logic, normalDose, failed = ASCONDenoiseLogic(), None, _("The low-dose abdomen could not be made.")
    try:
        with slicer.util.tryWithErrorDisplay(failed):  # it may ask: no wait cursor over a question
            ensurePackages()
        with slicer.util.tryWithErrorDisplay(failed, waitCursor=True):
            with contextlib.suppress(Exception):  # offline it raises one error or another
                normalDose = SampleData.SampleDataLogic().downloadSample("CTLiver")
            nodes = logic.makeSample(normalDose)
    finally:
        logic.close()
        if normalDose is not None:
            remove_volume(normalDose)
    set_window(nodes, hounsfield.DISPLAY_WINDOWS_HU["abdomen"])
    slicer.util.setSliceViewerLayers(background=nodes[0], fit=True)
    return nodes
