"""What denoising did to one scan: tables, curves and maps, as one page or as a folder of files."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.imaging.difference import difference_colours, level_colours, limit_for_spread
from ASCONDenoiseLib.imaging.number_tables import number, place_rows, region_rows
from ASCONDenoiseLib.io.results import describe, results_folder, write_results
from ASCONDenoiseLib.reports import curves
from ASCONDenoiseLib.reports.page import Case, page
from ASCONDenoiseLib.reports.text_table import Table, metrics_tables, quality_tables
from ASCONDenoiseLib.reports.viewer import Overlay, Place, Viewer

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.findings import Findings
    from ASCONDenoiseLib.imaging.image_quality import Quality
    from ASCONDenoiseLib.imaging.noise_consistency import Consistency
    from ASCONDenoiseLib.imaging.noise_spectrum import Texture

COMMAND, REPORT = "quality", "report.html"

MAX_PLACES = 50
"""That the page lists; the JSON has all."""

TITLE = "What denoising did to this image"


@dataclass(frozen=True)
class Scan:
    """A scan and what was measured of it.

    Attributes:
        name: of its file, for the heading.
        images_hu: LDCT, denoised, perhaps NDCT; (S, H, W).
        spacing_mm: (x, y, z).
        findings: of `imaging.findings.find`.
        facts: how the denoised image came about, and what the images are.
        warning: why the scan does not suit the model; "" where it does.
        window: of the viewer at first.
    """

    name: str
    images_hu: Mapping[str, np.ndarray]
    spacing_mm: tuple[float, float, float]
    findings: Findings
    facts: Mapping[str, str]
    warning: str = ""
    window: str = "abdomen"


def made(record: Mapping[str, Any]) -> dict[str, str]:
    """How a denoised image came about, from its `record.denoising_record`."""
    return {
        "Made from": record["source"],
        "Denoised with": describe(dict(record)),
        "SHA-256 of the weights": record["model_sha256"],
    }


def write_page(path: str | Path, scan: Scan) -> Path:
    """Write the page; its curves are in it. Returns the path."""
    with tempfile.TemporaryDirectory() as folder:
        return page(
            path, TITLE, [_case(scan, write_curves(Path(folder), scan.findings, (".svg",)))], text=_INTRODUCTION
        )


def write_folder(folder: str | Path, scan: Scan) -> dict[str, Any]:
    """Write page, curves (PNG, SVG), tables (CSV) and results.json into a folder; returns what is in that.

    Earlier results of the command are replaced; the folder appears complete or not at all.

    Raises:
        InputError: the folder holds something else.
    """
    with results_folder(folder, COMMAND) as staging:
        drawn = write_curves(staging, scan.findings, (".svg", ".png"))
        page(staging / REPORT, TITLE, [_case(scan, drawn)], text=_INTRODUCTION)
        for name, rows in csv_tables(scan.findings).items():
            (staging / f"{name}.csv").write_text(_csv(rows), encoding="utf-8", newline="")
        return write_results(staging, COMMAND, {"facts": dict(scan.facts), **scan.findings.to_dict()})


def write_curves(folder: Path, findings: Findings, suffixes: Sequence[str]) -> list[tuple[Path, str]]:
    """Draw all curves, each as a file of every suffix; returns those of the first, with a description each."""
    drawn: list[tuple[Path, str]] = []
    known = textures(findings.quality)
    for suffix in suffixes:
        files = []
        if known:
            what = "Noise power spectrum, radial mean over flat soft tissue."
            files.append((curves.spectrum(folder / f"noise-spectrum{suffix}", known), what))
        what = "How often each local noise level occurs in the patient, edges left out."
        files.append((curves.noise_levels(folder / f"noise-levels{suffix}", findings.noise_maps), what))
        drawn = drawn or files
    return drawn


def textures(quality: Quality) -> dict[str, Texture]:
    """The noise's spectra by the image's name, those that could be measured."""
    of = {"LDCT": quality.texture_before, "denoised": quality.texture_after, "NDCT": quality.texture_reference}
    return {name: texture for name, texture in of.items() if texture is not None}


def tables(findings: Findings) -> list[Table]:
    """All tables of the page, and of the command's answer."""
    made = quality_tables(findings.quality)
    modes = [number(findings.global_noise_hu[name], 1, "not measured") for name in ("LDCT", "denoised")]
    made.append(
        Table(
            "Noise all over the patient",
            [("Measure", "LDCT", "Denoised"), ("Global noise level, SD [HU]", *modes)],
            "The most frequent local noise of soft tissue (windows of 6 mm, edges left out).",
        )
    )
    if findings.regions:
        note = "Label 1 is the lesion, label 2 its background." if findings.pairs else ""
        rows = region_rows(findings.to_dict()["regions"], findings.to_dict()["lesion"])
        made.append(Table("Regions", rows, note))
    made += metrics_tables(findings.comparisons)
    made.append(places_table(findings.consistency))
    return made


def places_table(consistency: Consistency) -> Table:
    """The places where it was no noise, as a table."""
    found = len(consistency.places)
    shown = consistency.to_dict()["places"][:MAX_PLACES]
    note = " ".join(
        (
            "Where what was removed or added is not noise, the strongest first; of these places a part of "
            f"{100 * consistency.rate:g} % is expected to be noise after all. Change: of a disc of that size, in HU.",
            *([f"The first {MAX_PLACES} of {found}."] if found > MAX_PLACES else []),
        )
    )
    rows = place_rows(shown) if shown else [("", "found"), ("Places", "none")]
    return Table("Was it noise?", rows, note)


