"""Which patient trains, validates and tests: the published splits, files with others, and a split where none exists.

The paper (section 3.1) names training and test patients only, and its implementation chose the epoch to report on the
test patients. Here the last training patients validate, so that the test patients are seen once, at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from .datasets import SPLITS, DataError, check_patients

Split = dict[str, list[str]]
"""Patients of "train", "validation" and "test"."""

MAYO_2016: Split = {
    "train": ["L067", "L096", "L109", "L143", "L192", "L286", "L291"],
    "validation": ["L310"],
    "test": ["L333", "L506"],
}
"""AAPM challenge, as the paper; the notebook's L219 is the challenge's L291."""

MAYO_2020: Split = {
    "train": "L107 L114 L116 L125 L131 L134 L145 L150 L160 L170 L175 L178 L186 L187".split(),
    "validation": ["L193", "L203"],
    "test": ["L110", "L123", "L148", "L179"],
}
"""LDCT-and-Projection-data, abdomen, as the paper."""


def read_split(path: str | Path) -> Split:
    """Read {"train": [...], "validation": [...], "test": [...]} from a JSON file; other keys are remarks.

    Raises:
        DataError: unreadable, lists missing, no training patient, or a patient in two of them.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        split = {name: [str(patient) for patient in content[name]] for name in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path} is no split file: it must be JSON, {{"train": [...], "validation": [...], "test": [...]}} with '
            "the patients of each (lists may be empty)."
        ) from error
    if not split["train"]:
        raise DataError(f"{path} names no training patient.")
    check_patients(split, path)
    return split


def automatic_split(patients: Iterable[str], seed: int = 0) -> Split:
    """A tenth of the patients, at least one, tests, as many validate, the rest trains; the same for the same names.

    With two patients none is left to test, with one none to validate.
    """
    order = sorted(set(patients), key=lambda patient: hashlib.sha256(f"{seed} {patient}".encode()).digest())
    tenth = max(1, round(len(order) / 10))
    test = tenth if len(order) > 2 else 0
    validation = tenth if len(order) > 1 else 0
    return {
        "train": sorted(order[test + validation :]),
        "validation": sorted(order[test : test + validation]),
        "test": sorted(order[:test]),
    }
