"""How much the measurement of safety measures."""

from __future__ import annotations

from dataclasses import dataclass

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.physics.settings import DoseSettings

DIAMETERS_MM = (2.0, 20.0)
"""Smallest and largest lesion: two pixels of the cylinder, and what has room in it often enough for an observer."""


@dataclass(frozen=True)
class SafetySettings:
    """How much is measured. Lengths in mm, contrasts in HU.

    Attributes:
        contrasts_hu, diameters_mm, doses: of the lesions; every combination.
        realisations: of the noise for each combination, at least.
        edges: at most so many of each volume.
        cylinder_slices: realisations of the cylinder with inserts and of the one without.
        cylinder_side: rows and columns of its slices.
        cylinder_dose: fraction of the normal dose.
        views: of a simulated scan's full turn.
        seed: of the noise.
    """

    contrasts_hu: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0)
    diameters_mm: tuple[float, ...] = (5.0, 10.0, 15.0, 20.0)
    doses: tuple[float, ...] = (0.10, 0.25, 0.50)
    realisations: int = 50
    edges: int = 200
    cylinder_slices: int = 24
    cylinder_side: int = 256
    cylinder_dose: float = 0.25
    views: int = 984
    seed: int = 0

    def __post_init__(self) -> None:
        for dose in (*self.doses, self.cylinder_dose):
            DoseSettings(dose)  # which says what is wrong with it
        if min(self.doses) == 1:
            raise InputError("Lesions are measured at low doses: one of them must be below 1, the normal dose.")
        low, high = DIAMETERS_MM
        if wrong := [diameter for diameter in self.diameters_mm if not low <= diameter <= high]:
            raise InputError(f"Lesions of {low:g} to {high:g} mm can be measured; got {wrong[0]:g} mm.")
        if self.realisations < 1:
            raise InputError(f"One realisation of the noise or more is needed; got {self.realisations}.")


EVERYTHING = SafetySettings()

QUICK = SafetySettings(
    contrasts_hu=(20.0, 40.0),
    diameters_mm=(5.0, 15.0),
    doses=(0.25,),
    realisations=10,
    cylinder_slices=6,
    edges=50,
)
"""What takes minutes instead of hours, with wide margins of error."""
