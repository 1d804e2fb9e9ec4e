"""The page: everything in itself, texts escaped."""

import base64
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ASCONDenoiseLib.errors import WriteError
from ASCONDenoiseLib.imaging.metrics import ABDOMEN, PAPER, compare
from ASCONDenoiseLib.reports import page as html_page
from ASCONDenoiseLib.reports.page import Case, page
from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png
from ASCONDenoiseLib.reports.text_table import Table, metrics_tables, quality_tables


def test_marks_of_a_table_show_the_colours_of_its_rows(tmp_path):
    table = Table("t", [("", "n"), ("a", "1"), ("b", "2")], colours=[(1, 2, 3), (40, 50, 60)])
    text = page(tmp_path / "a.html", "t", [], tables=[table]).read_text()
    assert re.findall(r'background:(rgb\([\d, ]+\))"></span>(\w)</th>', text) == [
        ("rgb(1, 2, 3)", "a"),
        ("rgb(40, 50, 60)", "b"),
    ]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(WriteError, match="No space"):
        page(path, "new", [])
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


class Reader(HTMLParser):
    """Checks that tags are balanced and collects what a browser would load and show."""

    VOID = {"meta", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.cells, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "dd", "dt"):
            self.cells.append(data)
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert not reader.open
    return reader


def test_the_page_holds_everything_in_itself(tmp_path, a_quality):
    rng = np.random.default_rng(0)
    reference = rng.normal(40, 10, (2, 64, 64))
    tests = {"LDCT": reference + rng.normal(0, 30, reference.shape), "denoised": reference + 5}
    comparisons = [compare(reference, t, scale, name=n) for scale in (PAPER, ABDOMEN) for n, t in tests.items()]
    picture = side_by_side_png([Panel(name, volume[0]) for name, volume in tests.items()], tmp_path / "a.png")
    facts = {"Model": "esau 1.0", "SHA-256": "0123456789abcdef" * 4, "Device": "cpu"}
    tables = metrics_tables(comparisons) + quality_tables(a_quality)
    case = Case("Abdomen", [(picture, "NDCT and LDCT")], tables, facts, "One case.")
    reader = read(page(tmp_path / "report.html", "Report", [case, case], facts={"Program": "ASCON"}))
    assert "script" not in reader.tags and "link" not in reader.tags
    assert len(reader.sources) == 2
    for source in reader.sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == np.asarray(Image.open(picture))).all()
    assert not re.search(r"url\(|@import|https?:", html_page._STYLE)
    text = "".join(reader.text)
    assert html_page.RESEARCH_NOTICE in text and facts["SHA-256"] in reader.cells
    assert "window [-1000, 2000] HU, data range 1," in text and "data range 400 HU" in text
    for comparison in comparisons:
        mean, sd = comparison.mean_sd("rmse_hu")
        assert f"{mean:.2f} ± {sd:.2f}" in reader.cells


def test_texts_are_escaped(tmp_path):
    bad = '<script>alert("1")</script> & <b>'
    picture = side_by_side_png([Panel(bad, np.zeros((8, 8)))], tmp_path / "a.png")
    case = Case(bad, [(picture, bad)], [Table(bad, [("", bad), (bad, bad)], bad)], {bad: bad}, bad)
    reader = read(page(tmp_path / "report.html", bad, [case], tables=case.tables, facts=case.facts, text=bad))
    assert "script" not in reader.tags and "b" not in reader.tags
    # Title twice, text, facts 2, table 5 (title, 3 cells, note); the case's title, text, table, facts, picture's text.
    assert "".join(reader.text).count(bad) == 2 + 1 + 2 + 5 + 1 + 1 + 5 + 2 + 1
