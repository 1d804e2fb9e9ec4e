"""One table for models and classical filters on patients that none of them has seen: `ascon compare`.

Everybody gets the same slices of a prepared set. Numbers are those of the product's output, in the units of the paper's
tables, both images clipped to the training window. Whether the first model differs from another is tested on patients:
slices of one patient resemble each other, and a test that takes them for independent finds differences everywhere.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.imaging import image_quality, metrics
from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.data.training_set import WholeSlices, scan_fingerprints
from ASCONTrainingLib.evaluation import filters, safety

if TYPE_CHECKING:
    from torch import nn

    from ASCONDenoiseLib.physics.phantom_volume import Phantom

LDCT, NDCT = "LDCT", "NDCT"
TUNING_SLICES = 3
"""Slices of each volume on which a filter's setting is chosen."""
UNKNOWN_NOISE_HU = 40.0
"""Taken for the filters' settings where a volume has no flat soft tissue to measure its noise in."""
PHANTOM_SEED = 10_000
"""First seed of the phantoms with lesions; sets take theirs from 0 on."""
PHANTOM_PHOTONS = 6e5
"""Per ray at normal dose, in the phantoms: some 16 HU of noise in the liver."""
TEXT, TABLE, SLICES, ALL = "comparison.txt", "comparison.csv", "slices.csv", "comparison.json"


