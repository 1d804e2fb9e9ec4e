"""Models and classical filters measured on patients that none of them has seen: what `ascon compare` shows.

Everybody gets the same slices of a prepared set. Numbers are those of the product's output, in the units of the paper's
tables, both images clipped to the training window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import image_quality, metrics
from ASCONDenoiseLib.imaging.noise import Spacing, flat_soft_tissue_windows, noise_hu
from ASCONTrainingLib.data.training_set import EvaluationSet
from ASCONTrainingLib.evaluation import filters
from ASCONTrainingLib.evaluation.edges import FAINT_EDGES_HU, fitted_edges, median_edge
from ASCONTrainingLib.evaluation.response import Response, find_probe, measure_response, noise_left
from ASCONTrainingLib.evaluation.statistics import PairedTest, paired_tests
from ASCONTrainingLib.evaluation.volumes import Candidate, Denoise, VolumePair, check_unseen, volume_pairs

if TYPE_CHECKING:
    from ASCONDenoiseLib.physics.phantom_volume import Lesion, Phantom

LDCT, NDCT = "LDCT", "NDCT"
TUNING_SLICES = 3
"""Slices of each volume on which a filter's setting is chosen."""
EDGES = 100
"""At most so many of each volume are fitted."""
UNKNOWN_NOISE_HU = 40.0
"""Taken for the filters' settings where a volume has no flat soft tissue to measure its noise in."""
PHANTOM_SEED = 10_000
"""First seed of the phantoms with lesions; sets take theirs from 0 on."""
LEAST_SIDE = 64
"""Pixels: of phantoms with fewer a lesion is no more than two wide."""
LESION_PHOTONS = 6e5
"""Per ray at normal dose, in the phantoms with lesions: some 16 HU of noise in the liver."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared on.

    Attributes:
        split: of the set, "test" or "validation".
        every: takes each n-th slice.
        classical: with the classical filters.
        bm3d: with BM3D among them, where its package is installed; it takes seconds a slice.
        phantoms: abdomens with lesions for the contrast-to-noise ratio; 0 for none.
        phantom_side: of their slices, in pixels of 360 mm / side.
        phantom_dose: fraction of the normal dose.
        allow_seen: also scans that a model was trained on.
    """

    split: str = "test"
    every: int = 1
    classical: bool = True
    bm3d: bool = True
    phantoms: int = 4
    phantom_side: int = 256
    phantom_dose: float = 0.25
    allow_seen: bool = False

    def __post_init__(self) -> None:
        if self.phantom_side < LEAST_SIDE:
            raise InputError(f"Phantoms have {LEAST_SIDE} pixels a side or more; got {self.phantom_side}.")


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: of its row.
        kind: "model", "filter" or "none" (the LDCT itself).
        run: from LDCT (S, H, W) to its output; None for a filter, which is tuned on each volume first.
        note: the name on a model's card.
        timed: as in Candidate.
    """

    name: str
    kind: str
    run: Denoise | None = None
    note: str = ""
    timed: bool = True


@dataclass(frozen=True)
class SliceRow(metrics.SliceMetrics):
    """One slice of one method, `index` its number in the volume."""

    patient: str
    volume: str

    def to_dict(self) -> dict[str, Any]:
        return {"patient": self.patient, "volume": self.volume} | asdict(self)


@dataclass
class MethodResult:
    """All that was measured of one method; lists grow volume by volume.

    Attributes:
        name, kind, note: as in Method.
        rows: the slices, in the units of the paper's tables.
        soft_rows: the same in the window of soft tissue, metrics.ABDOMEN.
        noise: for each volume with flat soft tissue, SD in HU in the LDCT and in the output, in the same places.
        shifts: tissue -> for each volume its voxels and the mean of output - NDCT in HU.
        responses: for each volume with flat tissue, what the LDCT is and what the method makes of noise and a lesion.
        edges: of all volumes, width in the NDCT and in the output [mm], contrast; those of FAINT_EDGES_HU.
        structure: for each volume, correlation of what was removed with the NDCT's gradient.
        cnr: of each lesion of the phantoms.
        seconds: of all slices, without tuning; nan where it was not timed.
        settings: of a filter, one for each volume.
    """

    name: str
    kind: str
    note: str = ""
    rows: list[SliceRow] = field(default_factory=list)
    soft_rows: list[SliceRow] = field(default_factory=list)
    noise: list[tuple[float, float]] = field(default_factory=list)
    shifts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    responses: list[tuple[Response, Response]] = field(default_factory=list)
    edges: list[tuple[float, float, float]] = field(default_factory=list)
    structure: list[float] = field(default_factory=list)
    cnr: list[float] = field(default_factory=list)
    seconds: float = 0.0
    settings: list[str] = field(default_factory=list)

    def mean_sd(self, metric: str, *, soft: bool = False) -> tuple[float, float]:
        """Over slices, as metrics.Comparison has it; `soft`: in the window of soft tissue."""
        scale, rows = (metrics.ABDOMEN, self.soft_rows) if soft else (metrics.PAPER, self.rows)
        if not rows:
            return math.nan, math.nan
        return metrics.Comparison(self.name, scale, True, tuple(rows)).mean_sd(metric)

    def noise_reduction_percent(self) -> float:
        """Mean over volumes; nan where none has flat soft tissue."""
        return mean_or_nan([100 * (1 - after / before) for before, after in self.noise])

    def shift_hu(self) -> dict[str, float]:
        """Tissue -> mean of output - NDCT over all its voxels."""
        return {
            tissue: sum(n * shift for n, shift in parts) / sum(n for n, _ in parts)
            for tissue, parts in self.shifts.items()
        }

    def detectability(self) -> float:
        """d' of the lesion of `response`, mean over volumes; nan where none has flat tissue."""
        return mean_or_nan([after.detectability for _, after in self.responses])

    def edge_ratio(self) -> float:
        """Width of faint edges in the output over that in the NDCT; nan where there are too few."""
        edge = median_edge(self.edges)
        return math.nan if edge is None else edge.ratio

    def patient_means(self, metric: str, *, soft: bool = False) -> dict[str, float]:
        """Patient -> mean over its slices."""
        rows: dict[str, list[SliceRow]] = {}
        for row in self.soft_rows if soft else self.rows:
            rows.setdefault(row.patient, []).append(row)
        scale = metrics.ABDOMEN if soft else metrics.PAPER
        return {
            patient: metrics.Comparison(self.name, scale, True, tuple(of_one)).mean_sd(metric)[0]
            for patient, of_one in rows.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: null."""
        return {
            "name": self.name,
            "kind": self.kind,
            "note": self.note,
            **{metric: [_finite(value) for value in self.mean_sd(metric)] for metric in metrics.METRICS},
            "soft_tissue": {
                metric: [_finite(value) for value in self.mean_sd(metric, soft=True)] for metric in metrics.METRICS
            },
            "coarse_noise_left_percent": _finite(noise_left(self.responses, "coarse_hu")),
            "fine_noise_left_percent": _finite(noise_left(self.responses, "fine_hu")),
            "detectability": _finite(self.detectability()),
            "faint_edge_ratio": _finite(self.edge_ratio()),
            "noise_reduction_percent": _finite(self.noise_reduction_percent()),
            "hu_shift": self.shift_hu(),
            "residual_structure": _finite(mean_or_nan(self.structure)),
            "cnr": _finite(mean_or_nan(self.cnr)),
            "seconds_per_slice": _finite(self.seconds / len(self.rows)),
            "settings": self.settings,
            "slices": [_all_finite(row.to_dict()) for row in self.rows],
            "soft_tissue_slices": [_all_finite(row.to_dict()) for row in self.soft_rows],
        }


@dataclass(frozen=True)
class ComparisonResult:
    """A whole comparison.

    Attributes:
        set: name of the prepared set's folder.
        settings: what was compared on.
        patients: number of patients.
        methods: one for each row, the LDCT first.
        not_run: rows that were asked for but could not be run -> why.
        tests: the first model against each other row but the LDCT.
        soft_tests: the same in the window of soft tissue.
        warnings: about scans that a model may have seen.
    """

    set: str
    settings: ComparisonSettings
    patients: int
    methods: tuple[MethodResult, ...]
    not_run: Mapping[str, str]
    tests: tuple[PairedTest, ...]
    soft_tests: tuple[PairedTest, ...]
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
            "soft_tissue_units": metrics.ABDOMEN.describe(),
            "tests": [_all_finite(asdict(test)) for test in self.tests],
            "soft_tissue_tests": [_all_finite(asdict(test)) for test in self.soft_tests],
            "warnings": list(self.warnings),
        }


def compare(
    data: Path,
    candidates: Mapping[str, Candidate],
    settings: ComparisonSettings = ComparisonSettings(),
    *,
    not_run: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    see: Callable[[str, dict[str, np.ndarray], Spacing], None] = lambda volume, images, spacing_mm: None,
) -> ComparisonResult:
    """Measure denoisers, and classical filters, on one split of a prepared set.

    Args:
        data: the set.
        candidates: name -> denoiser; the first is tested against each of the others. No `reserved_names`.
        settings: what is compared on.
        not_run: rows that stay empty -> why.
        say: called with a sentence now and then.
        see: called for each volume with its name, the middle slice (H, W) of the NDCT and of each output, its spacing.

    Raises:
        InputError: a model was trained on a scan or has the name of another row, or the set cannot be used.
    """
    if not candidates:
        raise InputError("There is no model to compare: name one or more.")
    if mixed := sorted(reserved_names() & candidates.keys()):
        raise InputError(f"Models are named like other rows of the table ({', '.join(mixed)}): rename them.")
    slices = EvaluationSet(data, settings.split, every=settings.every)
    warnings = check_unseen(candidates, slices, settings.allow_seen)
    for warning in warnings:
        say(warning)
    empty = dict(not_run or {})
    methods = [Method(LDCT, "none", lambda ldct, _: ldct)]
    methods += [Method(name, "model", c.run, c.note, c.timed) for name, c in candidates.items()]
    if settings.classical:
        names = [name for name in filters.candidates(UNKNOWN_NOISE_HU) if settings.bm3d or name != filters.BM3D]
        methods += [Method(name, "filter") for name in names]
        if filters.BM3D not in names:
            empty.setdefault(filters.BM3D, "package not installed" if settings.bm3d else "left out")
    results = {method.name: MethodResult(method.name, method.kind, method.note) for method in methods}
    for volume in volume_pairs(slices):
        say(f"{volume.name}: {len(volume.indices)} slices")
        see(volume.name, _measure_volume(volume, methods, results), volume.spacing_mm)
    for seed in range(PHANTOM_SEED, PHANTOM_SEED + settings.phantoms):
        say(f"phantom with lesions, seed {seed}")
        for name, values in _lesion_cnr(methods, seed, settings):
            results[name].cnr += values
    tests, soft_tests = (_tests(results, next(iter(candidates)), soft=soft) for soft in (False, True))
    patients, rows = len(results[LDCT].patient_means("psnr_db")), tuple(results.values())
    return ComparisonResult(Path(data).name, settings, patients, rows, empty, tests, soft_tests, tuple(warnings))


def reserved_names() -> set[str]:
    """Names that no model may have in a comparison: those of the images, and of the classical filters."""
    return {LDCT, NDCT, filters.BM3D, *filters.candidates(UNKNOWN_NOISE_HU)}


def _tests(results: Mapping[str, MethodResult], first: str, *, soft: bool) -> tuple[PairedTest, ...]:
    """PSNR of the first model against each other row but the LDCT's."""
    means = {name: r.patient_means("psnr_db", soft=soft) for name, r in results.items() if name != LDCT}
    return paired_tests(means.pop(first), means)


def _measure_volume(
    volume: VolumePair, methods: Sequence[Method], results: Mapping[str, MethodResult]
) -> dict[str, np.ndarray]:
    """Add what is measured on one volume to the results; the middle slice of the NDCT and of each output."""
    ndct, ldct, spacing_mm = volume.ndct_hu, volume.ldct_hu, volume.spacing_mm
    windows = flat_soft_tissue_windows(ndct, spacing_mm)
    labels = image_quality.tissue_labels(ndct, spacing_mm)
    before = noise_hu(ldct, spacing_mm, centres=windows)
    middle = {NDCT: ndct[len(ndct) // 2]}
    probe, ldct_response = find_probe(volume), None
    for method, run, output, seconds, setting in _outputs(methods, ndct, ldct, spacing_mm):
        result = results[method.name]
        result.seconds += seconds if method.timed else math.nan
        result.settings += [setting] if setting else []
        result.rows += _slice_rows(volume, output, metrics.PAPER)
        result.soft_rows += _slice_rows(volume, output, metrics.ABDOMEN)
        result.edges += fitted_edges(volume, output, FAINT_EDGES_HU, EDGES)
        if probe is not None:
            response = measure_response(run, volume, probe)
            ldct_response = response if ldct_response is None else ldct_response  # its row is the first
            result.responses.append((ldct_response, response))
        after = noise_hu(output, spacing_mm, centres=windows)
        if before is not None and after is not None:
            result.noise.append((before.sd_hu, after.sd_hu))
        for shift in image_quality.hu_shift_per_tissue(ndct, output, labels):
            result.shifts.setdefault(shift.tissue, []).append((shift.voxels, shift.shift_hu))
        structure = image_quality.residual_structure(ldct, output, spacing_mm, ndct)
        if structure is not None:
            result.structure.append(structure)
        middle[method.name] = output[len(ndct) // 2]
    return middle


def _slice_rows(volume: VolumePair, output: np.ndarray, scale: metrics.Scale) -> list[SliceRow]:
    return [
        SliceRow(**asdict(row) | {"index": volume.indices[row.index]}, patient=volume.patient, volume=volume.name)
        for row in metrics.compare(volume.ndct_hu, output, scale).rows
    ]


def _outputs(
    methods: Sequence[Method], ndct: np.ndarray, ldct: np.ndarray, spacing_mm: Spacing
) -> Iterator[tuple[Method, Denoise, np.ndarray, float, str]]:
    """Each method, the function that runs it, its output (S, H, W), seconds without tuning, a filter's setting."""
    noise = noise_hu(ldct, spacing_mm)
    settings = filters.candidates(noise.sd_hu if noise else UNKNOWN_NOISE_HU)
    some = np.unique(np.linspace(0, len(ldct) - 1, TUNING_SLICES + 2).round().astype(int)[1:-1])
    for method in methods:
        run, setting = method.run, ""
        if run is None:
            setting = filters.tuned(settings[method.name], ndct, ldct, some)
            run = _filtered(settings[method.name][setting])
        started = time.perf_counter()
        output = run(ldct, spacing_mm)
        yield method, run, output, time.perf_counter() - started, setting


def _filtered(chosen: filters.Filter) -> Denoise:
    return lambda ldct, _: filters.apply(ldct, chosen)


def _lesion_cnr(
    methods: Sequence[Method], seed: int, settings: ComparisonSettings
) -> Iterator[tuple[str, list[float]]]:
    """Each method and the CNR of the lesions of one phantom, in the slice through each one's middle."""
    from ASCONDenoiseLib.physics import dose, phantoms
    from ASCONDenoiseLib.physics.settings import DoseSettings

    side = settings.phantom_side
    phantom = phantoms.abdomen(seed, (16, side, side), (360 / side, 360 / side, 3.0), lesions=3)
    masks = [_lesion_masks(phantom, lesion) for lesion in phantom.lesions]
    masks = [(s, inside, around) for s, inside, around in masks if inside.sum() > 1 and around.sum() > 1]
    if not masks:
        return
    slices = sorted({s for s, _, _ in masks})
    scanner = DoseSettings(settings.phantom_dose, kernel="standard", photons=LESION_PHOTONS, seed=seed)
    ndct = np.rint(dose.scan(phantom.voxels_hu[slices], phantom.spacing_mm, scanner)).astype(np.int16)
    ldct = dose.simulate(ndct, phantom.spacing_mm, scanner).voxels
    for method, _, output, _, _ in _outputs(methods, ndct, ldct, phantom.spacing_mm):
        yield method.name, [metrics.cnr(output[slices.index(s)], inside, around) for s, inside, around in masks]


def _lesion_masks(phantom: Phantom, lesion: Lesion) -> tuple[int, np.ndarray, np.ndarray]:
    """Slice through the middle, the lesion's inner half, and liver up to twice its radius around it."""
    column, row, middle = lesion.centre_ijk
    s = round(middle)
    y, x = np.indices(phantom.voxels_hu.shape[1:])
    distance = np.hypot((y - row) * phantom.spacing_mm[1], (x - column) * phantom.spacing_mm[0])
    radius, labels = lesion.diameter_mm / 2, phantom.labels[s]
    liver = next(label for label, name in phantom.label_names.items() if name == "liver")
    around = (labels == liver) & (distance > 1.3 * radius) & (distance < 2.5 * radius)
    return s, (labels == lesion.label) & (distance < 0.7 * radius), around


def mean_or_nan(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _all_finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    """None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
