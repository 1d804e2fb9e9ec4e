import base64
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ASCONDenoiseLib.imaging.clustering import COLOURS
from ASCONDenoiseLib.imaging.hounsfield import to_gray
from ASCONDenoiseLib.imaging.image_quality import Noise, Quality, TissueShift, quality
from ASCONDenoiseLib.imaging.metrics import ABDOMEN, PAPER, compare
from ASCONDenoiseLib.reports import page as report
from ASCONDenoiseLib.reports.page import Case, Panel, Table, page, side_by_side_png


@pytest.fixture
def a_slice():
    """A slice large enough to be shown pixel for pixel."""
    return np.random.default_rng(0).normal(40, 60, (400, 420)).round().astype(np.int16)


@pytest.fixture
def a_quality():
    return Quality(
        noise_before=Noise(25.04, 812),
        noise_after=Noise(10.02, 812),
        noise_reference=Noise(12.49, 812),
        noise_reduction_percent=60.0,
        nps_mean_before=0.3141,
        nps_mean_after=0.2718,
        hu_shift=(TissueShift("fat", 12345, -99.96, 0.124), TissueShift("bone", 77, 612.3, -1.5)),
        residual_structure=0.043,
        has_reference=True,
        slices=40,
        notes=("Noise spectrum from 23 regions of 48 x 48 pixels.",),
    )


def pixels(path):
    return np.asarray(Image.open(path))


def box(mask):
    """First row, first column, height and width of what is True."""
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    return rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def test_a_large_slice_is_shown_pixel_for_pixel(tmp_path, a_slice):
    panels = [Panel("NDCT", np.full(a_slice.shape, 5000)), Panel("LDCT", a_slice, "caption")]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", window_hu=(-160, 240)))
    top, left, height, width = box((shown == 255).all(axis=2)[:, :440])
    assert (height, width) == a_slice.shape
    second = shown[top : top + height, left + width + report.GAP_PX :][:, :width]
    assert (second == to_gray(a_slice, (-160, 240))[..., None]).all()


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "shown"),
    [
        ((128, 128), (0.66, 0.66), (384, 384)),
        ((512, 512), (0.7, 0.7, 3.0), (512, 512)),
        ((400, 400), (0.5, 1.25), (1000, 400)),  # rows two and a half times as far apart as columns
        ((100, 50), (1.0, 2.0), (400, 100)),  # both
        ((1, 1), (1.0, 1.0), (384, 384)),
    ],
)
def test_proportions_and_magnification(tmp_path, shape, spacing_mm, shown):
    path = side_by_side_png([Panel("", np.full(shape, 999))], tmp_path / "a.png", spacing_mm=spacing_mm)
    assert box((pixels(path) == 255).all(axis=2))[2:] == shown