class ComparisonError(ValueError):
    """The comparison cannot be made, or would not be a fair one; the text says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """What is compared on.

    Attributes:
        split: of the set, "test" or "validation".
        every: takes each n-th slice.
        classical: with the classical filters.
        phantoms: abdomens with lesions for the contrast-to-noise ratio; 0 for none.
        phantom_side: of their slices, in pixels of 360 mm / side.
        phantom_dose: fraction of the normal dose.
        allow_seen: also scans that a model was trained on.
    """

    split: str = "test"
    every: int = 1
    classical: bool = True
    phantoms: int = 4
    phantom_side: int = 256
    phantom_dose: float = 0.25
    allow_seen: bool = False


@dataclass(frozen=True)
class Method:
    """One row: `run` takes the LDCT (S, H, W) and gives its output. Filters differ from volume to volume."""

    name: str
    kind: str
    """"model", "filter" or "none" (the LDCT itself)."""
    run: Callable[[np.ndarray], np.ndarray] | None = None
    """None: a filter, which is tuned on each volume first."""
    note: str = ""


@dataclass(frozen=True)
class SliceRow:
    """One slice of one method."""

    patient: str
    volume: str
    index: int
    psnr_db: float
    ssim: float
    rmse: float
    """In units of the training window."""
    rmse_hu: float


@dataclass
class Measured:
    """All that was found of one method; lists grow volume by volume."""

    name: str
    kind: str
    note: str = ""
    rows: list[SliceRow] = field(default_factory=list)
    noise: list[tuple[float, float]] = field(default_factory=list)
    """For each volume with flat soft tissue, SD in HU in the LDCT and in the output, in the same places."""
    shifts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    """Tissue -> for each volume its voxels and the mean of output - NDCT in HU."""
    structure: list[float] = field(default_factory=list)
    """For each volume, correlation of what was removed with the NDCT's gradient."""
    cnr: list[float] = field(default_factory=list)
    """Of each lesion of the phantoms."""
    seconds: float = 0.0
    settings: list[str] = field(default_factory=list)
    """Of a filter, one for each volume."""

    def mean_sd(self, metric: str) -> tuple[float, float]:
        """Over slices, as metrics.Comparison has it."""
        return metrics.Comparison(self.name, metrics.PAPER, True, tuple(self.rows)).mean_sd(metric)

    def noise_reduction_percent(self) -> float:
        """Mean over volumes; nan where none has flat soft tissue."""
        return float(np.mean([100 * (1 - after / before) for before, after in self.noise])) if self.noise else math.nan

    def shift_hu(self) -> dict[str, float]:
        """Tissue -> mean of output - NDCT over all its voxels."""
        found = {}
        for tissue, parts in self.shifts.items():
            voxels = sum(n for n, _ in parts)
            found[tissue] = sum(n * shift for n, shift in parts) / voxels
        return found

    def patient_means(self, metric: str) -> dict[str, float]:
        """Patient -> mean over its slices."""
        rows: dict[str, list[SliceRow]] = {}
        for row in self.rows:
            rows.setdefault(row.patient, []).append(row)
        return {patient: replace(self, rows=of_one).mean_sd(metric)[0] for patient, of_one in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: null."""
        summary = {
            "name": self.name,
            "kind": self.kind,
            "note": self.note,
            **{metric: [_plain(value) for value in self.mean_sd(metric)] for metric in metrics.METRICS},
            "noise_reduction_percent": _plain(self.noise_reduction_percent()),
            "hu_shift": self.shift_hu(),
            "residual_structure": _plain(_mean(self.structure)),
            "cnr": _plain(_mean(self.cnr)),
            "seconds_per_slice": self.seconds / len(self.rows),
            "settings": self.settings,
        }
        slices = [{name: _plain(value) for name, value in asdict(row).items()} for row in self.rows]
        return summary | {"slices": slices}


@dataclass(frozen=True)
class PairedTest:
    """The first model against another method, on patient means of PSNR: Wilcoxon's signed-rank test, two-sided."""

    other: str
    patients: int
    better: int
    """Patients on whom the first model has the higher PSNR."""
    difference_db: float
    """Mean over patients of first - other."""
    p: float
    """nan with fewer than two patients."""
    p_holm: float
    """`p` times the number of tests, as Holm does it."""
    smallest_p: float
    """The smallest p that so many patients can give."""


@dataclass(frozen=True)
class Found:
    """A whole comparison."""

    set: str
    settings: Settings
    patients: int
    methods: tuple[Measured, ...]
    not_run: Mapping[str, str]
    """Rows that were asked for but could not be run -> why."""
    tests: tuple[PairedTest, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "set": self.set,
            "settings": asdict(self.settings),
            "patients": self.patients,
            "units": metrics.PAPER.describe(),
            "methods": [method.to_dict() for method in self.methods],
            "not_run": dict(self.not_run),
            "tests": [{name: _plain(value) for name, value in asdict(test).items()} for test in self.tests],
            "warnings": list(self.warnings),
        }


# --------------------------------------------------------------------------------------------------------- the work


def compare(
    data: Path,
    networks: Mapping[str, tuple[nn.Module, ModelCard]],
    settings: Settings = Settings(),
    *,
    device: str = "auto",
    not_run: Mapping[str, str] | None = None,
    say: Callable[[str], None] | None = None,
    see: Callable[[str, dict[str, np.ndarray], image_quality.Spacing], None] | None = None,
) -> Found:
    """Measure networks, and classical filters, on one split of the prepared set `data`.

    Args:
        networks: name -> network and card; the first is tested against each of the others. No `reserved_names`.
        device: as in inference.denoise.
        not_run: rows that stay empty -> why.
        say: called with a sentence now and then.
        see: called for each volume with its name, the middle slice (H, W) of the NDCT and of each output, its spacing.

    Raises ComparisonError where a model was trained on a scan or has the name of another row, datasets.DataError where
    the set cannot be used.
    """
    if not networks:
        raise ComparisonError("There is no model to compare: name one or more.")
    if mixed := sorted(reserved_names() & networks.keys()):
        raise ComparisonError(f"Models are named like other rows of the table ({', '.join(mixed)}): rename them.")
    say = say or (lambda text: None)
    slices = WholeSlices(data, settings.split, every=settings.every)
    cards = {name: card for name, (_, card) in networks.items()}
    warnings = check_unseen(cards, _scans(data, slices), settings.allow_seen)
    for warning in warnings:
        say(warning)
    methods = [Method(LDCT, "none", lambda ldct: ldct)]
    methods += [
        Method(name, "model", denoiser(network, device), card.name) for name, (network, card) in networks.items()
    ]
    if settings.classical:
        methods += [Method(name, "filter") for name in filters.candidates(UNKNOWN_NOISE_HU)]
    found = {method.name: Measured(method.name, method.kind, method.note) for method in methods}
    for patient, volume, indices, ndct, ldct, spacing_mm in _volumes(slices):
        say(f"{volume}: {len(ndct)} slices")
        places = _Places(ndct, spacing_mm)
        middle = {NDCT: ndct[len(ndct) // 2]}
        for method, output, seconds, setting in _outputs(methods, ndct, ldct, spacing_mm):
            one = found[method.name]
            one.seconds += seconds
            one.settings += [setting] if setting else []
            for row in metrics.compare(ndct, output).rows:
                values = (row.psnr_db, row.ssim, row.rmse, row.rmse_hu)
                one.rows.append(SliceRow(patient, volume, int(indices[row.index]), *values))
            places.measure(one, ldct, output)
            middle[method.name] = output[len(ndct) // 2]
        if see is not None:
            see(volume, middle, spacing_mm)
    for seed in range(PHANTOM_SEED, PHANTOM_SEED + settings.phantoms):
        say(f"phantom with lesions, seed {seed}")
        for method, values in _lesion_cnr(methods, seed, settings):
            found[method].cnr += values
    rows = list(found.values())
    tests = paired_tests(rows, list(networks)[0])
    patients = len(rows[0].patient_means("psnr_db"))
    return Found(Path(data).name, settings, patients, tuple(rows), dict(not_run or {}), tests, tuple(warnings))


def reserved_names() -> set[str]:
    """Names that no model may have in a comparison: those of the images, and of the classical filters."""
    return {LDCT, NDCT, *filters.candidates(UNKNOWN_NOISE_HU)}


def check_unseen(cards: Mapping[str, ModelCard], scans: Mapping[str, str], allow_seen: bool) -> list[str]:
    """Warnings about scans that a model may have seen.

    scans: fingerprint -> name, from datasets.scan_fingerprints, which says what these do not see: another scan of a
    patient that a model was trained on passes here. Raises ComparisonError where a model was trained on one of the
    scans, as its card has it, unless `allow_seen`.
    """
    warnings = []
    for name, card in cards.items() if scans else ():  # a set of phantoms alone: nobody's scans
        seen = card.scans
        if not seen:
            warnings.append(f"The card of {name} does not list the scans it was trained on: make sure it saw none.")
        if seen.get("unlisted"):
            earlier = ", ".join(seen["unlisted"])
            warnings.append(f"{name} began with {earlier}, whose card does not list its scans: make sure it saw none.")
        for split, verb in (("train", "was trained on"), ("validation", "was chosen by")):
            common = [scans[fingerprint] for fingerprint in seen.get(split, ()) if fingerprint in scans]
            if not common:
                continue
            which = ", ".join(common[:3]) + (", ..." if len(common) > 3 else "")
            sentence = f"The model {name} {verb} {len(common)} of these {len(scans)} scans ({which})."
            if split == "train" and not allow_seen:
                raise ComparisonError(f"{sentence} Its numbers would be too good: take scans that no model has seen.")
            warnings.append(f"{sentence} Its numbers may be too good.")
    return warnings


def denoiser(network: nn.Module, device: str) -> Callable[[np.ndarray], np.ndarray]:
    """A network as a function from LDCT (S, H, W) to its output, as the product makes it."""
    from ASCONDenoiseLib.models import inference

    return lambda ldct: inference.denoise(ldct, network, device=device).voxels


def pairs(data: Path, split: str, every: int = 1) -> tuple[list[safety.Pair], dict[str, str]]:
    """The slices of a split, volume by volume, and its scans for `check_unseen`. Raises datasets.DataError."""
    slices = WholeSlices(data, split, every=every)
    found = [safety.Pair(name, ndct, ldct, spacing) for _, name, _, ndct, ldct, spacing in _volumes(slices)]
    return found, _scans(data, slices)


def _scans(data: Path, slices: WholeSlices) -> dict[str, str]:
    return scan_fingerprints(data, slices.index.of(slices.split))


def _volumes(slices: WholeSlices) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, np.ndarray, tuple]]:
    """Patient, volume, slice indices, NDCT and LDCT (S, H, W) and spacing, of each volume with slices in the table."""
    for number, volume in enumerate(slices.index.of(slices.split)):
        rows = [i for i in range(len(slices)) if slices.table[i][0] == number]
        if rows:
            pairs = [slices[i] for i in rows]
            ndct, ldct = (np.stack([getattr(pair, what) for pair in pairs]) for what in ("ndct_hu", "ldct_hu"))
            indices = np.array([pair.index for pair in pairs])
            yield volume.patient, volume.name, indices, ndct, ldct, volume.spacing_mm


def _outputs(
    methods: Sequence[Method], ndct: np.ndarray, ldct: np.ndarray, spacing_mm: tuple
) -> Iterator[tuple[Method, np.ndarray, float, str]]:
    """Each method's output (S, H, W), its seconds without tuning, and a filter's setting."""
    noise = image_quality.noise_hu(ldct, spacing_mm)
    settings = filters.candidates(noise.sd_hu if noise else UNKNOWN_NOISE_HU)
    some = np.unique(np.linspace(0, len(ldct) - 1, TUNING_SLICES + 2).round().astype(int)[1:-1])
    for method in methods:
        run, setting = method.run, ""
        if run is None:
            setting = filters.tuned(settings[method.name], ndct, ldct, some)
            chosen = settings[method.name][setting]
            run = lambda volume, chosen=chosen: filters.apply(volume, chosen)  # noqa: E731
        started = time.perf_counter()
        output = run(ldct)
        yield method, output, time.perf_counter() - started, setting


class _Places:
    """Where in one volume noise and tissues are measured: found once, in the NDCT."""

    def __init__(self, ndct: np.ndarray, spacing_mm: tuple):
        self.ndct, self.spacing_mm = ndct, spacing_mm
        self.windows = image_quality.flat_soft_tissue_windows(ndct, spacing_mm)
        self.labels = image_quality.tissue_labels(ndct, spacing_mm)

    def measure(self, one: Measured, ldct: np.ndarray, output: np.ndarray) -> None:
        """Noise in the same places before and after, HU shift per tissue, structure in what was removed."""
        noise = [image_quality.noise_hu(v, self.spacing_mm, centres=self.windows) for v in (ldct, output)]
        if noise[0] is not None:
            one.noise.append((noise[0].sd_hu, noise[1].sd_hu))
        for shift in image_quality.hu_shift_per_tissue(self.ndct, output, self.labels):
            one.shifts.setdefault(shift.tissue, []).append((shift.voxels, shift.shift_hu))
        structure = image_quality.residual_structure(ldct, output, self.spacing_mm, self.ndct)
        if structure is not None:
            one.structure.append(structure)


# ------------------------------------------------------------------------------------------------- lesions of phantoms


def _lesion_cnr(methods: Sequence[Method], seed: int, settings: Settings) -> Iterator[tuple[str, list[float]]]:
    """Each method and the CNR of the lesions of one phantom, in the slice through each one's middle."""
    from ASCONDenoiseLib.physics import dose, phantoms
    from ASCONDenoiseLib.physics.settings import DoseSettings

    side = settings.phantom_side
    phantom = phantoms.abdomen(seed, (16, side, side), (360 / side, 360 / side, 3.0), lesions=3)
    masks = [
        (s, lesion, around)
        for s, lesion, around in map(lambda it: _lesion_masks(phantom, it), phantom.lesions)
        if lesion.sum() > 1 and around.sum() > 1
    ]
    if not masks:
        return
    slices = sorted({s for s, _, _ in masks})
    truth = phantom.voxels_hu[slices]
    scan = DoseSettings(settings.phantom_dose, kernel="standard", photons=PHANTOM_PHOTONS, seed=seed)
    ndct = np.rint(dose.scan(truth, phantom.spacing_mm, scan)).astype(np.int16)
    ldct = dose.simulate(ndct, phantom.spacing_mm, scan).voxels
    for method, output, _, _ in _outputs(methods, ndct, ldct, phantom.spacing_mm):
        yield method.name, [metrics.cnr(output[slices.index(s)], lesion, around) for s, lesion, around in masks]


def _lesion_masks(phantom: Phantom, lesion: Any) -> tuple[int, np.ndarray, np.ndarray]:
    """Slice through the middle, the lesion's inner half, and liver up to twice its radius around it."""
    column, row, s = lesion.centre_ijk
    s = int(round(s))
    y, x = np.indices(phantom.voxels_hu.shape[1:])
    distance = np.hypot((y - row) * phantom.spacing_mm[1], (x - column) * phantom.spacing_mm[0])
    radius, labels = lesion.diameter_mm / 2, phantom.labels[s]
    liver = next(label for label, name in phantom.label_names.items() if name == "liver")
    around = (labels == liver) & (distance > 1.3 * radius) & (distance < 2.5 * radius)
    return s, (labels == lesion.label) & (distance < 0.7 * radius), around


# --------------------------------------------------------------------------------------------------------- the tests


def paired_tests(methods: Sequence[Measured], first: str) -> tuple[PairedTest, ...]:
    """The method `first` against each other but the LDCT, on patient means of PSNR, with Holm's correction."""
    means = {method.name: method.patient_means("psnr_db") for method in methods if method.kind != "none"}
    mine = means.pop(first)
    differences = {name: np.array([mine[p] - theirs[p] for p in mine]) for name, theirs in means.items()}
    p_values = {name: signed_rank_p(values) for name, values in differences.items()}
    corrected = holm(p_values)
    count = len(mine)
    return tuple(
        PairedTest(
            name,
            count,
            int((values > 0).sum()),
            float(values.mean()),
            p_values[name],
            corrected[name],
            2.0 ** (1 - count) if count > 1 else math.nan,
        )
        for name, values in differences.items()
    )


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; nan for fewer than two differences that are not 0."""
    from scipy.stats import wilcoxon

    if np.count_nonzero(differences) < 2:
        return math.nan
    return float(wilcoxon(differences).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's correction (Scand J Stat 6:65, 1979): the k-th smallest of n times n - k + 1, never falling; nan stays."""
    known = sorted((name for name, p in p_values.items() if not math.isnan(p)), key=p_values.__getitem__)
    corrected, largest = {name: math.nan for name in p_values}, 0.0
    for k, name in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - k) * p_values[name]))
        corrected[name] = largest
    return corrected


