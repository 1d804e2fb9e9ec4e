"""What is known of a series from its first image, and what the rules make of it."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from ASCONDenoiseLib.io.dicom_derivation import is_ours
from ASCONDenoiseLib.io.dicom_headers import FACTS, DicomImage, as_text
from ASCONDenoiseLib.models.suitability import done_before
from ASCONDenoiseLib.node.config import Rule


@dataclass(frozen=True)
class SeriesFacts:
    """Facts that identify nobody.

    Attributes:
        sender: AE title.
        known: as `volume.Volume.description`.
        is_slice: whether one of its images is a slice of a CT; else it is left alone.
        ours: whether ASCON made it.
        announced: NumberOfSeriesRelatedInstances, 0 where it is not told.
    """

    sender: str
    known: dict[str, str]
    is_slice: bool
    ours: bool
    announced: int = 0

    def why_never(self) -> str:
        """Why no rule applies; empty where rules decide."""
        if self.ours:
            return "It was made by ASCON."
        if not self.is_slice:
            return f"None of its images is a slice of a CT (modality {self.known.get('modality') or 'unknown'})."
        return done_before(self.known)


def facts_of(header: Dataset, sender: str) -> SeriesFacts:
    """Facts from the header of an image of the series.

    Args:
        header: complete.
        sender: AE title.
    """
    image = DicomImage(Path(), header, 0)
    known = {fact: as_text(value) for fact, key in FACTS.items() if (value := image.get(key)) not in (None, "")}
    announced = as_text(image.get("NumberOfSeriesRelatedInstances"))
    count = int(announced) if announced.isdigit() else 0
    return SeriesFacts(sender, known, image.is_ct_slice(), is_ours(header), count)


def choose(rules: tuple[Rule, ...], facts: SeriesFacts) -> Rule | None:
    """The first rule that fits; None where none does."""
    return next((rule for rule in rules if fits(rule, facts)), None)


def fits(rule: Rule, facts: SeriesFacts) -> bool:
    """Whether all that a rule names is so. What a series does not tell fits "*" alone."""
    patterns = {
        "modality": rule.modality,
        "body_part": rule.body_part,
        "kernel": rule.kernel,
        "series_description": rule.description,
    }
    told = all(_is_like(facts.known.get(fact, ""), pattern) for fact, pattern in patterns.items())
    return told and _is_like(facts.sender, rule.sender) and _is_as_thick(rule.thickness_mm, facts)


def _is_like(text: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(text.strip().lower(), pattern.lower())


def _is_as_thick(limits_mm: tuple[float, float] | None, facts: SeriesFacts) -> bool:
    if limits_mm is None:
        return True
    try:
        return limits_mm[0] <= float(facts.known.get("slice_thickness_mm", "")) <= limits_mm[1]
    except ValueError:
        return False
