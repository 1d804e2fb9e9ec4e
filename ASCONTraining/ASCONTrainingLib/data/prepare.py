"""CT as it is delivered -> a training set on disk (`datasets.py` describes it).

Mayo-2016 (AAPM Low Dose CT Grand Challenge), as its archives unpack: one folder for each of four reconstructions,
    1mm B30/full_1mm/L067/full_1mm/L067_FD_1_1.CT.0001.0001.<date and numbers>.IMA
    1mm D45/quarter_1mm_sharp/L067/quarter_1mm_sharp/L067_QD_1_SHARP_1.CT....IMA
or, in the first delivery, L067/full_1mm/*.IMA. The headers name neither patient nor dose: paths do.
Mayo-2020 (LDCT-and-Projection-data, TCIA), as the NBIA Data Retriever writes it:
    manifest-<n>/LDCT-and-Projection-data/L299/12-23-2021-NA-NA-31304/1.000000-Low Dose Images-20326/1-001.dcm
or <patient>/<study UID>/<series UID>; the series description tells the dose. GE scans have no low-dose images.
Both deliver projections too, which are passed over.

Slices are paired by patient and position, never by the order or the names of files; HU come from the rescale tags.
A set that was begun with the same settings goes on: volumes that are done are kept.
"""

from __future__ import annotations

import json
import logging
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.data.discovery import (
    MAYO_2016,
    MAYO_2020,
    FoundVolume,
    PairedVolume,
    Split,
    automatic_split,
    dicom_series,
    dose_of,
    image_files,
    pair_volumes,
    parts_of,
    parts_without_dose,
    read_split,
    to_int16,
)
from ASCONTrainingLib.data.training_set import (
    ARRAYS,
    SPLITS,
    DataError,
    Index,
    PreparedVolume,
    background_cells,
    open_array,
    read_index,
    write_index,
)

logger = logging.getLogger(__name__)

Log = Callable[[str], None]
Progress = Callable[[int, int], None]

MAX_BACKGROUND = {"train": 0.85, "validation": 0.85, "test": 0.85}
"""Share of background from which on the paper's notebook leaves out a slice (Mayo-2016, and Mayo-2020's test)."""

MAX_BACKGROUND_2020 = {"train": 0.70, "validation": 0.85, "test": 0.85}
"""The same for Mayo-2020, whose training patches of 256x256 are chosen more strictly."""

_MAYO_PATIENT = re.compile(r"(?<![A-Za-z0-9])[LCN]\d{3}(?![A-Za-z0-9])")


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
        thickness_mm, kernel: 1 or 3, "B30" or "D45"; may be left out where `src` holds one reconstruction only.
        split: JSON file in place of the paper's split.
        log: gets a line for each volume and for whatever is left out.
        progress: called with (volumes done, volumes in all).

    Raises:
        DataError: no pairs, several reconstructions to choose from, a patient with one dose only or with several series
            of one dose, series that do not fit each other, or a set made otherwise in `out`.
        InputError: a series cannot be read.
        RuntimeError: the disk is full or protected; what was done before is kept.
    """
    src = _folder(src)
    found = [one for one in dicom_series(src) if _mayo_dose(one)]
    found = _choose_reconstruction(src, found, thickness_mm, kernel) if found else found
    settings = {"split": read_split(split) if split else MAYO_2016}
    settings |= {"reconstruction": _reconstruction(found[0])} if found else {}
    plans = _mayo_plans(src, found, settings["split"], log)
    return _write_set(plans, Path(out), "mayo2016", settings, MAX_BACKGROUND, log, progress)


def prepare_mayo2020(
    src: str | Path,
    out: str | Path,
    *,
    split: str | Path | None = None,
    log: Log = logger.info,
    progress: Progress | None = None,
) -> Index:
    """Make a set of the pairs of LDCT-and-Projection-data; the paper takes 20 abdomens. See `prepare_mayo2016`."""
    src = _folder(src)
    found = [one for one in dicom_series(src) if _mayo_dose(one)]
    settings = {"split": read_split(split) if split else MAYO_2020}
    plans = _mayo_plans(src, found, settings["split"], log)
    return _write_set(plans, Path(out), "mayo2020", settings, MAX_BACKGROUND_2020, log, progress)


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
    validates. Arguments and errors as `prepare_mayo2016`.
    """
    src = _folder(src)
    found = [one for one in [*dicom_series(src), *image_files(src)] if _dose(one)]
    doses = Counter(_dose(one) for one in found)
    if len(doses) < 2:
        raise _no_pairs(src, doses, "a word for the dose in the names of files or folders, as full/A.nii and low/A.nii")
    patients: dict[str, list[FoundVolume]] = defaultdict(list)
    for one in found:
        patients[parts_without_dose(src, one)[0]].append(one)
    chosen = read_split(split) if split else automatic_split(patients, seed)
    split_of = _split_of(src, chosen, patients, log)
    _check_ids(src, patients, split_of, log)
    pairs = {patient: _pairs_of(src, patient, patients[patient]) for patient in sorted(split_of)}
    if wrong := [patient for patient, found_pairs in pairs.items() if found_pairs is None]:
        counts = [f"{p} has {_counts(patients[p])}" for p in wrong[:5]]
        raise DataError(
            f"The names in {src} do not tell which volumes of {len(wrong)} of {len(pairs)} patients belong together: "
            f"{'; '.join(counts)}{'; ...' if len(wrong) > 5 else ''}. Name pairs alike but for the dose."
        )
    plans = [
        _pair_plan(name, patient, split_of[patient], full, low)
        for patient, found_pairs in pairs.items()
        for name, full, low in found_pairs
    ]
    return _write_set(plans, Path(out), "paired", {"split": chosen}, MAX_BACKGROUND, log, progress)