def test_difference_colours_are_symmetric_and_clipped(tmp_path):
    difference = np.zeros((400, 400))
    difference[:100], difference[100:200], difference[200:300] = 250, -250, 30
    panels = [Panel("", np.full((400, 400), 5000)), Panel("difference", difference, difference=True)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", difference_hu=60))
    top, left, height, width = box((shown == 255).all(axis=2)[:, :430])
    column = shown[top : top + height, left + width + report.GAP_PX + 200].astype(int)
    assert (column[0] == [255, 225, 150]).all()  # beyond +60: light orange
    assert (column[199] == [170, 225, 255]).all()  # beyond -60: light blue
    assert (column[399] == 0).all()  # zero: black
    # +30 HU is half-way up: between the fourth and the last of the stops 0, 1/3, 2/3, 1
    assert (abs(column[250] - (np.array([115, 45, 10]) + np.array([235, 120, 30])) / 2) <= 1).all()
    bar = shown[top : top + height, left + 2 * (width + report.GAP_PX) + 3]
    assert (bar[0] == [255, 225, 150]).all() and (bar[-1] == [170, 225, 255]).all()
    assert bar[height // 2].max() <= 3


def test_clusters_are_painted_in_their_colours(tmp_path):
    labels = np.zeros((400, 400), np.uint8)
    labels[100:200], labels[200:] = 1, 7
    image = np.full((400, 400), 240)
    panels = [Panel("", image, labels=labels), Panel("", image, labels=labels, opacity=0.25)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", window_hu=(-160, 240)))
    top, left, *_ = box((shown == 255).all(axis=2))
    solid, faint = (shown[top : top + 400, left + offset] for offset in (200, 200 + 400 + report.GAP_PX))
    for rows, label in ((slice(0, 100), 0), (slice(100, 200), 1), (slice(200, 400), 7)):
        colour = np.array(COLOURS[label - 1]) if label else np.array([255, 255, 255])
        assert (solid[rows] == colour).all()
        assert (abs(faint[rows] - (255 + 0.25 * (colour - 255.0))) <= 0.5).all()


def test_rows_of_panels_and_a_drawing_that_is_fitted_in(tmp_path):
    white, drawing = np.full((400, 500), 999), np.full((50, 100, 3), (255, 0, 0), np.uint8)
    panels = [Panel("", white), Panel("", white), Panel("", white), Panel("", drawing)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png", columns=2))
    top, left, height, width = box((shown == 255).all(axis=2))
    assert width == 2 * 500 + report.GAP_PX and height > 2 * 400
    right, below = left + 500 + report.GAP_PX, top + height - 400
    assert box((shown == (255, 0, 0)).all(axis=2)) == (below + 75, right, 250, 500)  # twice as wide as high, centred
    assert (shown[below : below + 400, left : left + 500] == 255).all()


def test_marks_of_a_table_show_the_colours_of_its_rows(tmp_path):
    table = Table("t", [("", "n"), ("a", "1"), ("b", "2")], colours=[(1, 2, 3), (40, 50, 60)])
    text = page(tmp_path / "a.html", "t", [], tables=[table]).read_text()
    assert re.findall(r'background:(rgb\([\d, ]+\))"></span>(\w)</th>', text) == [
        ("rgb(1, 2, 3)", "a"),
        ("rgb(40, 50, 60)", "b"),
    ]


def test_a_long_title_stays_over_its_own_panel(tmp_path):
    image = np.full((400, 400), -2000)
    panels = [Panel("a title " * 30, image, "a caption " * 30), Panel("", image)]
    shown = pixels(side_by_side_png(panels, tmp_path / "a.png"))
    top = box(shown[..., 0] > 60)[0]
    left = report.MARGIN_PX + 400
    assert shown[top : top + 400, :left].any() and not shown[: top + 430, left + 1 :].any()


def test_pictures_of_other_shapes_are_refused(tmp_path):
    a, b = Panel("", np.zeros((8, 8))), Panel("", np.zeros((8, 9)))
    for panels in ([a, b], [], [Panel("", np.zeros((2, 8, 8)))]):
        with pytest.raises(ValueError, match="one shape"):
            side_by_side_png(panels, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
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
    tables = report.metrics_tables(comparisons) + report.quality_tables(a_quality)
    case = Case("Abdomen", [(picture, "NDCT and LDCT")], tables, facts, "One case.")
    reader = read(page(tmp_path / "report.html", "Report", [case, case], facts={"Program": "ASCON"}))
    assert "script" not in reader.tags and "link" not in reader.tags
    assert len(reader.sources) == 2
    for source in reader.sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) == pixels(picture)).all()
    assert not re.search(r"url\(|@import|https?:", report._STYLE)
    text = "".join(reader.text)
    assert report.RESEARCH_NOTICE in text and facts["SHA-256"] in reader.cells
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


def test_quality_tables_say_the_numbers(a_quality):
    noise, shifts = report.quality_tables(a_quality)
    assert noise.rows[0] == ("", "LDCT", "denoised", "reference")
    assert noise.rows[1][1:] == ("25.0", "10.0", "12.5")
    assert noise.rows[2][1:] == ("", "60", "")
    assert noise.rows[3][1:] == ("0.314", "0.272", "")
    assert noise.rows[4][1:] == ("", "0.04", "")
    assert "812 windows in 40 slices" in noise.note and "23 regions" in noise.note
    assert list(shifts.rows[1:]) == [("fat", "-100.0", "+0.12", "12,345"), ("bone", "612.3", "-1.50", "77")]


def test_quality_tables_without_reference_or_tissue():
    air = np.full((2, 24, 24), -1000, np.int16)
    noise, shifts = report.quality_tables(quality(air, air, (0.8, 0.8, 3.0)), before="input", after="output")
    assert all(len(row) == 3 for row in noise.rows)
    assert noise.rows[1] == ("Noise in flat soft tissue [HU]", "not measured", "not measured")
    assert "No noise figure" in noise.note
    assert shifts.title == "Mean HU per tissue: output less input" and shifts.rows[1][:3] == ("air", "-1000.0", "+0.00")
