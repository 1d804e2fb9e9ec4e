"""The table of a batch: CSV for programs, HTML for people."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.batch.work import Row
from ASCONDenoiseLib.io.atomic import atomic_file

CSV, HTML = "batch.csv", "batch.html"

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem; color: #1d2733 } td, th { padding: .3rem .7rem .3rem 0;
border-bottom: 1px solid #e3e8ee; text-align: left; vertical-align: top } th { color: #567 } table { border-collapse:
collapse } img { width: 320px } .failed, .refused { color: #a11; font-weight: 600 } .done { color: #177245 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
"""
_COLUMNS = """
source state result reason model strength device slices seconds noise_before_hu noise_after_hu
""".split()


def write_tables(rows: Sequence[Row], folder: Path) -> None:
    """Replace both tables in the folder of results."""
    tissues = sorted({tissue for row in rows for tissue in row.shifts_hu})
    with (
        atomic_file(folder / CSV) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *(f"shift of {tissue}, HU" for tissue in tissues), "warnings"])
        for row in rows:
            shifts = [_number(row.shifts_hu.get(tissue)) for tissue in tissues]
            cells = [_number(cell) if isinstance(cell := getattr(row, name), float) else cell for name in _COLUMNS]
            writer.writerow([*("" if cell is None else cell for cell in cells), *shifts, " ".join(row.warnings)])
    with atomic_file(folder / HTML) as partial:
        partial.write_text(_html(rows, tissues, folder), "utf-8", "backslashreplace")


def counted(rows: Sequence[Row]) -> str:
    """In words: "3 done, 1 refused"."""
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common()) or "nothing found"


def _html(rows: Sequence[Row], tissues: Sequence[str], folder: Path) -> str:
    heads = ["source", "state", "noise, HU", *(f"{tissue}, HU" for tissue in tissues), "slices", "s", "told", ""]
    body = "".join(f"<tr>{_cells(row, tissues, folder)}</tr>" for row in rows)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ASCON batch</title><style>{_STYLE}</style>'
        f"</head><body><h1>{escape(counted(rows))}</h1>"
        f"<p>ASCON {__version__}. For research only, not for diagnosis.</p>"
        f"<table><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr>{body}</table></body></html>"
    )


def _cells(row: Row, tissues: Sequence[str], folder: Path) -> str:
    noise = f"{_number(row.noise_before_hu)} to {_number(row.noise_after_hu)}" if row.noise_before_hu else ""
    numbers = [noise, *(_number(row.shifts_hu.get(tissue)) for tissue in tissues), str(row.slices or "")]
    told = " ".join([row.reason, *row.warnings])
    picture = ""
    if row.thumbnail:
        place = Path(os.path.relpath(row.thumbnail, folder)).as_posix()
        picture = f'<img src="{escape(place)}" alt="before, after, difference" loading="lazy">'
    return (
        f"<td>{escape(row.source)}</td>"
        f'<td class="{row.state.replace(" ", "-")}">{row.state}</td>'
        + "".join(f'<td class="number">{number}</td>' for number in [*numbers, _number(row.seconds)])
        + f"<td>{escape(told)}</td><td>{picture}</td>"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