def prepare_simulated(
    src: str | Path | None,
    out: str | Path,
    *,
    dose: float | tuple[float, float] = 0.25,
    phantoms: int = 0,
    phantom_shape: tuple[int, int, int] = (8, 512, 512),
    split: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    log: Log = logger.info,
    progress: Progress | None = None,
    simulate: Callable[..., Any] | None = None,
    scan: Callable[..., np.ndarray] | None = None,
) -> Index:
    """Make a set from normal-dose volumes, whose LDCT is simulated; photons and kernel are those of each scan.

    Args:
        src: folder of DICOM series and volume files, at any depth; the first part of a path names the patient.
            None: phantoms only.
        dose: fraction of the normal dose, below 1; two of them for a random one of each volume (uniform logarithm).
        phantoms: phantoms besides: abdomens and chests in turn, scanned with random photons and kernels. They train,
            or, where there is nothing else, are split like patients.
        phantom_shape: slices, rows, columns of a phantom, 384 mm wide and 160 mm high.
        device: where the simulation computes.
        simulate, scan: in place of ASCONDenoiseLib.physics.dose's.

    Volumes that cannot be read or whose noise cannot be measured are left out and logged: one of a thousand is no
    reason to stop. The rest as `prepare_mayo2016`.
    """
    from ASCONDenoiseLib.physics import dose as physics

    doses = (dose, dose) if isinstance(dose, (int, float)) else tuple(dose)
    if len(doses) != 2 or not 0 < doses[0] <= doses[1] < 1:
        raise DataError(f"The dose must be above 0 and below 1, or two such numbers in ascending order; got {dose}.")
    if phantoms < 0 or (src is None and phantoms == 0):
        raise DataError("There is nothing to simulate from: give a folder of normal-dose volumes, or phantoms.")
    simulator = _Simulator(
        simulate or physics.simulate, scan or physics.scan, doses, seed, device, tuple(int(n) for n in phantom_shape)
    )
    patients = {} if src is None else _normal_dose_volumes(Path(src), log)
    names = [f"phantom{number}" for number in range(phantoms)]
    chosen = read_split(split) if split else automatic_split(patients or names, seed)
    plans = []
    if src is not None:
        split_of = _split_of(Path(src), chosen, patients, log)
        _check_ids(Path(src), patients, split_of, log)
        plans = [
            simulator.plan("-".join(parts_of(Path(src), one)), patient, split_of[patient], one)
            for patient in sorted(split_of)
            for one in patients[patient]
        ]
    for number, name in enumerate(names):
        split_name = next((s for s in SPLITS if name in chosen[s]), "train")
        plans.append(simulator.phantom_plan(name, split_name, number))
    settings = {"split": chosen, "dose": list(doses), "seed": seed}
    forgiven = (DataError, InputError, physics.DoseError)
    return _write_set(plans, Path(out), "simulate", settings, MAX_BACKGROUND, log, progress, forgiven)


