"""Models and classical filters measured on patients that none of them has seen: what `ascon compare` shows.

Everybody gets the same slices of a prepared set. Numbers are those of the product's output, in the units of the paper's
tables, both images clipped to the training window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import image_quality, metrics
from ASCONDenoiseLib.imaging.noise import Spacing, flat_soft_tissue_windows, noise_hu
from ASCONDenoiseLib.models.card import ModelCard
from ASCONTrainingLib.data.training_set import EvaluationSet
from ASCONTrainingLib.evaluation import filters
from ASCONTrainingLib.evaluation.statistics import PairedTest, paired_tests
from ASCONTrainingLib.evaluation.volumes import Denoise, VolumePair, check_unseen, denoiser, volume_pairs

if TYPE_CHECKING:
    from torch import nn

    from ASCONDenoiseLib.physics.phantom_volume import Lesion, Phantom

LDCT, NDCT = "LDCT", "NDCT"
TUNING_SLICES = 3
"""Slices of each volume on which a filter's setting is chosen."""
UNKNOWN_NOISE_HU = 40.0
"""Taken for the filters' settings where a volume has no flat soft tissue to measure its noise in."""
PHANTOM_SEED = 10_000
"""First seed of the phantoms with lesions; sets take theirs from 0 on."""
LESION_PHOTONS = 6e5
"""Per ray at normal dose, in the phantoms with lesions: some 16 HU of noise in the liver."""