# ------------------------------------------------------------------------------------------------------- the tables


def text(found: Found) -> str:
    """The table for a terminal, the tests under it, and what to know about both."""
    slices = len(found.methods[0].rows)
    title = (
        f"{found.set}, {_count(found.patients, f'{found.settings.split} patient')}, {_count(slices, 'slice')}, mean ± "
        f"sd over slices; {metrics.PAPER.describe()}, both clipped to it"
    )
    rows = [HEADER, *(_cells(method) for method in found.methods)]
    lines = [title, _aligned(rows)]
    lines += [f"{name}: not run: {reason}" for name, reason in found.not_run.items()]
    tissues = list(dict.fromkeys(tissue for method in found.methods for tissue in method.shifts))
    if tissues:
        shifts = [("mean HU shift against the NDCT", *tissues)]
        for method in found.methods:
            of_one = method.shift_hu()
            shifts.append((method.name, *(f"{of_one[t]:+.2f}" if t in of_one else "-" for t in tissues)))
        lines += ["", _aligned(shifts)]
    lines += ["", *_test_lines(found)]
    tuned = [
        f"{method.name}: {', '.join(dict.fromkeys(method.settings))}" for method in found.methods if method.settings
    ]
    if tuned:
        lines += ["", "Filters, at the best setting for each volume, found on that volume:", *tuned]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in found.warnings)])


