"""Training sets of measured pairs: Mayo-2016, Mayo-2020, and any pairs that their names tell. Paths: `discovery.py`.

Slices are paired by patient and position, never by the order or the names of files; HU come from the rescale tags.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.discovery import (
    SourceVolume,
    dicom_series,
    image_files,
    path_parts_without_dose,
)
from ASCONTrainingLib.data.pairing import PairedVolume, pair_volumes
from ASCONTrainingLib.data.set_index import Index
from ASCONTrainingLib.data.set_writer import MAX_BACKGROUND, Log, Progress, VolumePlan, write_set
from ASCONTrainingLib.data.splits import (
    MAYO_2016,
    MAYO_2020,
    Split,
    automatic_split,
    check_no_patient_twice,
    check_patient_ids,
    read_split,
    split_of_patients,
)

logger = logging.getLogger(__name__)

MAX_BACKGROUND_2020 = MAX_BACKGROUND | {"train": 0.70}
"""For Mayo-2020, whose training patches of 256x256 are chosen more strictly."""

_MAYO_PATIENT = re.compile(r"(?<![A-Za-z0-9])[LCN]\d{3}(?![A-Za-z0-9])", re.IGNORECASE)


def prepare_mayo2016(
    src: str | Path,
    out: str | Path,
    *,
    thickness_mm: float | None = None,
    kernel: str | None = None,
    split: str | Path | None = None,
    log: Log = logger.info,
    progress: Progress | None = None,
) -> Index:
    """Make a set of the pairs of the AAPM challenge; the paper takes 1 mm and B30, all slices of 10 patients (5936).

    Args:
        src: the folder that holds the unpacked archives, at any depth.
        out: folder of the set; one that was begun goes on.
        thickness_mm: 1 or 3; may be left out, as `kernel`, where `src` holds one reconstruction only.
        kernel: "B30" or "D45".
        split: JSON file in place of the paper's split.
        log: gets a line for each volume and for whatever is left out.
        progress: called with (volumes done, volumes in all).

    Raises:
        InputError: no pairs, several reconstructions to choose from, a patient with one dose only or with several
            series of one dose, series that cannot be read or do not fit each other, or a set made otherwise in `out`.
        WriteError: the disk is full or protected; what was done before is kept.
    """
    src = _folder(src)
    series = [volume for volume in dicom_series(src) if volume.dose_by_description]
    series = _choose_reconstruction(src, series, thickness_mm, kernel) if series else series
    chosen = _read_mayo_split(split) if split else MAYO_2016
    plans = _mayo_plans(src, series, chosen, log)
    settings = {"split": chosen, "reconstruction": _reconstruction(series[0])}
    return write_set(plans, out, "mayo2016", settings, log=log, progress=progress)


def prepare_mayo2020(
    src: str | Path,
    out: str | Path,
    *,
    split: str | Path | None = None,
    log: Log = logger.info,
    progress: Progress | None = None,
) -> Index:
    """Make a set of the pairs of LDCT-and-Projection-data; the paper takes 20 abdomens.

    Args, Raises: as `prepare_mayo2016`.
    """
    src = _folder(src)
    series = [volume for volume in dicom_series(src) if volume.dose_by_description]
    chosen = _read_mayo_split(split) if split else MAYO_2020
    plans = _mayo_plans(src, series, chosen, log)
    settings, limits = {"split": chosen}, MAX_BACKGROUND_2020
    return write_set(plans, out, "mayo2020", settings, max_background=limits, log=log, progress=progress)


def prepare_paired(
    src: str | Path,
    out: str | Path,
    *,
    split: str | Path | None = None,
    seed: int = 0,
    log: Log = logger.info,
    progress: Progress | None = None,
) -> Index:
    """Make a set of any pairs, DICOM series or volume files, that differ in a word for the dose and in nothing else.

    The word (full, normal, FD, NDCT; quarter, low, QD, LDCT) stands in a file's or folder's name or in the description:
    full/A.nii.gz and low/A.nii.gz, A/ndct.nrrd and A/ldct.nrrd, A_full/*.dcm and A_low/*.dcm are pairs of patient A,
    the first part of the path without such words. Without a split file a tenth of the patients tests, another
    validates; `seed` is that of the choice.

    Args, Raises: as `prepare_mayo2016`.
    """
    src = _folder(src)
    volumes = [volume for volume in [*dicom_series(src), *image_files(src)] if volume.dose_by_name]
    doses = Counter(volume.dose_by_name for volume in volumes)
    if len(doses) < 2:
        raise _no_pairs(src, doses, "a word for the dose in the names of files or folders, as full/A.nii and low/A.nii")
    patients: dict[str, list[SourceVolume]] = defaultdict(list)
    for volume in volumes:
        patients[path_parts_without_dose(src, volume)[0]].append(volume)
    chosen = read_split(split) if split else automatic_split(patients, seed)
    split_of = split_of_patients(src, chosen, patients, log)
    check_patient_ids(src, {p: [v.patient_id for v in members] for p, members in patients.items()}, split_of, log)
    plans, wrong = [], []
    for patient in sorted(split_of):
        pairs = _pairs_by_name(src, patient, patients[patient])
        plans += [_plan(name, patient, split_of[patient], full, low) for name, full, low in pairs]
        if not pairs:
            counts = Counter(volume.dose_by_name for volume in patients[patient])
            wrong.append(f"{patient} has {counts['full']} at full and {counts['low']} at low dose")
    if wrong:
        raise InputError(
            f"The names in {src} do not tell which volumes of {len(wrong)} of {len(split_of)} patients belong "
            f"together: {_first_five(wrong)}. Name pairs alike but for the dose."
        )
    return write_set(plans, out, "paired", {"split": chosen}, log=log, progress=progress)


def _plan(name: str, patient: str, split: str, full: SourceVolume, low: SourceVolume) -> VolumePlan:
    def make() -> PairedVolume:
        return pair_volumes(full.read(), low.read(), f"{patient}: {full.where} and {low.where}")

    return VolumePlan(name, patient, split, full.where.as_posix(), None, make)


def _folder(src: str | Path) -> Path:
    src = Path(src)
    if not src.is_dir():
        raise InputError(f"{src} is no folder: give the one that holds the unpacked data.")
    return src


def _mayo_plans(src: Path, volumes: Sequence[SourceVolume], split: Split, log: Log) -> list[VolumePlan]:
    """Pairs of the patients of the split; the rest is logged."""
    patients: dict[str, dict[str, list[SourceVolume]]] = defaultdict(lambda: {"full": [], "low": []})
    for volume in volumes:
        patient, dose = _mayo_patient(src, volume), volume.dose_by_description
        if patient and dose:
            patients[patient][dose].append(volume)
    doses = Counter[str | None](dose for series in patients.values() for dose in series if series[dose])
    if len(doses) < 2:
        raise _no_pairs(src, doses, "folders of patients (L067, ...) with CT images of full and of quarter or low dose")
    split_of = split_of_patients(src, split, patients, log)
    wrong = []
    for patient in split_of:
        counts = {dose: len(patients[patient][dose]) for dose in ("full", "low")}
        if set(counts.values()) != {1}:
            several = [str(one.where) for series in patients[patient].values() if len(series) > 1 for one in series]
            named = f" ({', '.join(several[:4])})" if several else ""
            wrong.append(f"{patient} has {counts['full']} full-dose and {counts['low']} low-dose series{named}")
    if wrong:
        raise InputError(
            f"{len(wrong)} of {len(split_of)} patients have not one series of each dose: {_first_five(wrong)}. "
            "Complete the delivery, move the series that are too many elsewhere, or leave the patient out of the split."
        )
    return [
        _plan(patient, patient, split_of[patient], patients[patient]["full"][0], patients[patient]["low"][0])
        for patient in sorted(split_of)
    ]


def _read_mayo_split(path: str | Path) -> Split:
    """`read_split`, with the patients in capitals as `_mayo_patient` has them."""
    split = {name: [patient.upper() for patient in patients] for name, patients in read_split(path).items()}
    check_no_patient_twice(split, path)
    return split


def _mayo_patient(src: Path, volume: SourceVolume) -> str | None:
    """L067 and the like, in capitals, as paths tell: the headers of the challenge say "Anonymous"."""
    names = (*volume.names, src.resolve().name)
    return next((match[0].upper() for name in names if (match := _MAYO_PATIENT.search(name))), None)


def _choose_reconstruction(
    src: Path, series: Sequence[SourceVolume], thickness_mm: float | None, kernel: str | None
) -> list[SourceVolume]:
    """The series of one thickness and kernel."""
    there = Counter(_reconstruction(one) for one in series)
    listing = ", ".join(f"{name} ({n} series)" for name, n in sorted(there.items()))
    wanted = "" if thickness_mm is None else f"{thickness_mm:g} mm "
    ending = "" if kernel is None else f" {_short_kernel(kernel)}"
    names = [name for name in there if name.startswith(wanted) and name.endswith(ending)]
    if not names:
        raise InputError(f"{src} holds no reconstruction of {wanted.strip()}{ending}: it holds {listing}.")
    if len(names) > 1:
        raise InputError(
            f"{src} holds {listing}: choose one by slice thickness and kernel, 1 mm and B30 for the paper's."
        )
    return [one for one in series if _reconstruction(one) == names[0]]


def _reconstruction(series: SourceVolume) -> str:
    """ "1 mm B30" and the like: by the header, and by the names of folders where it is silent."""
    text = " ".join(series.names)
    in_path = re.search(r"(?<![\d.])(\d+(?:\.\d+)?) ?mm", text)
    thickness = series.thickness_mm or (float(in_path[1]) if in_path else None)
    kernel = _short_kernel(series.kernel)
    if not kernel:
        named = re.search(r"(?<![A-Za-z0-9])[BD]\d\d(?!\d)", text)
        kernel = named[0] if named else ("D45" if "sharp" in text.lower() else "B30")
    return f"{'?' if thickness is None else format(round(thickness, 2), 'g')} mm {kernel}"


def _short_kernel(kernel: str) -> str:
    """B30f -> B30: the letter behind tells the scanner's mode."""
    match = re.match(r"[A-Za-z]+\d+", kernel.strip())
    return (match[0] if match else kernel.strip()).upper()


def _pairs_by_name(
    src: Path, patient: str, volumes: Sequence[SourceVolume]
) -> list[tuple[str, SourceVolume, SourceVolume]]:
    """(name, full, low) of one patient: the only two, or those whose paths differ in the word for the dose, or none."""
    by_dose = {dose: [one for one in volumes if one.dose_by_name == dose] for dose in ("full", "low")}
    if len(by_dose["full"]) == len(by_dose["low"]) == 1:
        return [(patient, by_dose["full"][0], by_dose["low"][0])]
    named: dict[str, dict[str, list[SourceVolume]]] = defaultdict(lambda: {"full": [], "low": []})
    for dose, members in by_dose.items():
        for one in members:
            named["-".join(path_parts_without_dose(src, one))][dose].append(one)
    if any(len(members) != 1 for doses in named.values() for members in doses.values()):
        return []
    return [(name, named[name]["full"][0], named[name]["low"][0]) for name in sorted(named)]


def _first_five(sentences: list[str]) -> str:
    return "; ".join(sentences[:5]) + ("; ..." if len(sentences) > 5 else "")


def _no_pairs(src: Path, doses: Counter[str | None], expected: str) -> InputError:
    zips = sum(name.lower().endswith(".zip") for _, _, names in os.walk(src) for name in names)
    unpack = f" It holds {zips} zip archives: unpack them first." if zips else ""
    return InputError(
        f"{src} holds no pairs: {doses['full']} with full-dose and {doses['low']} with low-dose CT were found, where "
        f"{expected} were expected.{unpack}"
    )
