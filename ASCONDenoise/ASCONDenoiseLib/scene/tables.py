"""Table nodes of text and of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ASCONDenoiseLib.imaging import number_tables


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
    """What `operations.measure` returns as rows of text, the header first, which says the strength that was measured.

    Args:
        measured: quality, metrics and strength.
        _: translates; the numbers are not translated.
    """
    quality = measured["quality"]
    denoised = _("Denoised, {percent} %").format(percent=f"{100 * measured['strength']:.0f}")
    rows = number_tables.quality_rows(quality, denoised, measured["metrics"], _=_)
    (_first, _before, shift_from, *_rest), *shifts = number_tables.shift_rows(quality, 1, _=_)
    empty = [""] * (len(rows[0]) - 3)
    return rows + [(f"{shift_from}: {tissue}", "", shift, *empty) for tissue, _before, shift, *_rest in shifts]


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows for the clipboard: spreadsheets put each cell where it belongs."""
    return "\n".join("\t".join(row) for row in rows) + "\n"
