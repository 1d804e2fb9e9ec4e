"""How a node came about, in its attributes: model, weights, device, precision, strength. They are saved with it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import slicer

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.imaging.strength import Target

INPUT_ROLE = "ASCON.Input"
"""Node reference from a result to the volume it was made from."""


def set_provenance(node: slicer.vtkMRMLNode, source: slicer.vtkMRMLScalarVolumeNode, facts: Mapping[str, Any]) -> None:
    """Writes how a node came about into its attributes, all of which begin with "ASCON."; older ones are removed.

    Args:
        node: the result.
        source: the volume it was made from.
        facts: the worker's result of `denoise`, or any other facts. {"name", "version", ...} under "model" become
            ASCON.ModelName, ASCON.ModelVersion, ...; others ASCON.Device, ...; notes and warnings are joined.
    """
    flat: dict[str, Any] = {"software_version": __version__, "created": datetime.now().astimezone()}
    for name, value in facts.items():
        if name == "model" and isinstance(value, Mapping):
            flat |= {f"model_{part}": fact for part, fact in value.items() if part != "path"}
        elif name not in ("id", "event", "times"):
            flat[name] = value
    for name in provenance(node):
        node.RemoveAttribute(name)
    for name, value in flat.items():
        node.SetAttribute(f"ASCON.{''.join(part.capitalize() for part in name.split('_'))}", _text(value))
    node.SetNodeReferenceID(INPUT_ROLE, source.GetID())


def set_strength(node: slicer.vtkMRMLScalarVolumeNode, strength: float, target: Target | None = None) -> None:
    """Notes that the volume now holds another strength, and what that was chosen for."""
    node.SetAttribute("ASCON.Strength", _text(strength))
    dose = None if target is None or target.dose is None else _text(target.dose)
    for name, value in {"StrengthTarget": target and target.name, "Dose": dose}.items():
        if value is None:
            node.RemoveAttribute(f"ASCON.{name}")
        else:
            node.SetAttribute(f"ASCON.{name}", value)


def provenance(node: slicer.vtkMRMLNode) -> dict[str, str]:
    """The attributes that `set_provenance` wrote, e.g. {"ASCON.Strength": "0.75", ...}; empty for other nodes."""
    names = node.GetAttributeNames()
    return {name: node.GetAttribute(name) for name in names if name.startswith("ASCON.")}


def provenance_sentence(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The provenance as one sentence, for the DICOM header of what is saved."""
    facts = {name.removeprefix("ASCON."): value for name, value in provenance(node).items()}
    if "ModelName" not in facts:
        return f"Processed by ASCON {facts.get('SoftwareVersion', __version__)}"
    parts = [
        f"{facts['ModelName']} {facts.get('ModelVersion', '')} (sha256 {facts.get('ModelSha256', 'unknown')})",
        *(f"{name.lower()} {facts[name]}" for name in ("Device", "Precision", "Strength") if name in facts),
        *([facts["Notes"]] if facts.get("Notes") else []),
    ]
    sentence = f"Denoised by ASCON {facts['SoftwareVersion']}: {', '.join(parts)}"
    return f"{sentence}. {facts['Warnings']}" if facts.get("Warnings") else sentence


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
