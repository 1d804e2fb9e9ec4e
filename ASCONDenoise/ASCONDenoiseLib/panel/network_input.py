"""What a network is given besides the voxels of a volume, and what speaks against giving it the volume."""

from __future__ import annotations

from typing import Any

import slicer
from slicer import vtkMRMLScalarVolumeNode as Volume
from slicer.i18n import tr as _

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models import suitability
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import find_model
from ASCONDenoiseLib.scene.volumes import suitability_facts
from ASCONDenoiseLib.scene.voxels import volume_array


def obstacle(
    inputVolume: Volume | None,
    outputVolume: Volume | None = None,
    referenceVolume: Volume | None = None,
    model: str = "",
) -> str:
    """Says why a volume cannot be denoised.

    Args:
        inputVolume: the LDCT.
        outputVolume: the volume that the result would replace; None for a new one.
        referenceVolume: the NDCT.
        model: name of a model; "" for the default model.

    Returns:
        A sentence; "" where the volume can be denoised.
    """
    if inputVolume is None:
        return _("Choose the LDCT volume first.")
    if outputVolume is not None and outputVolume in (inputVolume, referenceVolume):
        return _("The output would replace {name}. Choose another, or none.").format(name=outputVolume.GetName())
    try:
        volume_array(inputVolume)
    except InputError as error:
        return str(error)
    try:
        find_model(model or None)
    except InputError as error:
        lost = _('The model "{name}" is not on this computer. Choose another, or import it.')
        return lost.format(name=model) if model else str(error)
    return ""


def warnings(inputVolume: Volume, model: str = "") -> list[str]:
    """Says in sentences why a volume may not suit a model. It can be denoised all the same."""
    try:
        voxels = suitability.sample(volume_array(inputVolume))
        card = load_card(find_model(model or None))
    except InputError:  # `obstacle` says it
        return []
    facts = _facts(inputVolume)
    known, direction = facts["description"], facts["direction"]
    return suitability.warnings(voxels, facts["spacing_mm"], known, card, _, direction=direction)


def checkedMeans(
    inputVolume: Volume,
    outputVolume: Volume | None = None,
    referenceVolume: Volume | None = None,
    *,
    model: str,
    device: str,
) -> dict[str, Any]:
    """The `means`, and the facts of a volume, once nothing is in the way.

    Args:
        inputVolume, outputVolume, referenceVolume, model: as in `obstacle`.
        device: where the network runs; "auto" leaves the choice to the worker.

    Raises:
        InputError: there is an `obstacle`.
    """
    if reason := obstacle(inputVolume, outputVolume, referenceVolume, model):
        raise InputError(reason)
    return means(model, device) | {"facts": _facts(inputVolume)}


def means(model: str, device: str) -> dict[str, Any]:
    """What operations that run a network are given besides volumes; arguments as in `checkedMeans`."""
    database = openDatabase()
    return {
        "model": str(find_model(model)) if model else None,
        "device": device,
        "file_for_instance": database.fileForInstance if database else None,
        "parent": slicer.app.temporaryPath,
    }


def openDatabase() -> Any:
    """Slicer's DICOM database; None where there is none, or where it is not open."""
    database = getattr(slicer, "dicomDatabase", None)
    return database if database is not None and database.isOpen else None


def _facts(volume: Volume) -> dict[str, Any]:
    database = openDatabase()
    return suitability_facts(volume, database.instanceValue if database else None)
