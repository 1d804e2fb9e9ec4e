"""What a reader sees: slices side by side in one PNG, and one self-contained HTML page around such pictures.

The page has no script and no link to another file, so it can be mailed, archived and printed. Every text is escaped.
Files appear whole or not at all: written beside their place, then renamed.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ASCONDenoiseLib.imaging.clustering import COLOURS
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, to_gray
from ASCONDenoiseLib.imaging.image_quality import Quality
from ASCONDenoiseLib.imaging.metrics import Comparison, text_tables

RESEARCH_NOTICE = "For research only. Not a medical device; not for diagnosis or treatment."

MIN_SIDE_PX = 384
MARGIN_PX, GAP_PX = 18, 12
WHITE, GREY = (238, 238, 238), (165, 165, 165)
DIVERGING = np.array(
    [(170, 225, 255), (60, 145, 235), (20, 55, 110), (0, 0, 0), (115, 45, 10), (235, 120, 30), (255, 225, 150)], float
)
"""Blue below zero, black at zero, orange above: equal steps from -1 to 1."""


@dataclass(frozen=True)
class Panel:
    """One picture: a slice (H, W) in HU, with `difference` a difference in HU; or a drawing (h, w, 3), fitted in."""

    title: str
    image_hu: np.ndarray
    caption: str = ""
    difference: bool = False
    labels: np.ndarray | None = None
    """(H, W) clusters from 1 on, painted over the slice in their colours."""
    opacity: float = 1.0
    """Of the labels."""


def side_by_side_png(
    panels: Sequence[Panel],
    path: str | Path,
    *,
    window_hu: tuple[float, float] = DISPLAY_WINDOWS_HU["abdomen"],
    difference_hu: float = 100.0,
    spacing_mm: tuple[float, ...] = (1.0, 1.0),
    footer: str = "",
    columns: int | None = None,
) -> Path:
    """Write the panels on black, in one row or in rows of `columns`, each with title and caption; return the path.

    Slices keep their proportions (`spacing_mm` = (x, y, ...)); shorter sides than MIN_SIDE_PX are magnified by a whole
    number, bicubic, and the footer says so. Differences run from -difference_hu to +difference_hu, with a bar. Raises
    ValueError where panels are missing or differ in shape.
    """
    from PIL import Image, ImageDraw

    shapes = {np.shape(panel.image_hu) for panel in panels if np.ndim(panel.image_hu) != 3}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(f"A picture needs slices (rows, columns) of one shape; got {sorted(shapes)}.")
    rows, columns_px = shapes.pop()
    width, height, zoom = _shown_size(rows, columns_px, spacing_mm)
    across = min(columns or len(panels), len(panels))
    down = -(-len(panels) // across)
    pitch = width + GAP_PX
    small = max(14, min(round(pitch * across / 110), 20))  # legible when a wide picture is shown smaller
    large, bar = round(1.3 * small), 5 * small if any(panel.difference for panel in panels) else 0
    title_px, caption_px = large + 10, 8 + (2 * small if any(panel.caption for panel in panels) else small // 2)
    row_px = title_px + height + caption_px
    footer_y = MARGIN_PX + down * row_px
    size = (2 * MARGIN_PX + pitch * across - GAP_PX + bar, footer_y + small + MARGIN_PX)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    for i, panel in enumerate(panels):
        x, y = MARGIN_PX + i % across * pitch, MARGIN_PX + i // across * row_px
        shown = _shown(panel, width, height, window_hu, difference_hu)
        canvas.paste(shown, (x + (width - shown.width) // 2, y + title_px + (height - shown.height) // 2))
        _write(draw, (x, y), panel.title, large, WHITE, width)
        _write(draw, (x, y + title_px + height + 8), panel.caption, small, GREY, width)
    if bar:
        corner = (size[0] - MARGIN_PX - bar + GAP_PX, MARGIN_PX + title_px)
        _draw_bar(canvas, draw, corner, height, small, difference_hu)
    low, high = window_hu
    facts = [
        f"window [{low:g}, {high:g}] HU",
        f"{columns_px} x {rows} pixels of {spacing_mm[0]:.3g} x {spacing_mm[1]:.3g} mm",
    ]
    line = ",   ".join(([footer] if footer else []) + facts + ([f"magnified {zoom}x (bicubic)"] if zoom > 1 else []))
    _write(draw, (MARGIN_PX, footer_y), line, small, GREY, size[0] - 2 * MARGIN_PX)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return _replace(Path(path), buffer.getvalue())


def _shown_size(rows: int, columns: int, spacing_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """Width and height on the picture, and the magnification of the finer axis."""
    x, y = spacing_mm[:2]
    width, height = columns * x / min(x, y), rows * y / min(x, y)
    zoom = max(int(np.ceil(MIN_SIDE_PX / max(width, height))), 1)
    return max(round(width * zoom), 1), max(round(height * zoom), 1), zoom


def _shown(panel: Panel, width: int, height: int, window_hu: tuple[float, float], difference_hu: float):
    """A panel's picture, (width, height) or, where it is a drawing, as large as fits in there."""
    from PIL import Image

    if np.ndim(panel.image_hu) == 3:
        drawing = Image.fromarray(panel.image_hu)
        scale = min(width / drawing.width, height / drawing.height)
        return drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.LANCZOS)
    shown = _colours(_resized(panel.image_hu, width, height), panel.difference, window_hu, difference_hu)
    if panel.labels is not None:
        labels = Image.fromarray(np.asarray(panel.labels, np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        labels = np.asarray(labels)
        paint = np.array([(0, 0, 0), *COLOURS], float)[labels]
        opacity = panel.opacity * (labels > 0)[..., None]
        shown = (shown + opacity * (paint - shown)).round().astype(np.uint8)
    return Image.fromarray(shown)


def _resized(image_hu: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    image = np.asarray(image_hu, np.float32)
    if image.shape == (height, width):
        return image  # pixel for pixel
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _colours(
    image_hu: np.ndarray, difference: bool, window_hu: tuple[float, float], difference_hu: float
) -> np.ndarray:
    """(H, W) HU -> (H, W, 3) uint8."""
    if not difference:
        return np.repeat(to_gray(image_hu, window_hu)[..., None], 3, axis=2)
    place = np.clip(image_hu / difference_hu, -1, 1)
    stops = np.linspace(-1, 1, len(DIVERGING))
    return np.stack([np.interp(place, stops, channel) for channel in DIVERGING.T], axis=-1).round().astype(np.uint8)


def _draw_bar(canvas, draw, corner: tuple[int, int], height: int, font_px: int, difference_hu: float) -> None:
    from PIL import Image

    x, y = corner
    ramp = np.repeat(np.linspace(difference_hu, -difference_hu, height)[:, None], font_px, axis=1)
    canvas.paste(Image.fromarray(_colours(ramp, True, (0, 1), difference_hu)), corner)
    for share in (1, 0.5, 0, -0.5, -1):
        middle = y + round((1 - share) / 2 * (height - 1))
        label_y = min(max(middle - font_px // 2 - 2, y - 3), y + height - font_px - 1)
        label = f"{share * difference_hu:+g}" if share else "0 HU"
        draw.line((x + font_px, middle, x + font_px + 4, middle), fill=GREY)
        _write(draw, (x + font_px + 8, label_y), label, font_px - 1, GREY, 4 * font_px)


def _write(draw, corner: tuple[int, int], text: str, font_px: int, colour: tuple, width: int) -> None:
    """One line of text, shortened where it is wider than `width`."""
    from PIL import ImageFont

    font = ImageFont.load_default(font_px)
    shown = text
    while font.getlength(shown) > width and len(shown) > 4:
        shown = shown[:-4].rstrip() + "..."
    draw.text(corner, shown, font=font, fill=colour)


@dataclass(frozen=True)
class Table:
    """Rows of text, the header first; the first column names the row, the others are numbers."""

    title: str
    rows: Sequence[Sequence[str]]
    note: str = ""
    colours: Sequence[tuple[int, int, int]] = ()
    """RGB of a mark before each row but the header; may be left out."""


@dataclass(frozen=True)
class Case:
    """One scan on the page: PNG files with a text that describes each, tables, and how the output was made."""

    title: str
    pictures: Sequence[tuple[Path, str]] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] | None = None
    text: str = ""


def metrics_tables(comparisons: Sequence[Comparison]) -> list[Table]:
    """One table for each scale among the comparisons, its window and range in the note."""
    tables = text_tables(comparisons).items()
    return [Table(f"Against the reference, {note.split(':')[0]}", rows, note) for note, rows in tables]


def quality_tables(quality: Quality, *, before: str = "LDCT", after: str = "denoised") -> list[Table]:
    """Noise and structure, and the HU shift per tissue, of one scan."""
    q, last = quality, 4 if quality.has_reference else 3
    noise = [_number(n and n.sd_hu, 1) for n in (q.noise_before, q.noise_after, q.noise_reference)]
    rows = [
        ("", before, after, "reference"),
        ("Noise in flat soft tissue [HU]", *noise),
        ("Noise taken away [%]", "", _number(q.noise_reduction_percent, 0), ""),
        ("Mean frequency of the noise [1/mm]", _number(q.nps_mean_before, 3), _number(q.nps_mean_after, 3), ""),
        ("Structure in what was taken away (0: none)", "", _number(q.residual_structure, 2), ""),
    ]
    windows = f"{q.noise_before.windows} windows" if q.noise_before else "no windows"
    note = " ".join((f"Noise from {windows} in {q.slices} slices.", *q.notes))
    against = "reference" if q.has_reference else before
    shifts = [("", f"{against} [HU]", "shift [HU]", "voxels")]
    shifts += [(s.tissue, f"{s.reference_hu:.1f}", f"{s.shift_hu:+.2f}", f"{s.voxels:,}") for s in q.hu_shift]
    title = f"Mean HU per tissue: {after} less {against}"
    return [
        Table("Noise and structure", [row[:last] for row in rows], note),
        Table(title, shifts, "Tissues are eroded regions of a smoothed image."),
    ]


def _number(value: float | None, digits: int) -> str:
    return "not measured" if value is None else f"{value:.{digits}f}"


def page(
    path: str | Path,
    title: str,
    cases: Sequence[Case],
    *,
    tables: Sequence[Table] = (),
    facts: Mapping[str, str] | None = None,
    text: str = "",
) -> Path:
    """Write one HTML page: title, notice, facts and tables over all cases, then the cases. Returns the path."""
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="notice">{RESEARCH_NOTICE}</p>', _paragraph(text)]
    parts += [_tables(tables), _facts(facts), *map(_case, cases)]
    body = "\n".join(part for part in parts if part)
    return _replace(
        Path(path),
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n".encode(),
    )


def _case(case: Case) -> str:
    pictures = []
    for path, description in case.pictures:
        data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
        text = html.escape(description)
        pictures.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
        )
    parts = [f"<h2>{html.escape(case.title)}</h2>", _paragraph(case.text), *pictures, _tables(case.tables)]
    return "<section>" + "\n".join(part for part in [*parts, _facts(case.facts)] if part) + "</section>"


def _tables(tables: Sequence[Table]) -> str:
    return '<div class="tables">' + "\n".join(map(_table, tables)) + "</div>" if tables else ""


def _table(table: Table) -> str:
    def row(cells: Sequence[str], first: str, rest: str, mark: str = "") -> str:
        inner = "".join(f"<{rest}>{html.escape(str(cell))}</{rest.split()[0]}>" for cell in cells[1:])
        return f"<tr><{first}>{mark}{html.escape(str(cells[0]))}</th>{inner}</tr>"

    marks = [f'<span class="mark" style="background:rgb{colour}"></span>' for colour in table.colours]
    marks = marks or [""] * (len(table.rows) - 1)
    head = row(table.rows[0], "th", 'th scope="col"')
    body = zip(table.rows[1:], marks, strict=True)
    lines = "\n".join(row(cells, 'th scope="row"', "td", mark) for cells, mark in body)
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    caption = f"<caption>{html.escape(table.title)}</caption>"
    return f"<div><table>{caption}<thead>{head}</thead><tbody>{lines}</tbody></table>{note}</div>"


def _facts(facts: Mapping[str, str] | None) -> str:
    lines = [f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in (facts or {}).items()]
    return "<dl>" + "\n".join(lines) + "</dl>" if lines else ""


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>" if text else ""


def _replace(path: Path, data: bytes) -> Path:
    """Write the whole file beside its place, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d4d9df; --paper: #fff; --mark: #b45309; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #9aa4ae; --line: #343a41; --paper: #131619; --mark: #f5a524; }
}
body { margin: 2rem auto; padding: 0 1.5rem; max-width: 2200px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .6rem; }
section { border-top: 1px solid var(--line); } p { max-width: 48rem; }
.notice { color: var(--mark); font-weight: 600; margin: 0 0 1rem; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .85rem; margin-top: .3rem; }
img { display: block; max-width: 100%; height: auto; background: #000; border-radius: 4px; }
.tables { display: flex; flex-wrap: wrap; gap: 1.2rem 3rem; align-items: flex-start; }
.tables p { color: var(--soft); font-size: .85rem; margin: .3rem 0 0; max-width: 34rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4rem 0; }
th, td { padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line); text-align: right; font-weight: 400; }
th:first-child { text-align: left; } thead th { color: var(--soft); font-size: .85rem; }
.mark { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .1rem 1.2rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print {
  :root { --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --mark: #000; }
  body { margin: 0; font-size: 10pt; } figure, table { break-inside: avoid; } h2 { break-after: avoid; }
  img { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
