"""Tables of text: those of a report, and rows aligned for a terminal. The first row is the header."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ASCONDenoiseLib.imaging.number_tables import metric_tables, quality_rows, shift_rows

if TYPE_CHECKING:  # they need SciPy
    from ASCONDenoiseLib.imaging.image_quality import Quality
    from ASCONDenoiseLib.imaging.metrics import Comparison


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: above the table.
        rows: the header first; the first column names the row, the others are numbers.
        note: below the table.
        colours: RGB of a mark before each row but the header; may be left out.
    """

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    colours: Sequence[tuple[int, int, int]] = ()


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Set rows under one another; with `numbers` all columns but the first are flushed right.

    The last cell of a row that is shorter than the header is a remark and may be of any width.
    """
    whole = [row if len(row) == len(rows[0]) else row[:-1] for row in rows]
    widths = [max(len(row[i]) for row in whole if i < len(row)) for i in range(len(rows[0]))]
    lines = []
    for row, cells in zip(rows, whole, strict=True):
        adjust = str.rjust if numbers else str.ljust
        text = [
            cells[0].ljust(widths[0]),
            *(adjust(cell, width) for cell, width in zip(cells[1:], widths[1:], strict=False)),
        ]
        lines.append("  ".join([*text, *row[len(cells) :]]).rstrip())
    return "\n".join(lines)


def metrics_text(comparisons: Iterable[Comparison], *, per_slice: bool = False) -> str:
    """Align the tables of `metric_tables` for a terminal, each under its title."""
    tables = metric_tables(comparisons, per_slice=per_slice)
    return "\n\n".join(f"{title}\n{aligned(rows, numbers=True)}" for title, rows in tables.items())


def metrics_tables(comparisons: Iterable[Comparison]) -> list[Table]:
    """Make one table for each scale among the comparisons, its window and range in the note."""
    tables = metric_tables(comparisons).items()
    return [Table(f"Against the reference, {note.split(':')[0]}", rows, note) for note, rows in tables]


def quality_tables(quality: Quality) -> list[Table]:
    """Make the tables of noise and structure, and of the HU shift per tissue, of one scan."""
    q = quality.to_dict()
    rows = quality_rows(q, "Denoised", unknown="not measured")
    structure = "not measured" if quality.residual_structure is None else f"{quality.residual_structure:.2f}"
    rows.append(("Structure in what was removed (0: none)", "", structure, "")[: len(rows[0])])
    windows = f"{quality.noise_before.windows} windows" if quality.noise_before else "no windows"
    note = " ".join((f"Noise from {windows} in {quality.slices} slices.", *quality.notes))
    return [
        Table("Noise and structure", rows, note),
        Table("Mean HU per tissue", shift_rows(q, 2), "Tissues are eroded regions of a smoothed image."),
    ]
