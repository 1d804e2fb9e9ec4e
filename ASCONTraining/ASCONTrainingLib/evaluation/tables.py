"""A comparison as tables: text for a terminal, and files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.noise_spectrum import COARSE_PER_MM
from ASCONDenoiseLib.imaging.number_tables import METRIC_COLUMNS, mean_sd
from ASCONDenoiseLib.reports.text_table import aligned
from ASCONTrainingLib.data.set_index import counted
from ASCONTrainingLib.evaluation.comparison import ComparisonResult, MethodResult, mean_or_nan
from ASCONTrainingLib.evaluation.edges import FAINT_EDGES_HU
from ASCONTrainingLib.evaluation.response import CONTRAST_HU, DIAMETER_MM, noise_left
from ASCONTrainingLib.evaluation.statistics import PairedTest

HEADER = ("", *(heading for heading, *_ in METRIC_COLUMNS), "noise less", "residual", "CNR", "s/slice")
"""Noise less: in % of its SD. Residual: correlation of what was removed with the NDCT's gradient. CNR: in phantoms."""
SOFT_HEADER = ("", "PSNR [dB]", "SSIM x100", "RMSE [HU]", "coarse noise", "fine noise", "d'", "edges")
"""Noise of fewer and of more than 0.15 cycles/mm: what is left of its SD. d': of the disc of `response`. Edges: faint
ones, width in units of the NDCT's."""


def text(result: ComparisonResult) -> str:
    """The table for a terminal, the tests under it, and what to know about both."""
    slices = len(result.methods[0].rows)
    title = (
        f"{result.set}, {counted(result.patients, f'{result.settings.split} patient')}, {counted(slices, 'slice')}, "
        f"mean ± sd over slices; {metrics.PAPER.describe()}, both clipped to it"
    )
    lines = [title, aligned([HEADER, *map(_cells, result.methods)], numbers=True)]
    lines += [f"{name}: not run: {reason}" for name, reason in result.not_run.items()]
    soft_title = (
        f"{metrics.ABDOMEN.describe()}; noise left below and above {COARSE_PER_MM:g}/mm, d' of a disc of "
        f"{DIAMETER_MM:g} mm and {CONTRAST_HU:g} HU, width of edges of {FAINT_EDGES_HU[0]:g} to "
        f"{FAINT_EDGES_HU[1]:g} HU against the NDCT's"
    )
    lines += ["", soft_title, aligned([SOFT_HEADER, *map(_soft_cells, result.methods)], numbers=True)]
    if tissues := _tissues(result):
        shifts = [("mean HU shift against the NDCT", *tissues)]
        for method in result.methods:
            shift_hu = method.shift_hu()
            shifts.append((method.name, *(f"{shift_hu[t]:+.2f}" if t in shift_hu else "-" for t in tissues)))
        lines += ["", aligned(shifts, numbers=True)]
    for tests, window in ((result.tests, metrics.PAPER), (result.soft_tests, metrics.ABDOMEN)):
        lines += ["", *_test_lines(result, tests, window)]
    tuned = [
        f"{method.name}: {', '.join(dict.fromkeys(method.settings))}" for method in result.methods if method.settings
    ]
    if tuned:
        lines += ["", "Filters, at the best setting for each volume, found on that volume:", *tuned]
    return "\n".join([*lines, *(f"Warning: {warning}" for warning in result.warnings)])


def _tissues(result: ComparisonResult) -> list[str]:
    return list(dict.fromkeys(tissue for method in result.methods for tissue in method.shifts))


def _cells(method: MethodResult) -> tuple[str, ...]:
    return (
        method.name,
        *(mean_sd(*method.mean_sd(metric), factor, digits) for _, metric, factor, digits in METRIC_COLUMNS),
        _number(method.noise_reduction_percent(), ".0f", " %"),
        _number(mean_or_nan(method.structure), ".3f"),
        _number(mean_or_nan(method.cnr), ".2f"),
        _number(method.seconds / len(method.rows), ".2f") if method.kind != "none" else "-",
    )


def _soft_cells(method: MethodResult) -> tuple[str, ...]:
    columns = (column for column in METRIC_COLUMNS if column[1] != "rmse")
    return (
        method.name,
        *(mean_sd(*method.mean_sd(metric, soft=True), factor, digits) for _, metric, factor, digits in columns),
        *(_number(noise_left(method.responses, band), ".0f", " %") for band in ("coarse_hu", "fine_hu")),
        _number(method.detectability(), ".2f"),
        _number(method.edge_ratio(), ".2f"),
    )


def _test_lines(result: ComparisonResult, tests: Sequence[PairedTest], window: metrics.Scale) -> list[str]:
    if not tests:
        return []
    first = next(method.name for method in result.methods if method.kind == "model")
    count, smallest = result.patients, tests[0].smallest_p
    rows = [("", "difference [dB]", "better on", "p", "p (Holm)")]
    for t in tests:
        cells = (f"{t.difference_db:+.2f}", f"{t.better} of {count}", _number(t.p, ".3g"), _number(t.p_holm, ".3g"))
        rows.append((t.other, *cells))
    lines = [
        f"{first} against the others, {window.name} window: PSNR, means of {counted(count, 'patient')}, Wilcoxon's "
        "signed-rank test, two-sided, p with Holm's correction",
        aligned(rows, numbers=True),
    ]
    if math.isnan(smallest) or smallest > 0.05:
        said = "one patient gives no p" if math.isnan(smallest) else f"{count} patients give no p below {smallest:g}"
        lines.append(f"Too few patients for a test: {said}. Slices of one patient are not independent, and not tested.")
    return lines


def _number(value: float, form: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else format(value, form) + unit


def write(result: ComparisonResult, folder: Path) -> list[Path]:
    """Write the comparison as text, as CSV (a row for each method, a row for each slice) and as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in result.methods:
        values = method.to_dict()
        row = {key: values[key] for key in ("name", "kind", "note")}
        for metric in metrics.METRICS:
            row[f"{metric}_mean"], row[f"{metric}_sd"] = values[metric]
            row[f"soft_tissue_{metric}_mean"], row[f"soft_tissue_{metric}_sd"] = values["soft_tissue"][metric]
        names = ["coarse_noise_left_percent", "fine_noise_left_percent", "detectability", "faint_edge_ratio"]
        names += ["noise_reduction_percent", "residual_structure", "cnr", "seconds_per_slice"]
        row |= {key: values[key] for key in names}
        rows.append(row | {f"hu_shift_{tissue}": values["hu_shift"].get(tissue) for tissue in _tissues(result)})
    slices = [{"method": method.name} | row.to_dict() for method in result.methods for row in method.rows]
    contents = {
        "comparison.txt": text(result) + "\n",
        "comparison.csv": csv_text(rows),
        "slices.csv": csv_text(slices),
        "comparison.json": json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def csv_text(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> str:
    """Rows as CSV, under the names of all columns; without names, those of the first row's values."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
