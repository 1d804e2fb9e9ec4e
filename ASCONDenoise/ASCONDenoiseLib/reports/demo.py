"""The demonstration: real CT slices and phantoms, or one's own scan, at a fraction of the dose, denoised and measured.

Nothing is downloaded: the two real slices come with pydicom, the phantoms are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, TISSUES_HU
from ASCONDenoiseLib.imaging.image_quality import Quality, quality
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.results import (
    VolumeFile,
    check_results_folder,
    describe,
    made_by,
    results_folder,
    write_results,
)
from ASCONDenoiseLib.io.volume import Geometry, Volume, like
from ASCONDenoiseLib.messages import scope_lines
from ASCONDenoiseLib.models.record import denoising_record
from ASCONDenoiseLib.physics.settings import DoseSettings, phantom_settings
from ASCONDenoiseLib.reports.page import Case, Panel, Table, metrics_tables, page, quality_tables, side_by_side_png

if TYPE_CHECKING:
    from ASCONDenoiseLib.models.card import ModelCard
    from ASCONDenoiseLib.models.inference import Result

PHANTOM_SHAPE = (5, 512, 512)
PHANTOM_SPACING_MM = (0.68, 0.68, 3.0)
PHANTOM_SEEDS = {"abdomen": 1_000_000, "chest": 1_000_005}
"""Patients that no training has seen: its seeds are small numbers."""

MAX_SLICES = 8
"""Of one's own scan: more would take a CPU many minutes."""

SSIM_WINDOW_PX = 11
MIN_TISSUE_VOXELS = 1000
"""Of a tissue whose shift the summary may quote: a few voxels between two others say nothing."""

DETAIL_FROM_PX = 256
"""Smaller slices are shown large enough without a detail."""

COMMAND, REPORT = "demo", "report.html"


@dataclass(frozen=True)
class Scan:
    """A scan at normal dose."""

    name: str
    """Of its folder and pictures."""
    title: str
    text: str
    ndct: Volume
    windows: tuple[str, ...] = ("abdomen",)
    """Display windows of its pictures, names in DISPLAY_WINDOWS_HU."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Known facts of the scan, as arguments of DoseSettings; what is missing is measured."""
    truth_hu: np.ndarray | None = None
    """A phantom without noise, (S, H, W)."""


@dataclass(frozen=True)
class Outcome:
    """A scan of the demonstration: what was made of it and measured."""

    scan: Scan
    ldct: Volume
    denoised: Volume
    simulation: dict[str, Any]
    record: dict[str, Any]
    comparisons: tuple[metrics.Comparison, ...]
    truth: tuple[metrics.Comparison, ...]
    """LDCT, denoised and NDCT against the phantom without noise; empty where there is none."""
    quality: Quality
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Demonstration:
    """What `run` leaves behind."""

    folder: Path
    report: Path
    summary: Table
    results: dict[str, Any]