# ------------------------------------------------------------------------------------------------- whose pairs they are


@dataclass(frozen=True)
class _Plan:
    """A volume to be made, and how."""

    name: str
    patient: str
    split: str
    source: str
    dose: float | None
    make: Callable[[], PairedVolume]


def _pair_plan(name: str, patient: str, split: str, full: FoundVolume, low: FoundVolume) -> _Plan:
    def make() -> PairedVolume:
        return pair_volumes(full.read(), low.read(), f"{full.where} and {low.where}")

    return _Plan(_file_name(name), patient, split, full.where.as_posix(), None, make)


def _folder(src: str | Path) -> Path:
    src = Path(src)
    if not src.is_dir():
        raise DataError(f"{src} is no folder: give the one that holds the unpacked data.")
    return src


def _mayo_plans(src: Path, found: Sequence[FoundVolume], split: Split, log: Log) -> list[_Plan]:
    """Pairs of the patients of the split; the rest is logged."""
    patients: dict[str, dict[str, list[FoundVolume]]] = defaultdict(lambda: {"full": [], "low": []})
    for one in found:
        if patient := _mayo_patient(src, one):
            patients[patient][_mayo_dose(one)].append(one)
    doses = Counter(dose for series in patients.values() for dose in series if series[dose])
    if len(doses) < 2:
        raise _no_pairs(src, doses, "folders of patients (L067, ...) with CT images of full and of quarter or low dose")
    split_of = _split_of(src, split, patients, log)
    wrong = []
    for patient in split_of:
        counts = {dose: len(patients[patient][dose]) for dose in ("full", "low")}
        if set(counts.values()) != {1}:
            several = [str(one.where) for series in patients[patient].values() if len(series) > 1 for one in series]
            named = f" ({', '.join(several[:4])})" if several else ""
            wrong.append(f"{patient} has {counts['full']} full-dose and {counts['low']} low-dose series{named}")
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(split_of)} patients have not one series of each dose: {'; '.join(wrong[:5])}"
            f"{'; ...' if len(wrong) > 5 else ''}. Complete the delivery, move the series that are too many elsewhere, "
            "or leave the patient out of the split."
        )
    return [
        _pair_plan(patient, patient, split_of[patient], patients[patient]["full"][0], patients[patient]["low"][0])
        for patient in sorted(split_of)
    ]


def _mayo_patient(src: Path, found: FoundVolume) -> str | None:
    """L067 and the like, as paths tell: the headers of the challenge say "Anonymous"."""
    names = (*found.names, src.resolve().name)
    return next((match[0] for name in names if (match := _MAYO_PATIENT.search(name))), None)


def _mayo_dose(found: FoundVolume) -> str | None:
    """The description first: with folders named by UIDs it is all there is."""
    return dose_of([found.description, *found.names])


def _dose(found: FoundVolume) -> str | None:
    """The names first, which the user gave: "low dose" is also what protocols are called."""
    return dose_of([*found.names, found.description])


def _choose_reconstruction(
    src: Path, found: Sequence[FoundVolume], thickness_mm: float | None, kernel: str | None
) -> list[FoundVolume]:
    """The series of one thickness and kernel."""
    there = Counter(_reconstruction(one) for one in found)
    listing = ", ".join(f"{name} ({n} series)" for name, n in sorted(there.items()))
    wanted = "" if thickness_mm is None else f"{thickness_mm:g} mm "
    ending = "" if kernel is None else f" {_short_kernel(kernel)}"
    names = [name for name in there if name.startswith(wanted) and name.endswith(ending)]
    if not names:
        raise DataError(f"{src} holds no reconstruction of {wanted.strip()}{ending}: it holds {listing}.")
    if len(names) > 1:
        raise DataError(
            f"{src} holds {listing}: choose one by slice thickness and kernel, 1 mm and B30 for the paper's."
        )
    return [one for one in found if _reconstruction(one) == names[0]]