HEADER = ("", "PSNR [dB]", "SSIM x100", "RMSE x100", "RMSE [HU]", "noise less", "residual", "CNR", "s/slice")
"""Noise less: in % of its SD. Residual: correlation of what was removed with the NDCT's gradient. CNR: in phantoms."""


def _cells(method: Measured) -> tuple[str, ...]:
    def pair(metric: str, factor: float, digits: int) -> str:
        mean, sd = method.mean_sd(metric)
        return f"{factor * mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {factor * sd:.{digits}f}")

    def one(value: float, form: str) -> str:
        return "-" if math.isnan(value) else format(value, form)

    noise_less = method.noise_reduction_percent()
    return (
        method.name,
        pair("psnr_db", 1, 2),
        pair("ssim", 100, 2),
        pair("rmse", 100, 3),
        pair("rmse_hu", 1, 2),
        "-" if math.isnan(noise_less) else f"{noise_less:.0f} %",
        one(_mean(method.structure), ".3f"),
        one(_mean(method.cnr), ".2f"),
        f"{method.seconds / len(method.rows):.2f}" if method.kind != "none" else "-",
    )


def _test_lines(found: Found) -> list[str]:
    if not found.tests:
        return []
    first = next(method.name for method in found.methods if method.kind == "model")
    count, smallest = found.patients, found.tests[0].smallest_p
    lines = [
        f"{first} against the others: PSNR, means of {_count(count, 'patient')}, Wilcoxon's signed-rank test, "
        "two-sided, p with Holm's correction",
        _aligned(
            [
                ("", "difference [dB]", "better on", "p", "p (Holm)"),
                *(
                    (t.other, f"{t.difference_db:+.2f}", f"{t.better} of {count}", _p(t.p), _p(t.p_holm))
                    for t in found.tests
                ),
            ]
        ),
    ]
    if math.isnan(smallest) or smallest > 0.05:
        said = "one patient gives no p" if math.isnan(smallest) else f"{count} patients give no p below {smallest:g}"
        lines.append(f"Too few patients for a test: {said}. Slices of one patient are not independent, and not tested.")
    return lines


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def write(found: Found, folder: Path) -> list[Path]:
    """The comparison as text, as CSV (a row for each method, a row for each slice) and as JSON; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    tissues = list(dict.fromkeys(tissue for method in found.methods for tissue in method.shifts))
    rows = []
    for method in found.methods:
        of_one = method.to_dict()
        row = {key: of_one[key] for key in ("name", "kind", "note")}
        for metric in metrics.METRICS:
            row[f"{metric}_mean"], row[f"{metric}_sd"] = of_one[metric]
        names = ("noise_reduction_percent", "residual_structure", "cnr", "seconds_per_slice")
        row |= {key: of_one[key] for key in names}
        rows.append(row | {f"hu_shift_{tissue}": of_one["hu_shift"].get(tissue) for tissue in tissues})
    slices = [{"method": method.name} | asdict(row) for method in found.methods for row in method.rows]
    contents = {
        TEXT: text(found) + "\n",
        TABLE: _csv(rows),
        SLICES: _csv(slices),
        ALL: json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n",
    }
    paths = []
    for name, content in contents.items():
        paths.append(folder / name)
        paths[-1].write_text(content, encoding="utf-8")
    return paths


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _plain(value: Any) -> Any:
    """None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