def run(
    folder: str | Path,
    network: Any,
    card: ModelCard,
    scans: list[Scan],
    *,
    dose: float = 0.25,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Demonstration:
    """Simulate each scan at `dose`, denoise, measure, and write volumes, pictures, `report.html` and `results.json`.

    `network` and `card` are those of `models.load_network`. `progress` is called with (slices done, slices in all);
    simulating and denoising count apart. The folder appears complete or not at all; that of an earlier demonstration
    is replaced.

    Raises:
        InputError: see `output.check_results_folder`.
        InputError: dose, settings or geometry cannot be simulated.
    """
    folder = check_results_folder(folder, COMMAND)
    total = 2 * sum(len(scan.ndct.voxels) for scan in scans)
    done = 0

    def step(_: int, __: int) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    outcomes = [_outcome(scan, network, card, dose, device, step) for scan in scans]
    with results_folder(folder, COMMAND) as staging:
        demonstration = _write(staging, outcomes, card, dose)
    return replace(demonstration, folder=folder, report=folder / REPORT)


def check_dose(dose: float) -> None:
    """Raises InputError unless `dose` is a fraction that can be simulated."""

    DoseSettings(dose=dose)


# ------------------------------------------------------------------------------------------------------------ the scans


def default_scans() -> list[Scan]:
    """Two real slices that come with pydicom, an abdomen and a chest phantom."""
    head, spine = (_bundled(name) for name in ("J2K_pixelrep_mismatch.dcm", "CT_small.dcm"))
    return [
        Scan(
            "head",
            "Head, a real slice",
            "One 5 mm slice through the posterior fossa, 512 x 512, of the sample files that come with pydicom.",
            head,
            windows=("abdomen", "brain"),
        ),
        Scan(
            "spine",
            "Thoracic spine, a real cut-out",
            "One 5 mm slice, 128 x 128, of the sample files that come with pydicom. It is a cut-out of a larger image, "
            "so the simulated rays miss what lies around it.",
            spine,
        ),
        _phantom("abdomen", ("abdomen",)),
        _phantom("chest", ("abdomen", "lung")),
    ]


def own_scan(path: str | Path, series_uid: str | None = None) -> Scan:
    """The user's scan, its middle MAX_SLICES slices. Raises InputError as `volume.read_volume`."""
    volume = read_volume(path, series_uid)
    total, *sides = volume.voxels.shape
    if min(sides) < SSIM_WINDOW_PX:
        raise InputError(
            f"{path} has slices of {sides[0]} x {sides[1]} pixels: to be measured they need "
            f"{SSIM_WINDOW_PX} x {SSIM_WINDOW_PX} or more."
        )
    first = max(0, (total - MAX_SLICES) // 2)
    kept = slice(first, first + MAX_SLICES)
    text = f"All {total} slices." if total <= MAX_SLICES else f"Slices {first + 1} to {kept.stop} of {total}."
    return Scan("scan", Path(path).resolve().name, text, _cut(volume, kept), windows=("abdomen", "lung"))


def _cut(volume: Volume, kept: slice) -> Volume:
    """Some slices of a volume, where they lie."""
    geometry = volume.geometry
    normal = np.reshape(geometry.direction, (3, 3))[:, 2]
    origin = np.asarray(geometry.origin_mm) + kept.start * geometry.spacing_mm[2] * normal
    moved = replace(geometry, origin_mm=tuple(map(float, origin)))
    return replace(volume, voxels=volume.voxels[kept], geometry=moved, source=None)


def _bundled(name: str) -> Volume:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(name, download=False)
    if path is None:
        raise InputError(f"pydicom's sample file {name} is missing: reinstall pydicom, or use your own scan (--input).")
    return read_volume(path)


def _phantom(kind: str, windows: tuple[str, ...]) -> Scan:
    """A phantom, scanned at normal dose."""
    from ASCONDenoiseLib.physics.dose import scan
    from ASCONDenoiseLib.physics.phantoms import ANATOMY

    phantom = ANATOMY[kind](PHANTOM_SEEDS[kind], PHANTOM_SHAPE, PHANTOM_SPACING_MM)
    truth_hu = np.rint(phantom.voxels_hu).astype(np.int16)
    settings = phantom_settings(kind)
    ndct_hu = scan(truth_hu, PHANTOM_SPACING_MM, settings)
    return Scan(
        f"{kind}-phantom",
        f"{kind.capitalize()}, a phantom",
        "Computed anatomy, scanned by the same simulation at normal dose. What the images should show is known here: "
        "the phantom without noise.",
        Volume(ndct_hu, Geometry(PHANTOM_SPACING_MM)),
        windows,
        {"photons": settings.photons, "kernel": settings.kernel},
        truth_hu,
    )


# ------------------------------------------------------------------------------------------------------------- the work


def _outcome(scan: Scan, network: Any, card: ModelCard, dose: float, device: str, step: Callable) -> Outcome:
    from ASCONDenoiseLib.models.inference import denoise

    ndct = scan.ndct
    spacing_mm = ndct.geometry.spacing_mm
    ldct_hu, simulation, notes = _low_dose(scan, dose, step)
    result: Result = denoise(ldct_hu, network, device=device, padding_hu=ndct.padding_hu, progress=step)
    scales = (metrics.PAPER, *(metrics.Scale(name, DISPLAY_WINDOWS_HU[name]) for name in scan.windows))
    images = {"LDCT": ldct_hu, "denoised": result.voxels}
    compared = [metrics.compare(ndct.voxels, hu, scale, name=name) for scale in scales for name, hu in images.items()]
    truth = []
    if scan.truth_hu is not None:
        images["NDCT"] = ndct.voxels
        truth = [metrics.compare(scan.truth_hu, hu, metrics.ABDOMEN, name=name) for name, hu in images.items()]
    return Outcome(
        scan,
        like(ndct, ldct_hu),
        like(ndct, result.voxels),
        simulation,
        denoising_record(card, result, ndct, "ldct.nrrd"),
        tuple(compared),
        tuple(truth),
        quality(ldct_hu, result.voxels, spacing_mm, ndct.voxels),
        notes,
    )


def _low_dose(scan: Scan, dose: float, step: Callable) -> tuple[np.ndarray, dict[str, Any], tuple[str, ...]]:
    """The scan at a fraction of its dose, the facts of the simulation, and notes for the reader."""
    from ASCONDenoiseLib.physics.dose import simulate_any_scan

    settings = DoseSettings(dose=dose, seed=1, **scan.settings)
    volume = scan.ndct
    counted = _once_per_slice(step)
    simulation = simulate_any_scan(
        volume.voxels, volume.geometry.spacing_mm, settings, padding_hu=volume.padding_hu, progress=counted
    )
    facts = {
        "dose": dose,
        "geometry": settings.geometry,
        "photons": [round(float(photons)) for photons in simulation.photons],
        "kernel": asdict(simulation.kernel),
    }
    return simulation.voxels, facts, simulation.notes


def _once_per_slice(step: Callable) -> Callable[[int, int], None]:
    """`dose.simulate` reports per batch of slices; the demonstration counts slices."""
    reported = 0

    def progress(done: int, total: int) -> None:
        nonlocal reported
        for _ in range(done - reported):
            step(done, total)
        reported = done

    return progress


# ------------------------------------------------------------------------------------------------------------ the files


def _write(folder: Path, outcomes: list[Outcome], card: ModelCard, dose: float) -> Demonstration:
    cases = []
    for outcome in outcomes:
        own = folder / outcome.scan.name
        own.mkdir()
        for name, volume, record in (
            ("ndct", outcome.scan.ndct, made_by("demo", outcome.scan.ndct, outcome.scan.title)),
            ("ldct", outcome.ldct, made_by("simulate", outcome.scan.ndct, "ndct.nrrd") | outcome.simulation),
            ("denoised", outcome.denoised, outcome.record),
        ):
            VolumeFile(own / f"{name}.nrrd").write(volume, record)
        cases.append(_case(outcome, _pictures(outcome, own, dose)))
    summary = _summary(outcomes, dose)
    seen = scope_lines(card.scope)
    facts = {
        "Model": f"{card.name}, version {card.version}",
        "SHA-256 of the weights": card.sha256,
        "Trained on": "; ".join(card.training_data),
        "Training dose": card.dose,
        "Limits": "; ".join(card.limits),
        **({"Seen in training": "; ".join(seen)} if seen else {}),
        "ASCON": __version__,
    }
    percent = f"{100 * dose:g} %"
    text = (
        f"Each scan (NDCT) was turned into one at {percent} of its dose (LDCT) by adding the noise that such a scan "
        f"would have, then denoised with strength 1. An NDCT is noisy itself: of the noise that separates the two, "
        f"even a perfect denoiser can gain at most {10 * math.log10(1 / dose):.1f} dB in PSNR against it."
    )
    report = page(folder / REPORT, f"ASCON at {percent} of the dose", cases, tables=[summary], facts=facts, text=text)
    results = {"dose": dose, "model": asdict(card), "scans": [_results(outcome) for outcome in outcomes]}
    results = write_results(folder, COMMAND, results)
    return Demonstration(folder, report, summary, results)


def _pictures(outcome: Outcome, folder: Path, dose: float) -> list[tuple[Path, str]]:
    """NDCT, LDCT, denoised and what was taken away, of the middle slice: whole and in detail, in each window."""
    scan = outcome.scan
    k = len(scan.ndct.voxels) // 2
    ndct, ldct, denoised = (np.asarray(v.voxels[k], np.float32) for v in (scan.ndct, outcome.ldct, outcome.denoised))
    title = scan.title if len(scan.ndct.voxels) == 1 else f"{scan.title}, slice {k + 1} of {len(scan.ndct.voxels)}"
    pictures = []
    for window in scan.windows:
        low, high = DISPLAY_WINDOWS_HU[window]
        parts = {"": (slice(None), slice(None))}
        if min(ndct.shape) >= DETAIL_FROM_PX:
            parts["-detail"] = _detail(ndct, window)
        for suffix, part in parts.items():
            before, after = ("", "") if suffix else (_caption(outcome, n, window, k) for n in ("LDCT", "denoised"))
            panels = [
                Panel("NDCT", ndct[part], "normal dose"),
                Panel("LDCT", ldct[part], f"{100 * dose:g} % of the dose{before}"),
                Panel("Denoised", denoised[part], f"strength 1{after}"),
                Panel("LDCT - denoised", (ldct - denoised)[part], "what was taken away", difference=True),
            ]
            path = side_by_side_png(
                panels,
                folder / f"{scan.name}-{window}{suffix}.png",
                window_hu=(low, high),
                difference_hu=min(100.0, (high - low) / 4),
                spacing_mm=scan.ndct.geometry.spacing_mm,
                footer=title,
            )
            which = f"{title}{', detail' if suffix else ''}, {window} window [{low:g}, {high:g}] HU"
            pictures.append((path, f"{which}: NDCT, LDCT, denoised, LDCT less denoised."))
    return pictures


def _detail(image_hu: np.ndarray, window: str) -> tuple[slice, slice]:
    """A third of the slice in each direction, where there is most lung (lung window) or soft tissue and contrast."""
    from scipy.ndimage import uniform_filter

    low, high = TISSUES_HU["lung"] if window == "lung" else (TISSUES_HU["soft tissue"][0], TISSUES_HU["contrast"][1])
    side = min(image_hu.shape) // 3
    smooth = uniform_filter(image_hu, 7)
    share = uniform_filter(((smooth >= low) & (smooth <= high)).astype(np.float32), side)
    middle = np.unravel_index(share.argmax(), share.shape)
    corner = [min(max(int(m) - side // 2, 0), n - side) for m, n in zip(middle, image_hu.shape, strict=True)]
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def _caption(outcome: Outcome, name: str, window: str, k: int) -> str:
    """PSNR and RMSE of one slice in the window shown, to follow other words."""
    row = next(c for c in outcome.comparisons if c.name == name and c.scale.name == window).rows[k]
    return f", PSNR {row.psnr_db:.1f} dB, RMSE {row.rmse_hu:.1f} HU"


def _case(outcome: Outcome, pictures: list[tuple[Path, str]]) -> Case:
    scan = outcome.scan
    tables = metrics_tables(outcome.comparisons)
    if outcome.truth:
        (_, rows), *_ = metrics.text_tables(outcome.truth).items()
        note = "The NDCT's own noise does not count here: an output may come closer to the phantom than the NDCT."
        tables.append(Table("Against the phantom without noise", rows, f"{outcome.truth[0].describe()}. {note}"))
    photons = outcome.simulation["photons"]
    kernel = outcome.simulation["kernel"]
    facts = {
        "Denoised with": describe(outcome.record),
        "Simulated from": f"{min(photons):,} to {max(photons):,} photons per ray in air at normal dose"
        if len(set(photons)) > 1
        else f"{photons[0]:,} photons per ray in air at normal dose",
        "Kernel": f"cut-off {kernel['cutoff_per_mm']:.2f} per mm, order {kernel['order']:.1f}",
        "Volumes": f"{scan.name}/ndct.nrrd, ldct.nrrd, denoised.nrrd",
    }
    return Case(
        scan.title, pictures, [*tables, *quality_tables(outcome.quality)], facts, " ".join((scan.text, *outcome.notes))
    )


def _summary(outcomes: list[Outcome], dose: float) -> Table:
    header = ("", "slices", "PSNR [dB]", "SSIM x100", "RMSE [HU]", "noise [HU]", "NDCT's noise", "largest shift [HU]")
    rows = [header]
    for outcome in outcomes:
        before, after = (c for c in outcome.comparisons if c.scale == metrics.PAPER)
        q = outcome.quality
        cells = [
            f"{before.mean_sd(metric)[0] * factor:.{digits}f} -> {after.mean_sd(metric)[0] * factor:.{digits}f}"
            for metric, factor, digits in (("psnr_db", 1, 1), ("ssim", 100, 1), ("rmse_hu", 1, 1))
        ]
        noise = [f"{n.sd_hu:.1f}" if n else "-" for n in (q.noise_before, q.noise_after, q.noise_reference)]
        sizeable = [tissue for tissue in q.hu_shift if tissue.voxels >= MIN_TISSUE_VOXELS]
        worst = max(sizeable, key=lambda tissue: abs(tissue.shift_hu), default=None)
        rows.append(
            (
                outcome.scan.title,
                str(len(outcome.scan.ndct.voxels)),
                *cells,
                f"{noise[0]} -> {noise[1]}",
                noise[2],
                "-" if worst is None else f"{worst.shift_hu:+.1f} ({worst.tissue})",
            )
        )
    note = (
        f"LDCT -> denoised against the NDCT, mean over slices; {metrics.PAPER.describe()}. Noise: standard "
        "deviation in flat soft tissue. Shift: mean of denoised less NDCT, of the tissue where it is largest "
        f"(tissues of {MIN_TISSUE_VOXELS} voxels or more)."
    )
    return Table(f"At {100 * dose:g} % of the dose", rows, note)


def _results(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.scan.name,
        "title": outcome.scan.title,
        "simulation": outcome.simulation,
        "denoising": outcome.record,
        "against_ndct": [c.to_dict() for c in outcome.comparisons],
        "against_truth": [c.to_dict() for c in outcome.truth],
        "quality": outcome.quality.to_dict(),
        "notes": list(outcome.notes),
    }
