"""Table nodes of text and of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support


def text_table(
    scene: slicer.vtkMRMLScene,
    name: str,
    rows: Sequence[Sequence[str]],
    node: slicer.vtkMRMLTableNode | None = None,
) -> slicer.vtkMRMLTableNode:
    """A table node of rows of text.

    Args:
        scene: gets the node, where it is new.
        name: of a new node.
        rows: the header first.
        node: its contents are replaced; None: a new one.
    """
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    table = vtk.vtkTable()
    for c, title in enumerate(rows[0]):
        column = vtk.vtkStringArray()
        column.SetName(title)
        for row in rows[1:]:
            column.InsertNextValue(row[c])
        table.AddColumn(column)
    node.SetUseFirstColumnAsRowHeader(True)
    _fill(node, table)
    return node


def rows_of(node: slicer.vtkMRMLTableNode) -> list[tuple[str, ...]]:
    """The rows of a `text_table`, the header first."""
    table = node.GetTable()
    columns = [table.GetColumn(c) for c in range(table.GetNumberOfColumns())]
    body = [tuple(column.GetValue(r) for column in columns) for r in range(table.GetNumberOfRows())]
    return [tuple(column.GetName() for column in columns), *body]


def fill_with_numbers(node: slicer.vtkMRMLTableNode, columns: Mapping[str, np.ndarray]) -> None:
    """Replaces a table node's contents by columns of numbers."""
    table = vtk.vtkTable()
    for name, values in columns.items():
        column = numpy_support.numpy_to_vtk(np.ascontiguousarray(values), deep=True)
        column.SetName(name)
        table.AddColumn(column)
    _fill(node, table)


def column_of(node: slicer.vtkMRMLTableNode, name: str) -> np.ndarray:
    """A column of `fill_with_numbers`, as a view."""
    return numpy_support.vtk_to_numpy(node.GetTable().GetColumnByName(name))


def _fill(node: slicer.vtkMRMLTableNode, table: vtk.vtkTable) -> None:
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetLocked(True)


def number_rows(measured: Mapping[str, Any], _: Callable[[str], str] = str) -> list[tuple[str, ...]]:
    """What `steps.measure` returns as rows of text, the header first, which says the strength that was measured.

    Args:
        _: translates; the numbers are not translated.
    """
    quality, metrics = measured["quality"], {numbers["name"]: numbers for numbers in measured["metrics"]}
    denoised = _("Denoised, {percent} %").format(percent=f"{100 * measured['strength']:.0f}")
    rows: list[tuple[str, ...]] = [(_("Measure"), "LDCT", denoised, "NDCT")]

    def add(title: str, *values: str) -> None:
        if any(values):
            rows.append((title, *values, *[""] * (3 - len(values))))

    noise = [quality[f"noise_{which}"] for which in ("before", "after", "reference")]
    add(_("Noise in soft tissue, SD [HU]"), *(_number(value and value["sd_hu"], 1) for value in noise))
    add(_("Noise removed [%]"), "", _number(quality["noise_reduction_percent"], 0))
    frequencies = quality["nps_mean_before"], quality["nps_mean_after"]
    add(_("Noise frequency [1/mm]"), *(_number(value, 2) for value in frequencies))
    for title, metric, factor, digits in (
        (_("PSNR [dB]"), "psnr_db", 1, 2),
        (_("SSIM x 100"), "ssim", 100, 2),
        (_("RMSE [HU]"), "rmse_hu", 1, 2),
    ):
        cells = (_mean_sd(metrics.get(name), metric, factor, digits) for name in ("LDCT", "denoised"))
        add(title, *cells)
    against = _("HU shift from NDCT") if quality["has_reference"] else _("HU shift from LDCT")
    tissues = {
        "air": _("air"),
        "lung": _("lung"),
        "fat": _("fat"),
        "soft tissue": _("soft tissue"),
        "contrast": _("contrast medium"),
        "bone": _("bone"),
    }
    for shift in quality["hu_shift"]:
        name = tissues.get(shift["tissue"], shift["tissue"])
        add(f"{against}: {name}", "", _number(shift["shift_hu"], 1, sign=True))
    if not quality["has_reference"]:
        rows = [row[:3] for row in rows]
    return rows


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows for the clipboard: spreadsheets put each cell where it belongs."""
    return "\n".join("\t".join(row) for row in rows) + "\n"


def _number(value: float | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "").replace("+", "") if float(text) == 0 else text


def _mean_sd(numbers: Mapping[str, Any] | None, metric: str, factor: float, digits: int) -> str:
    if numbers is None:
        return ""
    mean, sd = numbers["mean"][metric], numbers["sd"][metric]
    if mean is None:
        return "inf" if metric == "psnr_db" else ""
    text = f"{mean * factor:.{digits}f}"
    return text if sd is None else f"{text} ± {sd * factor:.{digits}f}"
