"""One self-contained HTML page of pictures, tables and facts, and of volumes to scroll through.

The page links to no other file, and its policy forbids the browser to load any, so it can be mailed, archived and
printed. It has a script only where it shows volumes. Every text is escaped.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ASCONDenoiseLib.io.atomic import atomic_file
from ASCONDenoiseLib.reports import viewer
from ASCONDenoiseLib.reports.text_table import Table
from ASCONDenoiseLib.reports.viewer import Viewer

RESEARCH_NOTICE = "For research only. Not a medical device; not for diagnosis or treatment."


@dataclass(frozen=True)
class Case:
    """One scan on the page.

    Attributes:
        title: its heading.
        pictures: PNG or SVG files with a text that describes each.
        tables: below the pictures.
        facts: how the output was made.
        text: below the heading.
        warning: what a reader must know first, shown as such.
        viewer: the volumes, to scroll through.
    """

    title: str
    pictures: Sequence[tuple[Path, str]] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] | None = None
    text: str = ""
    warning: str = ""
    viewer: Viewer | None = None


def page(
    path: str | Path,
    title: str,
    cases: Sequence[Case],
    *,
    tables: Sequence[Table] = (),
    facts: Mapping[str, str] | None = None,
    text: str = "",
) -> Path:
    """Write one HTML page and return its path.

    Args:
        path: the file, which is replaced.
        title: of the page.
        cases: the scans.
        tables: over all cases.
        facts: over all cases.
        text: below the title.

    Raises:
        WriteError: the disk is full or protected.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="notice">{RESEARCH_NOTICE}</p>', _paragraph(text)]
    viewers = sum(case.viewer is not None for case in cases)
    script = viewer.script() if viewers else ""
    around = [_around(case) for case in cases]
    room = _room(len(script) + sum(len(above) + len(below) for above, below in around), viewers)
    parts += [_tables(tables)]
    for case, (above, below) in zip(cases, around, strict=True):
        volumes = viewer.html(case.viewer, room) if case.viewer is not None else ""
        parts += [f"<section>{_lines(above, volumes, below)}</section>"]
    parts += [f"<section><h2>How it was made</h2>{_facts(facts)}</section>"] if facts else []
    parts += [script]
    body = _lines(*parts)
    content = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_STYLE}{viewer.STYLE if viewers else ''}</style></head><body>\n{body}\n</body></html>\n"
    )
    with atomic_file(path) as file:
        file.write_text(content, encoding="utf-8", newline="\n")
    return Path(path)


def _room(else_bytes: int, viewers: int) -> int:
    """Bytes for the volumes of each viewer, after pictures and all else; 3 % less, as slices differ from a sample."""
    return max(0, int(0.97 * (viewer.MAX_PAGE_BYTES - else_bytes))) // max(1, viewers)


def _around(case: Case) -> tuple[str, str]:
    """What stands above and below the volumes of a scan."""
    warning = f'<p class="notice">{html.escape(case.warning)}</p>' if case.warning else ""
    above = _lines(f"<h2>{html.escape(case.title)}</h2>", warning, _paragraph(case.text))
    pictures = [(Path(path), text) for path, text in case.pictures]
    images = _lines(*(_picture(path, text) for path, text in pictures if path.suffix != ".svg"))
    curves = _lines(*(_picture(path, text) for path, text in pictures if path.suffix == ".svg"))
    curves = f'<div class="curves">{curves}</div>' if curves else ""
    return above, _lines(images, curves, _tables(case.tables), _facts(case.facts))


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _picture(path: Path, description: str) -> str:
    kind = {".png": "png", ".svg": "svg+xml"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = html.escape(description)
    return f'<figure><img src="data:image/{kind};base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


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


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

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
.curves { display: flex; flex-wrap: wrap; gap: 0 2rem; } .curves img { background: #fff; }
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