def _reconstruction(found: FoundVolume) -> str:
    """ "1 mm B30" and the like: by the header, and by the names of folders where it is silent."""
    text = " ".join(found.names)
    in_path = re.search(r"(?<![\d.])(\d+(?:\.\d+)?) ?mm", text)
    thickness = found.thickness_mm or (float(in_path[1]) if in_path else None)
    kernel = _short_kernel(found.kernel)
    if not kernel:
        named = re.search(r"(?<![A-Za-z0-9])[BD]\d\d(?!\d)", text)
        kernel = named[0] if named else ("D45" if "sharp" in text.lower() else "B30")
    return f"{'?' if thickness is None else format(round(thickness, 2), 'g')} mm {kernel}"


def _short_kernel(kernel: str) -> str:
    """B30f -> B30: the letter behind tells the scanner's mode."""
    match = re.match(r"[A-Za-z]+\d+", kernel.strip())
    return (match[0] if match else kernel.strip()).upper()


def _pairs_of(
    src: Path, patient: str, found: Sequence[FoundVolume]
) -> list[tuple[str, FoundVolume, FoundVolume]] | None:
    """(name, full, low) of one patient: the only two, or those whose paths differ in the word for the dose, or None."""
    series = {dose: [one for one in found if _dose(one) == dose] for dose in ("full", "low")}
    if len(series["full"]) == len(series["low"]) == 1:
        return [(patient, series["full"][0], series["low"][0])]
    named = {dose: defaultdict(list) for dose in series}
    for dose, members in series.items():
        for one in members:
            named[dose]["-".join(parts_without_dose(src, one))].append(one)
    names = {*named["full"], *named["low"]}
    if any(len(named[dose][name]) != 1 for name in names for dose in named):
        return None
    return [(name, named["full"][name][0], named["low"][name][0]) for name in sorted(names)]


def _counts(found: Sequence[FoundVolume]) -> str:
    doses = Counter(_dose(one) for one in found)
    return f"{doses['full']} at full and {doses['low']} at low dose"


def _split_of(src: Path, split: Split, patients: Iterable[str], log: Log) -> dict[str, str]:
    """Split of each patient that is there and in it; the rest is logged. DataError where none is left."""
    there = set(patients)
    split_of = {patient: name for name in SPLITS for patient in split[name]}
    missing, others = sorted(set(split_of) - there), sorted(there - set(split_of))
    if missing:
        log(f"{len(missing)} of {len(split_of)} patients of the split are not in {src}: {', '.join(missing)}")
    if others:
        named = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
        log(f"{len(others)} patients are in no split and left out: {named}")
    if len(missing) == len(split_of):
        raise DataError(
            f"None of the {len(there)} patients in {src} is one of the {len(split_of)} of the split: give a split file "
            "with theirs, or the folder with the right patients."
        )
    return {patient: split_of[patient] for patient in split_of if patient in there}


