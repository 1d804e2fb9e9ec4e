"""The report of one scan: curves, tables, page, a folder of files."""

from __future__ import annotations

import csv
import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ASCONDenoiseLib.imaging.findings import find
from ASCONDenoiseLib.reports import curves, quality_report
from ASCONDenoiseLib.reports.quality_report import Scan

SPACING_MM = (0.8, 0.8, 3.0)


@pytest.fixture(scope="module")
def a_scan():
    """A body from which a denoiser took noise, and a lesion."""
    y, x = np.mgrid[-60:60, -64:64] + 0.5
    clean = np.where(np.hypot(x, y) < 55, 50.0, -1000.0)
    lesion = 60 * np.exp(-((x - 20) ** 2 + y**2) / 2 / 4**2) * (np.arange(4) == 2)[:, None, None]
    noise = np.random.default_rng(0).normal(0, 20, (4, 120, 128))
    parts = {"LDCT": noise + lesion, "denoised": noise / 2, "NDCT": np.random.default_rng(1).normal(0, 8, noise.shape)}
    images = {name: np.rint(clean + part).astype(np.int16) for name, part in parts.items()}
    labels = np.zeros(noise.shape, np.uint8)
    labels[2, 55:65, 79:89], labels[2, 55:65, 30:40] = 1, 2
    findings = find(images, SPACING_MM, labels)
    assert len(findings.consistency.places) >= 1
    return Scan("scan & co", images, SPACING_MM, findings, {"LDCT": "a <file>"}, "Not for this.")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_folder_of_everything(a_scan, tmp_path):
    results = quality_report.write_folder(tmp_path / "out", a_scan)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == sorted(results["files"])
    assert {"report.html", "results.json", "numbers.csv", "noise-spectrum.svg", "noise-spectrum.png"} <= set(written)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == json.loads(json.dumps(results))

    q = a_scan.findings.quality
    numbers = {row[0]: row[1:] for row in rows_of(tmp_path / "out" / "numbers.csv")}
    assert numbers["measure"] == ["LDCT", "denoised", "NDCT"]
    assert list(map(float, numbers["noise_sd_hu"])) == [
        n.sd_hu for n in (q.noise_before, q.noise_after, q.noise_reference)
    ]
    assert float(numbers["contrast_hu"][1]) == a_scan.findings.pairs["denoised"].contrast_hu
    assert numbers["psnr_db_paper"][2] == ""
    frequency, *powers = zip(*rows_of(tmp_path / "out" / "noise-spectrum.csv")[1:], strict=True)
    assert tuple(map(float, frequency)) == q.texture_before.frequency
    assert tuple(map(float, powers[2])) == q.texture_reference.power
    (header, first, *_) = rows_of(tmp_path / "out" / "places.csv")
    place = a_scan.findings.consistency.places[0]
    assert dict(zip(header, first, strict=True))["row"] == str(place.row)
    quality_report.write_folder(tmp_path / "out", a_scan)  # once more, over its own


def test_the_page_has_volumes_maps_curves_tables_and_where_it_comes_from(a_scan, tmp_path):
    text = quality_report.write_page(tmp_path / "page.html", a_scan).read_text(encoding="utf-8")
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', text)[1])
    assert [image["name"] for image in facts["images"]] == ["LDCT", "denoised", "NDCT"]
    names = [overlay["name"] for overlay in facts["overlays"]]
    assert names[:2] == ["noise, LDCT", "noise, denoised"] and names[2].startswith("no noise")
    assert facts["overlays"][2]["colours"][128][3] == 0  # where it was noise, the image is seen
    assert len(facts["places"]) == min(len(a_scan.findings.consistency.places), quality_report.MAX_PLACES)
    assert text.count("data:image/svg+xml;base64,") == 2
    plain = html.unescape(text)
    for words in ("scan & co", "a <file>", "Not for this.", "Was it noise?", "Noise power", "Contrast kept [%]"):
        assert words in plain
    assert not list(tmp_path.glob("*.svg"))


def test_places_are_told_as_they_are_seen(a_scan):
    """HU that fell are negative, in the table and on the buttons; the map is blue there."""
    place = a_scan.findings.consistency.places[0]
    assert place.contrast_hu > 30  # something bright was removed
    *_, table = quality_report.tables(a_scan.findings)
    assert float(table.rows[1][1]) == pytest.approx(-place.contrast_hu, abs=0.06)
    assert table.rows[1][5:] == (str(place.slice_index + 1), str(place.row + 1), str(place.column + 1))
    (button, *_) = quality_report.places(a_scan.findings.consistency, SPACING_MM)
    assert f" {-place.contrast_hu:+.0f} HU" in button.text
    overlay = quality_report.overlays(a_scan.findings)[2]
    value = overlay.values[place.slice_index, place.row, place.column]
    red, _green, blue, alpha = overlay.colours[
        int(np.clip((value - overlay.low) / (overlay.high - overlay.low), 0, 1) * 255)
    ]
    assert alpha == 255 and blue > red


def test_curves_are_where_the_numbers_are(a_scan, tmp_path):
    """Three flat spectra: the distances of their lines are to each other as those of their powers are."""
    texture = a_scan.findings.quality.texture_after
    powers = {"LDCT": 100.0, "denoised": 40.0, "NDCT": 20.0}
    flat = {name: replace(texture, power=(power,) * len(texture.power)) for name, power in powers.items()}
    image = np.asarray(Image.open(curves.spectrum(tmp_path / "a.png", flat)).convert("RGB"), int)
    middle = image[:, image.shape[1] // 3]
    rows = []
    for name in powers:
        colour = [int(curves.COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)]
        rows.append(np.flatnonzero(np.abs(middle - colour).sum(axis=1) < 40).mean())
    assert (rows[2] - rows[1]) / (rows[2] - rows[0]) == pytest.approx(0.25, abs=0.01)


def test_the_same_curve_is_the_same_file(a_scan, tmp_path):
    texture = {"LDCT": a_scan.findings.quality.texture_before}
    a, b = (curves.spectrum(tmp_path / name, texture).read_bytes() for name in ("a.svg", "b.svg"))
    assert a == b


def test_a_map_without_any_level_is_drawn_too(tmp_path):
    path = curves.noise_levels(tmp_path / "a.svg", {"LDCT": np.full((1, 4, 4), np.nan, np.float32)})
    assert path.read_bytes().startswith(b"<?xml")
