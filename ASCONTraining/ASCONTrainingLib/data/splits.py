"""Which patients train, which validate and which test; none of them in two splits.

The paper (section 3.1) names training and test patients only, and its implementation chose the epoch to report on the
test patients. Here the last training patients validate, so that the test patients are seen once, at the end.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ASCONDenoiseLib.checked_json import parse_json
from ASCONDenoiseLib.errors import InputError

SPLITS = ("train", "validation", "test")

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
        InputError: unreadable, lists missing, or a patient in two of them.
    """
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
        split = {name: [str(patient) for patient in content[name]] for name in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path} is no split file: it must be JSON, {{"train": [...], "validation": [...], "test": [...]}} with '
            "the patients of each (lists may be empty)."
        ) from error
    check_no_patient_twice(split, path)
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


def check_no_patient_twice(split: Split, where: str | Path) -> None:
    """Raise InputError where a patient is in two splits: its anatomy would leak from training into the result."""
    counts = Counter(patient for patients in split.values() for patient in set(patients))
    doubles = sorted(patient for patient, n in counts.items() if n > 1)
    if doubles:
        number = f"{len(doubles)} patient{'' if len(doubles) == 1 else 's'}"
        raise InputError(
            f"{where} has {number} in more than one split ({_listed(doubles)}): each patient may be in one only."
        )


def split_of_patients(src: Path, split: Split, patients: Iterable[str], log: Callable[[str], None]) -> dict[str, str]:
    """Find the split of each patient that lies in `src` and is in one, and log the rest.

    Args:
        src: the folder, for what is said.
        split: as published, read or made.
        patients: those in `src`.
        log: gets a line about patients that are missing, and about those that are in no split.

    Raises:
        InputError: no patient is left.
    """
    there = set(patients)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    missing, others = sorted(set(split_of) - there), sorted(there - set(split_of))
    if missing:
        log(f"{len(missing)} of {len(split_of)} patients of the split are not in {src}: {', '.join(missing)}")
    if others:
        log(f"{len(others)} patients are in no split and left out: {_listed(others)}")
    if len(missing) == len(split_of):
        raise InputError(
            f"None of the {len(there)} patients in {src} is one of the {len(split_of)} of the split: give a split file "
            "with theirs, or the folder with the right patients."
        )
    return {patient: split_of[patient] for patient in split_of if patient in there}


def check_patient_ids(
    src: Path, patient_ids: Mapping[str, Iterable[str]], split_of: Mapping[str, str], log: Callable[[str], None]
) -> None:
    """Check that folders of different splits hold no DICOM of one patient.

    Args:
        src: the folder, for what is said.
        patient_ids: for each patient, by name, the PatientIDs of the volumes; empty where there is none.
        split_of: the split of each patient that is used.
        log: gets a line where several patients lie in one folder.

    Raises:
        InputError: two splits share a PatientID.
    """
    folders: dict[str, dict[str, str]] = defaultdict(dict)  # PatientID -> split -> a patient by name
    for patient, split in split_of.items():
        for patient_id in patient_ids[patient]:
            if patient_id and "anon" not in patient_id.lower():
                folders[patient_id][split] = patient
    if len(patient_ids) == 1 < len(folders):
        log(
            f"The images of {len(folders)} patients, by their PatientID, lie in one folder of {src} and count as one: "
            "give the folder that holds those of the patients."
        )
    if len(folders) < 2:  # one for all: an anonymiser's
        return
    wrong = [sorted(by_split.values()) for by_split in folders.values() if len(by_split) > 1]
    if wrong:
        raise InputError(
            f"In {src} are {len(wrong)} patients whose images lie in folders of different splits (as {wrong[0][0]} and "
            f"{wrong[0][1]}, by their PatientID): put them in one folder, or write a split file that keeps "
            "them together."
        )


def _listed(patients: list[str]) -> str:
    return ", ".join(patients[:10]) + (", ..." if len(patients) > 10 else "")