def _check_ids(src: Path, patients: dict[str, list[FoundVolume]], split_of: dict[str, str], log: Log) -> None:
    """Raise DataError where folders of different splits hold DICOM of one patient, going by PatientID."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for patient, split in split_of.items():
        for one in patients[patient]:
            if one.patient_id and "anon" not in one.patient_id.lower():
                folders[one.patient_id][split] = patient
    if len(patients) == 1 < len(folders):
        log(
            f"The images of {len(folders)} patients, by their PatientID, lie in one folder of {src} and count as one: "
            "give the folder that holds those of the patients."
        )
    if len(folders) < 2:  # one for all: an anonymiser's
        return
    wrong = [sorted(by_split.values()) for by_split in folders.values() if len(by_split) > 1]
    if wrong:
        raise DataError(
            f"In {src} are {len(wrong)} patients whose images lie in folders of different splits (as {wrong[0][0]} and "
            f"{wrong[0][1]}, by their PatientID): put them in one folder, or write a split file that keeps "
            "them together."
        )


def _normal_dose_volumes(src: Path, log: Log) -> dict[str, list[FoundVolume]]:
    """Volumes to simulate from, by patient; those that say they are low dose are no such."""
    everything = [*dicom_series(src), *image_files(src)]
    found = [one for one in everything if _dose(one) != "low"]
    if not found:
        low = f" (but {len(everything)} at low dose)" if everything else ""
        raise DataError(
            f"{src} holds no normal-dose CT volume{low}: give a folder of DICOM series, .nrrd, .nii.gz or .mha files."
        )
    if len(found) < len(everything):
        log(f"{len(everything) - len(found)} volumes say that they are low dose and are left out.")
    patients: dict[str, list[FoundVolume]] = defaultdict(list)
    for one in found:
        patients[parts_of(src, one)[0]].append(one)
    return patients


def _no_pairs(src: Path, doses: Counter[str], expected: str) -> DataError:
    zips = sum(name.lower().endswith(".zip") for _, _, names in os.walk(src) for name in names)
    unpack = f" It holds {zips} zip archives: unpack them first." if zips else ""
    return DataError(
        f"{src} holds no pairs: {doses['full']} with full-dose and {doses['low']} with low-dose CT were found, where "
        f"{expected} were expected.{unpack}"
    )


# ---------------------------------------------------------------------------------------------------------- simulation


@dataclass(frozen=True)
class _Simulator:
    """Pairs from normal-dose volumes. All that is random hangs on the seed and the volume's name, not on its turn."""

    simulate: Callable[..., Any]
    scan: Callable[..., np.ndarray]
    doses: tuple[float, float]
    seed: int
    device: str
    phantom_shape: tuple[int, int, int]

    def plan(self, name: str, patient: str, split: str, found: FoundVolume) -> _Plan:
        def make() -> PairedVolume:
            volume = found.read()
            ndct, spacing_mm = to_int16(volume.voxels), volume.geometry.spacing_mm
            return self._made(name, ndct, spacing_mm, volume.padding_hu, None, "scan")

        return _Plan(_file_name(name), patient, split, found.where.as_posix(), self._dose(name), make)

    def phantom_plan(self, name: str, split: str, number: int) -> _Plan:
        def make() -> PairedVolume:
            from ASCONDenoiseLib.physics import phantoms
            from ASCONDenoiseLib.physics.dose import DoseSettings, Kernel

            random = np.random.default_rng((self.seed, number))
            s, h, w = self.phantom_shape
            anatomy = (phantoms.abdomen, phantoms.chest)[number % 2]
            phantom = anatomy(int(random.integers(2**31)), (s, h, w), (384 / w, 384 / h, 160 / s))
            photons = float(np.exp(random.uniform(np.log(2e5), np.log(1.5e6))))
            kernel = Kernel(random.uniform(0.38, 0.60), random.uniform(1.5, 2.4))
            settings = DoseSettings(photons=photons, kernel=kernel, seed=int(random.integers(2**31)))
            ndct = to_int16(self.scan(phantom.voxels_hu, phantom.spacing_mm, settings, device=self.device))
            return self._made(name, ndct, phantom.spacing_mm, None, photons, kernel)

        source = f"phantom of {'x'.join(map(str, self.phantom_shape))} voxels"
        return _Plan(name, name, split, source, self._dose(name), make)

    def _made(
        self,
        name: str,
        ndct: np.ndarray,
        spacing_mm: tuple[float, float, float],
        padding_hu: float | None,
        photons: float | None,
        kernel: Any,
    ) -> PairedVolume:
        from ASCONDenoiseLib.physics.dose import DoseSettings

        seed = int(self._random(name).integers(2**31))
        settings = DoseSettings(dose=self._dose(name), photons=photons, kernel=kernel, seed=seed)
        simulation = self.simulate(ndct, spacing_mm, settings, device=self.device, padding_hu=padding_hu)
        return PairedVolume(ndct, to_int16(simulation.voxels), tuple(spacing_mm))

    def _dose(self, name: str) -> float:
        low, high = self.doses
        share = np.random.default_rng((self.seed, zlib.crc32(name.encode()), 1)).uniform()
        return low if low == high else float(low * (high / low) ** share)

    def _random(self, name: str) -> np.random.Generator:
        return np.random.default_rng((self.seed, zlib.crc32(name.encode())))