@dataclass(frozen=True)
class ComparisonSettings:
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
    """What is compared.

    Attributes:
        name: of its row.
        kind: "model", "filter" or "none" (the LDCT itself).
        run: from LDCT (S, H, W) to its output; None for a filter, which is tuned on each volume first.
        note: the name on a model's card.
    """

    name: str
    kind: str
    run: Denoise | None = None
    note: str = ""


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
        rows: the slices.
        noise: for each volume with flat soft tissue, SD in HU in the LDCT and in the output, in the same places.
        shifts: tissue -> for each volume its voxels and the mean of output - NDCT in HU.
        structure: for each volume, correlation of what was removed with the NDCT's gradient.
        cnr: of each lesion of the phantoms.
        seconds: of all slices, without tuning.
        settings: of a filter, one for each volume.
    """

    name: str
    kind: str
    note: str = ""
    rows: list[SliceRow] = field(default_factory=list)
    noise: list[tuple[float, float]] = field(default_factory=list)
    shifts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    structure: list[float] = field(default_factory=list)
    cnr: list[float] = field(default_factory=list)
    seconds: float = 0.0
    settings: list[str] = field(default_factory=list)

    def mean_sd(self, metric: str) -> tuple[float, float]:
        """Over slices, as metrics.Comparison has it."""
        return metrics.Comparison(self.name, metrics.PAPER, True, tuple(self.rows)).mean_sd(metric)

    def noise_reduction_percent(self) -> float:
        """Mean over volumes; nan where none has flat soft tissue."""
        return mean_or_nan([100 * (1 - after / before) for before, after in self.noise])

    def shift_hu(self) -> dict[str, float]:
        """Tissue -> mean of output - NDCT over all its voxels."""
        return {
            tissue: sum(n * shift for n, shift in parts) / sum(n for n, _ in parts)
            for tissue, parts in self.shifts.items()
        }

    def patient_means(self, metric: str) -> dict[str, float]:
        """Patient -> mean over its slices."""
        rows: dict[str, list[SliceRow]] = {}
        for row in self.rows:
            rows.setdefault(row.patient, []).append(row)
        return {patient: replace(self, rows=of_one).mean_sd(metric)[0] for patient, of_one in rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no nan: null."""
        return {
            "name": self.name,
            "kind": self.kind,
            "note": self.note,
            **{metric: [_finite(value) for value in self.mean_sd(metric)] for metric in metrics.METRICS},
            "noise_reduction_percent": _finite(self.noise_reduction_percent()),
            "hu_shift": self.shift_hu(),
            "residual_structure": _finite(mean_or_nan(self.structure)),
            "cnr": _finite(mean_or_nan(self.cnr)),
            "seconds_per_slice": self.seconds / len(self.rows),
            "settings": self.settings,
            "slices": [_all_finite(row.to_dict()) for row in self.rows],
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
        warnings: about scans that a model may have seen.
    """

    set: str
    settings: ComparisonSettings
    patients: int
    methods: tuple[MethodResult, ...]
    not_run: Mapping[str, str]
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
            "tests": [_all_finite(asdict(test)) for test in self.tests],
            "warnings": list(self.warnings),
        }


def compare(
    data: Path,
    networks: Mapping[str, tuple[nn.Module, ModelCard]],
    settings: ComparisonSettings = ComparisonSettings(),
    *,
    device: str = "auto",
    not_run: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda text: None,
    see: Callable[[str, dict[str, np.ndarray], Spacing], None] = lambda volume, images, spacing_mm: None,
) -> ComparisonResult:
    """Measure networks, and classical filters, on one split of a prepared set.

    Args:
        data: the set.
        networks: name -> network and card; the first is tested against each of the others. No `reserved_names`.
        settings: what is compared on.
        device: as in inference.denoise.
        not_run: rows that stay empty -> why.
        say: called with a sentence now and then.
        see: called for each volume with its name, the middle slice (H, W) of the NDCT and of each output, its spacing.

    Raises:
        InputError: a model was trained on a scan or has the name of another row, or the set cannot be used.
    """
    if not networks:
        raise InputError("There is no model to compare: name one or more.")
    if mixed := sorted(reserved_names() & networks.keys()):
        raise InputError(f"Models are named like other rows of the table ({', '.join(mixed)}): rename them.")
    slices = EvaluationSet(data, settings.split, every=settings.every)
    warnings = check_unseen({name: card for name, (_, card) in networks.items()}, slices, settings.allow_seen)
    for warning in warnings:
        say(warning)
    methods = [Method(LDCT, "none", lambda ldct: ldct)]
    methods += [
        Method(name, "model", denoiser(network, device), card.name) for name, (network, card) in networks.items()
    ]
    if settings.classical:
        methods += [Method(name, "filter") for name in filters.candidates(UNKNOWN_NOISE_HU)]
    results = {method.name: MethodResult(method.name, method.kind, method.note) for method in methods}
    for volume in volume_pairs(slices):
        say(f"{volume.name}: {len(volume.indices)} slices")
        see(volume.name, _measure_volume(volume, methods, results), volume.spacing_mm)
    for seed in range(PHANTOM_SEED, PHANTOM_SEED + settings.phantoms):
        say(f"phantom with lesions, seed {seed}")
        for name, values in _lesion_cnr(methods, seed, settings):
            results[name].cnr += values
    means = {result.name: result.patient_means("psnr_db") for result in results.values()}
    patients = len(means.pop(LDCT))
    tests = paired_tests(means.pop(next(iter(networks))), means)
    rows = tuple(results.values())
    return ComparisonResult(Path(data).name, settings, patients, rows, dict(not_run or {}), tests, tuple(warnings))


def reserved_names() -> set[str]:
    """Names that no model may have in a comparison: those of the images, and of the classical filters."""
    return {LDCT, NDCT, *filters.candidates(UNKNOWN_NOISE_HU)}


def _measure_volume(
    volume: VolumePair, methods: Sequence[Method], results: Mapping[str, MethodResult]
) -> dict[str, np.ndarray]:
    """Add what is measured on one volume to the results; the middle slice of the NDCT and of each output."""
    ndct, ldct, spacing_mm = volume.ndct_hu, volume.ldct_hu, volume.spacing_mm
    windows = flat_soft_tissue_windows(ndct, spacing_mm)
    labels = image_quality.tissue_labels(ndct, spacing_mm)
    before = noise_hu(ldct, spacing_mm, centres=windows)
    middle = {NDCT: ndct[len(ndct) // 2]}
    for method, output, seconds, setting in _outputs(methods, ndct, ldct, spacing_mm):
        result = results[method.name]
        result.seconds += seconds
        result.settings += [setting] if setting else []
        for row in metrics.compare(ndct, output).rows:
            number = volume.indices[row.index]
            values = (row.psnr_db, row.ssim, row.rmse, row.rmse_hu)
            result.rows.append(SliceRow(number, *values, patient=volume.patient, volume=volume.name))
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


def _outputs(
    methods: Sequence[Method], ndct: np.ndarray, ldct: np.ndarray, spacing_mm: Spacing
) -> Iterator[tuple[Method, np.ndarray, float, str]]:
    """Each method's output (S, H, W), its seconds without tuning, and a filter's setting."""
    noise = noise_hu(ldct, spacing_mm)
    settings = filters.candidates(noise.sd_hu if noise else UNKNOWN_NOISE_HU)
    some = np.unique(np.linspace(0, len(ldct) - 1, TUNING_SLICES + 2).round().astype(int)[1:-1])
    for method in methods:
        run, setting = method.run, ""
        if run is None:
            setting = filters.tuned(settings[method.name], ndct, ldct, some)
            run = partial(filters.apply, run=settings[method.name][setting])
        started = time.perf_counter()
        output = run(ldct)
        yield method, output, time.perf_counter() - started, setting


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
    for method, output, _, _ in _outputs(methods, ndct, ldct, phantom.spacing_mm):
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