def csv_tables(findings: Findings) -> dict[str, list[Sequence[Any]]]:
    """Plain numbers for spreadsheets and scripts, the header first, by the name of their file; "" is not measured."""
    q, names = findings.quality, ("LDCT", "denoised", "NDCT")
    noise = dict(zip(names, (q.noise_before, q.noise_after, q.noise_reference), strict=True))
    spectra = textures(q)
    numbers: dict[str, dict[str, float | None]] = {
        "noise_sd_hu": {name: one.sd_hu for name, one in noise.items() if one},
        "global_noise_hu": findings.global_noise_hu,
        "noise_mean_frequency_per_mm": {name: texture.mean_frequency for name, texture in spectra.items()},
        "noise_peak_frequency_per_mm": {name: texture.peak_frequency for name, texture in spectra.items()},
        "coarse_noise_hu": {name: texture.coarse_hu for name, texture in spectra.items()},
        "fine_noise_hu": {name: texture.fine_hu for name, texture in spectra.items()},
        "slice_correlation": {"LDCT": q.slice_correlation_before, "denoised": q.slice_correlation_after},
    }
    for metric in ("psnr_db", "ssim", "rmse_hu"):
        for comparison in findings.comparisons:
            numbers.setdefault(f"{metric}_{comparison.scale.name}", {})[comparison.name] = comparison.mean_sd(metric)[0]
    for label, of in findings.regions.items():
        numbers[f"region_{label}_mean_hu"] = {name: one.mean_hu for name, one in of.items()}
        numbers[f"region_{label}_sd_hu"] = {name: one.sd_hu for name, one in of.items()}
    if findings.pairs:
        numbers["contrast_hu"] = {name: pair.contrast_hu for name, pair in findings.pairs.items()}
        numbers["cnr"] = {name: pair.cnr for name, pair in findings.pairs.items()}
    places = findings.consistency.to_dict()["places"]
    rows = [(measure, *(of.get(name) for name in names)) for measure, of in numbers.items() if of]
    made: dict[str, list[Sequence[Any]]] = {
        "numbers": [("measure", *names), *rows],
        "hu-shift": [("tissue", "voxels", "reference_hu", "shift_hu")]
        + [(one.tissue, one.voxels, one.reference_hu, one.shift_hu) for one in q.hu_shift],
        "places": [_PLACE_FIELDS, *(tuple(map(place.get, _PLACE_FIELDS)) for place in places)],
    }
    if spectra:
        columns = [next(iter(spectra.values())).frequency, *(texture.power for texture in spectra.values())]
        header = ("frequency_per_mm", *(f"{name}_hu2_mm2" for name in spectra))
        made["noise-spectrum"] = [header, *zip(*columns, strict=True)]
    return made


_PLACE_FIELDS = ("slice_index", "row", "column", "diameter_mm", "contrast_hu", "z", "at_edge", "tissue")


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _case(scan: Scan, drawn: Sequence[tuple[Path, str]]) -> Case:
    facts = {**scan.facts, "ASCON": __version__}
    return Case(scan.name, drawn, tables(scan.findings), facts, "", scan.warning, viewer_of(scan))


def viewer_of(scan: Scan) -> Viewer:
    """The scan's volumes with its maps and places."""
    spread = float(
        np.std(scan.images_hu["denoised"][::4, ::4, ::4].astype(float) - scan.images_hu["LDCT"][::4, ::4, ::4])
    )
    return Viewer(
        scan.images_hu,
        scan.spacing_mm,
        scan.window,
        overlays(scan.findings),
        places(scan.findings.consistency, scan.spacing_mm),
        limit_for_spread(spread),
    )


def overlays(findings: Findings) -> list[Overlay]:
    """The noise maps of both images on one scale, and where what was removed is no noise."""
    levels = np.column_stack([np.rint(255 * level_colours(np.linspace(0, 1, 256))), np.full(256, 255)])
    levels[0] = 0  # where nothing was measured
    known = findings.noise_maps["LDCT"]
    known = known[np.isfinite(known)]
    high = float(np.ceil(np.quantile(known, 0.99))) if known.size else 1.0
    made = [Overlay(f"noise, {name}", values, 0.0, high, "HU", levels) for name, values in findings.noise_maps.items()]
    threshold = findings.consistency.threshold_z
    if np.isfinite(threshold):
        high = 2 * threshold
        z = np.linspace(-high, high, 256)
        alpha = np.where(np.abs(z) >= threshold, 255, 0)
        colours = np.column_stack([np.rint(255 * difference_colours(z / high)), alpha])
        made.append(
            Overlay("no noise: HU fell (blue) or rose (red)", -findings.consistency.z, -high, high, "SD", colours)
        )
    return made


def places(consistency: Consistency, spacing_mm: tuple[float, float, float]) -> list[Place]:
    """The strongest places, as buttons of the viewer."""
    return [
        Place(
            f"{i}. {-place.contrast_hu:+.0f} HU, {place.diameter_mm:.0f} mm, {place.tissue}",
            (place.slice_index, place.row, place.column),
            place.diameter_mm / 2 / spacing_mm[0],
        )
        for i, place in enumerate(consistency.places[:MAX_PLACES], start=1)
    ]


_INTRODUCTION = (
    "How much noise went, of which texture, whether edges and lesions stayed, and whether anything was taken away that "
    "is not noise. Definitions: AAPM TG-233 where it has one."
)