# ------------------------------------------------------------------------------------------------------------- writing


def _write_set(
    plans: list[_Plan],
    out: Path,
    kind: str,
    settings: dict[str, Any],
    max_background: dict[str, float],
    log: Log,
    progress: Progress | None,
    forgiven: tuple[type[Exception], ...] = (),
) -> Index:
    """Make what is not there yet. A volume is whole before the index names it. What raises `forgiven` is left out."""
    doubles = [name for name, n in Counter(plan.name for plan in plans).items() if n > 1]
    if doubles:
        raise DataError(
            f"{len(doubles)} names stand for several volumes ({', '.join(doubles[:5])}): rename the others."
        )
    _make_folder(out)
    settings = json.loads(json.dumps(settings))  # as they will be read
    earlier = _earlier(out, kind, settings)
    done = {plan.name: earlier[plan.name] for plan in plans if _is_done(plan, earlier.get(plan.name), out)}
    left_out: dict[str, Exception] = {}

    def index() -> Index:
        volumes = tuple(done[plan.name] for plan in plans if plan.name in done)
        return Index(kind, settings, max_background, len(plans) - len(left_out), volumes)

    for number, plan in enumerate(plans):
        if progress:
            progress(number, len(plans))
        if plan.name in done:
            continue
        try:
            made = plan.make()
        except forgiven as error:
            left_out[plan.name] = error
            log(f"{plan.name} is left out: {error}")
            continue
        done[plan.name] = _save(plan, made, out)
        log(_line(done[plan.name]))
        write_index(index(), out)
    if not done:
        raise DataError(f"None of {len(plans)} volumes can be used. {next(reversed(left_out.values()))}")
    write_index(index(), out)
    if progress:
        progress(len(plans), len(plans))
    if left_out:
        log(f"{len(left_out)} of {len(plans)} volumes are left out.")
    log(f"{out}: {index()}")
    return index()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {out} cannot be made ({error.strerror}): choose another.") from error


def _earlier(out: Path, kind: str, settings: dict[str, Any]) -> dict[str, PreparedVolume]:
    """The volumes of a set that was begun, by name; DataError where it was made otherwise."""
    if not (out / "index.json").exists():
        return {}
    index = read_index(out)
    keys = [key for key in {**index.settings, **settings} if index.settings.get(key) != settings.get(key)]
    if index.kind != kind or keys:
        what = f"by {index.kind}, not {kind}" if index.kind != kind else f"with another {' and '.join(keys)}"
        raise DataError(
            f"{out} holds a set of {len(index.volumes)} volumes that was made {what}: choose another folder, or "
            "remove this one."
        )
    return {volume.name: volume for volume in index.volumes}


def _is_done(plan: _Plan, volume: PreparedVolume | None, out: Path) -> bool:
    if volume is None or any(getattr(volume, f) != getattr(plan, f) for f in ("patient", "split", "source", "dose")):
        return False
    try:
        for what in ARRAYS:
            open_array(out, volume, what)
    except DataError:
        return False
    return True


def _save(plan: _Plan, made: PairedVolume, out: Path) -> PreparedVolume:
    arrays = {"ndct": made.ndct, "ldct": made.ldct, "background": background_cells(made.ndct)}
    for what, array in arrays.items():
        path = out / f"{plan.name}.{what}.npy"
        partial = out / f".{path.name}.partial"
        try:
            with open(partial, "wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise RuntimeError(f"{path} could not be written: check free space and permissions.") from error
        finally:
            partial.unlink(missing_ok=True)
    shape = tuple(int(n) for n in made.ndct.shape)
    spacing_mm = tuple(float(mm) for mm in made.spacing_mm)
    return PreparedVolume(
        plan.name, plan.patient, plan.split, shape, spacing_mm, plan.dose, plan.source, made.unmatched
    )


def _line(volume: PreparedVolume) -> str:
    text = f"{volume.name}: {volume.slices} pairs, {volume.split}"
    text += f", dose {volume.dose:.3g}" if volume.dose is not None else ""
    if any(volume.unmatched):
        text += " ({} full-dose and {} low-dose slices have no partner)".format(*volume.unmatched)
    return text


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "volume"
