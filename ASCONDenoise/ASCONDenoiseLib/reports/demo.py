"""The demonstration: real CT slices and phantoms, or one's own scan, at a fraction of the dose, denoised and measured.

Nothing is downloaded: the two real slices come with pydicom, the phantoms are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.difference import DIFFERENCE_LIMIT_HU
from ASCONDenoiseLib.imaging.findings import Findings, find
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, TISSUES_HU
from ASCONDenoiseLib.imaging.number_tables import METRIC_COLUMNS, metric_tables, number
from ASCONDenoiseLib.io.atomic import check_space
from ASCONDenoiseLib.io.results import (
    VolumeFile,
    check_results_folder,
    describe,
    made_by,
    results_folder,
    write_results,
)
from ASCONDenoiseLib.io.volume import Volume, like
from ASCONDenoiseLib.messages import scope_lines
from ASCONDenoiseLib.models.record import denoising_record
from ASCONDenoiseLib.models.suitability import warnings_of
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONDenoiseLib.reports import quality_report
from ASCONDenoiseLib.reports.demo_scans import Scan
from ASCONDenoiseLib.reports.page import Case, page
from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png
from ASCONDenoiseLib.reports.text_table import Table, metrics_tables, quality_tables
from ASCONDenoiseLib.reports.viewer import Viewer

if TYPE_CHECKING:
    from ASCONDenoiseLib.models.card import ModelCard

MIN_TISSUE_VOXELS = 1000
"""Of a tissue whose shift the summary may quote: a few voxels between two others say nothing."""

DETAIL_FROM_PX = 256
"""Smaller slices are shown large enough without a detail."""

OUTSIDE = ", outside of what the model is for"
"""After the name of a scan that the model draws a warning for."""

COMMAND, REPORT = "demo", "report.html"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """A scan of the demonstration: what was made of it and measured.

    Attributes:
        scan: the scan at normal dose.
        ldct: the same at low dose.
        denoised: the result.
        simulation: how the LDCT was made.
        record: how it was denoised.
        comparisons: LDCT and denoised against the NDCT.
        truth: LDCT, denoised and NDCT against the phantom without noise; empty where there is none.
        findings: noise, HU shift, places that were no noise.
        notes: sentences for the reader.
    """

    scan: Scan
    ldct: Volume
    denoised: Volume
    simulation: dict[str, Any]
    record: dict[str, Any]
    comparisons: tuple[metrics.Comparison, ...]
    truth: tuple[metrics.Comparison, ...]
    findings: Findings
    notes: tuple[str, ...]

    @property
    def warnings(self) -> list[str]:
        """Why the scan does not suit the model, as every command says it; empty where it does."""
        warnings: list[str] = self.record["warnings"]
        return warnings


@dataclass(frozen=True)
class Demonstration:
    """What `run` leaves behind.

    Attributes:
        folder: of all files.
        report: the page.
        summary: the table over all scans.
        results: what RESULTS holds.
    """

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
    progress: Progress | None = None,
) -> Demonstration:
    """Simulate each scan at `dose`, denoise, measure, and write volumes, pictures, `report.html` and `results.json`.

    What the model is for comes first; what it is not for comes last, and with the warning.
    The folder appears complete or not at all; that of an earlier demonstration is replaced.

    Args:
        folder: where to.
        network: of `models.files.load_network`.
        card: of the same.
        scans: at normal dose.
        dose: fraction of the normal dose.
        device: where the network runs.
        progress: called with (slices done, slices in all); simulating and denoising count apart.

    Raises:
        InputError: the folder holds something else (`io.results.check_results_folder`), or dose, settings or geometry
            cannot be simulated.
        WriteError: the disk has no room for the volumes.
    """
    from ASCONDenoiseLib.physics.scanner import scanner_for

    folder = check_results_folder(folder, COMMAND)
    check_space(folder, sum(3 * scan.ndct.voxels.nbytes // 2 for scan in scans))
    for scan in scans:
        rows, columns = scan.ndct.voxels.shape[1:]
        scanner_for((rows, columns), scan.ndct.geometry.spacing_mm[:2], DoseSettings(dose=dose))  # or it is refused
    total = 2 * sum(len(scan.ndct.voxels) for scan in scans)
    done = 0

    def step(_: int, __: int) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    outcomes = [_outcome(scan, network, card, dose, device, step) for scan in scans]
    outcomes.sort(key=lambda outcome: bool(outcome.warnings))
    with results_folder(folder, COMMAND) as staging:
        demonstration = _write(staging, outcomes, card, dose)
    return replace(demonstration, folder=folder, report=folder / REPORT)


def check_dose(dose: float) -> None:
    """Raise InputError unless `dose` is a fraction that can be simulated."""

    DoseSettings(dose=dose)


# ------------------------------------------------------------------------------------------------------------- the work


def _outcome(scan: Scan, network: Any, card: ModelCard, dose: float, device: str, step: Progress) -> Outcome:
    from ASCONDenoiseLib.models.inference import denoise

    ndct = scan.ndct
    spacing_mm = ndct.geometry.spacing_mm
    ldct_hu, simulation, notes = _low_dose(scan, dose, step)
    result = denoise(ldct_hu, network, device=device, padding_hu=ndct.padding_hu, progress=step)
    scales = (metrics.PAPER, *(metrics.Scale(name, DISPLAY_WINDOWS_HU[name]) for name in scan.windows))
    images = {"LDCT": ldct_hu, "denoised": result.voxels}
    compared = [metrics.compare(ndct.voxels, hu, scale, name=name) for scale in scales for name, hu in images.items()]
    truth: list[metrics.Comparison] = []
    if scan.truth_hu is not None:
        images["NDCT"] = ndct.voxels
        truth = [metrics.compare(scan.truth_hu, hu, metrics.ABDOMEN, name=name) for name, hu in images.items()]
    return Outcome(
        scan,
        like(ndct, ldct_hu),
        like(ndct, result.voxels),
        simulation,
        denoising_record(card, result, ndct, "ldct.nrrd", warnings_of(ndct, scan.title, card)),
        tuple(compared),
        tuple(truth),
        find({"LDCT": ldct_hu, "denoised": result.voxels, "NDCT": ndct.voxels}, spacing_mm),
        notes,
    )


def _low_dose(scan: Scan, dose: float, step: Progress) -> tuple[np.ndarray, dict[str, Any], tuple[str, ...]]:
    """Return the scan at a fraction of its dose, the facts of the simulation, and notes for the reader."""
    from ASCONDenoiseLib.physics.dose import simulate

    settings = DoseSettings(dose=dose, seed=1, **scan.settings)
    volume = scan.ndct
    counted = _once_per_slice(step)
    simulation = simulate(
        volume.voxels,
        volume.geometry.spacing_mm,
        settings,
        padding_hu=volume.padding_hu,
        assume_photons=True,
        progress=counted,
    )
    facts = {
        "dose": dose,
        "geometry": settings.geometry,
        "photons": [round(float(photons)) for photons in simulation.photons],
        "kernel": asdict(simulation.kernel),
    }
    return simulation.voxels, facts, simulation.notes


def _once_per_slice(step: Progress) -> Progress:
    """Turn the progress of `dose.simulate`, reported per batch of slices, into one call for each slice."""
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
        drawn = _pictures(outcome, own, dose) + quality_report.write_curves(own, outcome.findings, (".svg",))
        cases.append(_case(outcome, drawn))
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
    """Draw NDCT, LDCT, denoised and their difference, of the middle slice: whole and in detail, in each window."""
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
                Panel("Denoised - LDCT", (denoised - ldct)[part], "what denoising changed", difference=True),
            ]
            path = side_by_side_png(
                panels,
                folder / f"{scan.name}-{window}{suffix}.png",
                window_hu=(low, high),
                difference_hu=min(DIFFERENCE_LIMIT_HU, (high - low) / 4),
                spacing_mm=scan.ndct.geometry.spacing_mm,
                footer=title,
            )
            which = f"{title}{', detail' if suffix else ''}, {window} window [{low:g}, {high:g}] HU"
            pictures.append(
                (path, f"{which}: NDCT, LDCT, denoised, denoised less LDCT: blue where HU fell, red where they rose.")
            )
    return pictures


def _detail(image_hu: np.ndarray, window: str) -> tuple[slice, slice]:
    """Find a third of the slice in each direction, with most lung (lung window) or soft tissue and contrast."""
    from scipy.ndimage import uniform_filter

    low, high = TISSUES_HU["lung"] if window == "lung" else (TISSUES_HU["soft tissue"][0], TISSUES_HU["contrast"][1])
    side = min(image_hu.shape) // 3
    smooth = uniform_filter(image_hu, 7)
    amount = uniform_filter(((smooth >= low) & (smooth <= high)).astype(np.float32), side)
    middle = np.unravel_index(amount.argmax(), amount.shape)
    corner = [min(max(int(m) - side // 2, 0), n - side) for m, n in zip(middle, image_hu.shape, strict=True)]
    return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)


def _caption(outcome: Outcome, name: str, window: str, k: int) -> str:
    """Return PSNR and RMSE of one slice in the window shown, to follow other words."""
    row = next(c for c in outcome.comparisons if c.name == name and c.scale.name == window).rows[k]
    return f", PSNR {row.psnr_db:.1f} dB, RMSE {row.rmse_hu:.1f} HU"


def _case(outcome: Outcome, pictures: list[tuple[Path, str]]) -> Case:
    scan = outcome.scan
    tables = metrics_tables(outcome.comparisons)
    if outcome.truth:
        (_, rows), *_ = metric_tables(outcome.truth).items()
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
        scan.title,
        pictures,
        [*tables, *quality_tables(outcome.findings.quality), quality_report.places_table(outcome.findings.consistency)],
        facts,
        " ".join((scan.text, *outcome.notes)),
        " ".join(("Outside of what the model is for.", *outcome.warnings)) if outcome.warnings else "",
        _viewer(outcome),
    )


def _viewer(outcome: Outcome) -> Viewer:
    scan = outcome.scan
    images = {"LDCT": outcome.ldct.voxels, "denoised": outcome.denoised.voxels, "NDCT": scan.ndct.voxels}
    if scan.truth_hu is not None:
        images["phantom"] = scan.truth_hu
    spacing_mm = scan.ndct.geometry.spacing_mm
    maps, places = (
        quality_report.overlays(outcome.findings),
        quality_report.places(outcome.findings.consistency, spacing_mm),
    )
    return Viewer(images, spacing_mm, scan.windows[0], maps, places)


def _summary(outcomes: list[Outcome], dose: float) -> Table:
    columns = [column for column in METRIC_COLUMNS if column[1] != "rmse"]
    headings = [heading for heading, *_ in columns]
    rows: list[tuple[str, ...]] = [("", "slices", *headings, "noise [HU]", "NDCT's noise", "largest shift [HU]")]
    for outcome in outcomes:
        before, after = (c for c in outcome.comparisons if c.scale == metrics.PAPER)
        q = outcome.findings.quality
        cells = [
            f"{before.mean_sd(metric)[0] * factor:.1f} -> {after.mean_sd(metric)[0] * factor:.1f}"
            for _, metric, factor, _ in columns
        ]
        noise = [number(n.sd_hu if n else None, 1, "-") for n in (q.noise_before, q.noise_after, q.noise_reference)]
        sizeable = [tissue for tissue in q.hu_shift if tissue.voxels >= MIN_TISSUE_VOXELS]
        worst = max(sizeable, key=lambda tissue: abs(tissue.shift_hu), default=None)
        rows.append(
            (
                outcome.scan.title + (OUTSIDE if outcome.warnings else ""),
                str(len(outcome.scan.ndct.voxels)),
                *cells,
                f"{noise[0]} -> {noise[1]}",
                noise[2],
                "-" if worst is None else f"{number(worst.shift_hu, 1, sign=True)} ({worst.tissue})",
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
        "quality": outcome.findings.quality.to_dict(),
        "consistency": outcome.findings.consistency.to_dict(),
        "notes": list(outcome.notes),
    }
