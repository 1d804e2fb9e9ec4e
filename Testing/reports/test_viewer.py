"""Volumes in a page: what is embedded, and in a real browser what is drawn, slice by slice, voxel by voxel."""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pytest
from chromium import Page

from ASCONDenoiseLib.imaging.difference import difference_colours
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, to_gray
from ASCONDenoiseLib.reports import page as html_page
from ASCONDenoiseLib.reports import viewer
from ASCONDenoiseLib.reports.page import Case, page
from ASCONDenoiseLib.reports.viewer import Overlay, Place, Viewer

SHAPE = (5, 64, 48)
COLOURS = np.stack(
    [np.arange(256), np.full(256, 10), np.full(256, 200), np.where(np.arange(256) < 128, 0, 255)], axis=1
)


def a_viewer(**changes) -> Viewer:
    """Every voxel differs from its neighbours, the slices differ, and so do before and after."""
    k, j, i = np.indices(SHAPE)
    before = (-100 + 30 * k + 2 * j + i).astype(np.int16)
    images = {"LDCT": before, "denoised <b>": before + np.int16(37), "NDCT": before + np.int16(80)}
    overlay = Overlay("noise", 10.0 + 2 * k + 0.25 * j, 0.0, 40.0, "HU", COLOURS)
    places = (Place("1. 6 mm", (4, 20, 30), 3.0),)
    return Viewer(images, (1.0, 1.0, 3.0), **{"overlays": (overlay,), "places": places} | changes)


def unpacked(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """The other way round, typed out."""
    data = zlib.decompress(base64.b64decode(text))
    half = len(data) // 2
    steps = [data[i] + 256 * data[half + i] for i in range(half)]
    rows = np.cumsum(np.reshape(steps, (-1, shape[2])), axis=1) % 65536
    return np.where(rows >= 32768, rows - 65536, rows).reshape(shape)


@pytest.mark.parametrize("values", [(-32768, 32767), (-1024, 3071), (0, 1)])
def test_voxels_are_packed_without_loss(values):
    voxels = np.random.default_rng(0).integers(*values, (2, 7, 5), endpoint=True).astype(np.int16)
    np.testing.assert_array_equal(unpacked(viewer.packed(voxels), voxels.shape), voxels)


def embedded(text: str) -> tuple[dict, list[np.ndarray]]:
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', text)[1])
    volumes = re.findall(r'class="volume">(.*?)</script>', text)
    return facts, [unpacked(volume, facts["shape"]) for volume in volumes]


def test_air_around_the_body_is_cut_off_and_places_follow():
    images = {name: np.full((3, 60, 80), -1000, np.int16) for name in ("LDCT", "denoised")}
    images["LDCT"][:, 20:40, 30:50] = 50
    images["denoised"][:, 20:41, 30:50] = 40
    facts, volumes = embedded(viewer.html(Viewer(images, (1, 1, 1), places=(Place("a", (2, 25, 35)),))))
    assert facts["shape"] == [3, 21 + 16, 20 + 16]
    np.testing.assert_array_equal(volumes[1], images["denoised"][:, 12:49, 22:58])
    assert facts["places"] == [{"slice": 2, "row": 13, "column": 13, "radius": 5.0}]
    assert "rows 13 to 49, columns 23 to 58" in viewer.html(Viewer(images, (1, 1, 1)))


def test_slices_are_left_out_evenly_where_there_is_no_room_but_none_with_a_place():
    rng = np.random.default_rng(0)
    images = {name: rng.normal(0, 20, (30, 40, 40)).astype(np.int16) for name in ("LDCT", "denoised")}
    whole = viewer.html(Viewer(images, (1, 1, 1)))
    assert "slices are shown" not in whole and embedded(whole)[0]["slices"] == list(range(30))
    room = len(whole) // 3
    text = viewer.html(Viewer(images, (1, 1, 1), places=(Place("a", (8, 5, 5)),)), room)
    facts, volumes = embedded(text)
    assert len(text) < 1.3 * room and 8 in facts["slices"] and facts["total"] == 30
    others = [k for k in facts["slices"] if k != 8]
    assert len(others) >= 5 and len(set(np.diff(others)) - {facts["slices"][1]}) <= 2
    np.testing.assert_array_equal(volumes[0], images["LDCT"][facts["slices"]])
    assert facts["slices"][facts["places"][0]["slice"]] == 8
    assert f"{len(facts['slices'])} of 30 slices are shown" in text


def test_a_page_shares_its_room_among_its_viewers(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = {name: rng.normal(0, 20, (30, 40, 40)).astype(np.int16) for name in ("LDCT", "denoised")}
    picture = tmp_path / "a.png"
    picture.write_bytes(rng.bytes(30_000))  # 40 kB in base64
    most = 3 * 40_000 + 80_000 + len(viewer.script())
    monkeypatch.setattr(html_page.viewer, "MAX_PAGE_BYTES", most)
    cases = [Case(name, [(picture, "p")], viewer=Viewer(images, (1, 1, 1))) for name in "abc"]
    written = page(tmp_path / "a.html", "t", cases)
    assert most - 20_000 < written.stat().st_size < most + 3 * 15_000  # facts and markup of the viewers besides


# ---- in a browser


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    page(path, "A scan", [Case("Abdomen", viewer=a_viewer())])
    with Page(path) as browser:
        browser.wait_for("document.querySelector('figure.viewer').dataset.ready === 'true'")
        yield browser


@pytest.fixture
def fresh(opened):
    """The page as it is when it has just been opened."""
    opened.evaluate("window.old = true")
    opened.send("Page.reload")
    opened.wait_for("!window.old && document.querySelector('figure.viewer[data-ready]') !== null")
    opened.said.clear()
    return opened


CANVAS = "document.querySelector('canvas')"


def colour(browser, row, column, extent=(64, 48), corner=(0, 0)):
    """RGB of the canvas in the middle of a voxel."""
    x, y = ((c + 0.5 - first) / n for c, first, n in ((column, corner[1], extent[1]), (row, corner[0], extent[0])))
    pixel = (
        "(() => { const pixel = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});"
        f"const canvas = {CANVAS}; pixel.drawImage(canvas, Math.floor({x} * canvas.width),"
        f"Math.floor({y} * canvas.height), 1, 1, 0, 0, 1, 1); return [...pixel.getImageData(0, 0, 1, 1).data]; }})()"
    )
    return browser.evaluate(pixel)[:3]


def on_screen(browser, row, column):
    """Where a voxel is in the window."""
    box = browser.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({CANVAS}.getBoundingClientRect())")
    return box[0] + (column + 0.5) / 48 * box[2], box[1] + (row + 0.5) / 64 * box[3]


def gray(value, window=DISPLAY_WINDOWS_HU["abdomen"]):
    return [int(to_gray(np.array(value), window))] * 3


def choose(browser, name, value):
    control = f"document.querySelector('[name={name}]')"
    browser.evaluate(f"{control}.value = '{value}'; {control}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def near(found, expected):
    return np.abs(np.subtract(found, expected)).max() <= 1


def test_the_page_opens_without_a_word_on_the_console_and_asks_for_nothing(opened):
    opened.evaluate("new Promise((done) => setTimeout(done, 300))")
    assert opened.said == []
    assert [url for url in opened.requests if not url.startswith("data:")] == opened.requests[:1]
    assert opened.requests[0].startswith("file://")


def test_what_is_wrong_on_a_page_is_noticed(tmp_path):
    """The judge itself."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<script>console.error('oh'); setTimeout(() => nothing.at.all)</script><img src='http://127.0.0.1:9/x.png'>"
    )
    with Page(path) as browser:
        browser.wait_for("document.images[0].complete")
        browser.evaluate("new Promise((done) => setTimeout(done, 100))")
        assert all(any(word in text for text in browser.said) for word in ("oh", "nothing is not defined"))
        assert "http://127.0.0.1:9/x.png" in browser.requests


def test_left_of_the_curtain_is_before_and_right_of_it_after(fresh):
    before = a_viewer().images["LDCT"][2]
    assert near(colour(fresh, 10, 5), gray(before[10, 5]))
    assert near(colour(fresh, 50, 40), gray(before[50, 40] + 37))
    choose(fresh, "right", 2)
    assert near(colour(fresh, 50, 40), gray(before[50, 40] + 80))
    assert fresh.said == []


def test_the_wheel_and_the_keys_turn_the_slices(fresh):
    images = a_viewer().images
    fresh.mouse("mouseWheel", *on_screen(fresh, 30, 20), deltaX=0, deltaY=100)
    assert near(colour(fresh, 10, 5), gray(images["LDCT"][3, 10, 5]))
    for _ in range(6):
        fresh.mouse("mouseWheel", *on_screen(fresh, 30, 20), deltaX=0, deltaY=-100)
    assert near(colour(fresh, 10, 5), gray(images["LDCT"][0, 10, 5]))
    assert "slice 1 of 5" in fresh.evaluate("document.querySelector('output').textContent")
    fresh.evaluate(f"{CANVAS}.focus()")
    for key in ("ArrowDown", "ArrowDown"):
        fresh.send("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert near(colour(fresh, 10, 5), gray(images["LDCT"][2, 10, 5]))
    choose(fresh, "slice", 4)
    assert near(colour(fresh, 10, 5), gray(images["LDCT"][4, 10, 5]))
    assert fresh.said == []


def test_the_curtain_is_dragged(fresh):
    before = a_viewer().images["LDCT"][2]
    middle = on_screen(fresh, 20, 23.5)
    fresh.drag(middle, on_screen(fresh, 20, 40))
    assert near(colour(fresh, 10, 35), gray(before[10, 35]))
    assert near(colour(fresh, 10, 46), gray(before[10, 46] + 37))
    assert "window 400, level 40" in fresh.evaluate("document.querySelector('output').textContent")
    assert fresh.said == []


def test_windows_are_chosen_and_dragged(fresh):
    before = a_viewer().images["LDCT"][2]
    button = "[...document.querySelectorAll('button')].find((button) => button.textContent === 'bone')"
    fresh.evaluate(f"{button}.click()")
    assert near(colour(fresh, 10, 5), gray(before[10, 5], DISPLAY_WINDOWS_HU["bone"]))
    start = on_screen(fresh, 10, 5)
    fresh.drag(start, (start[0] + 60, start[1] + 40))
    said = fresh.evaluate("document.querySelector('output').textContent")
    width, level = (float(number) for number in re.search(r"window (\S+), level (\S+) HU", said).groups())
    assert width == pytest.approx(1500 * np.exp(60 / 300), abs=1) and level == pytest.approx(
        300 + 40 * 1500 / 400, abs=1
    )
    assert near(colour(fresh, 10, 5), gray(before[10, 5], (level - width / 2, level + width / 2)))


def test_the_difference_has_the_colours_of_all_reports(fresh):
    choose(fresh, "mode", "difference")
    expected = np.rint(255 * difference_colours(np.array(37 / 50)))
    assert np.abs(np.subtract(colour(fresh, 10, 5), expected)).max() <= 4  # 256 colours
    legend = fresh.evaluate("document.querySelector('.legend').innerText")
    assert "denoised <b> less LDCT" in legend and "-50 to 50 HU" in legend


def test_an_overlay_is_mixed_in_where_its_colours_are_opaque(fresh):
    before = a_viewer().images["LDCT"][2]
    choose(fresh, "overlay", 0)
    choose(fresh, "opacity", 0.5)
    value = 10 + 2 * 2 + 0.25 * 40  # 24 of 40: the opaque half
    ramp = np.rint(value / 40 * 255)
    expected = 0.5 * np.array([ramp, 10, 200]) + 0.5 * np.array(gray(before[40, 5]))
    assert np.abs(np.subtract(colour(fresh, 40, 5), expected)).max() <= 2
    assert near(colour(fresh, 10, 5), gray(before[10, 5]))  # 16.5 of 40: the clear half
    fresh.mouse("mouseMoved", *on_screen(fresh, 40, 5))
    said = fresh.evaluate("document.querySelector('output').textContent")
    assert f"LDCT: {before[40, 5]} HU" in said and "noise: 24.0 HU" in said
    assert "0 to 40 HU" in fresh.evaluate("document.querySelector('.legend').innerText")


def test_a_click_jumps_to_a_place_and_rings_it(fresh):
    fresh.evaluate("document.querySelector('.places button').click()")
    assert "slice 5 of 5" in fresh.evaluate("document.querySelector('output').textContent")
    after = a_viewer().images["LDCT"][4] + 37
    extent, corner = (64 / 3, 16), (20.5 - 32 / 3, 30.5 - 8)
    assert near(colour(fresh, 19, 33, extent, corner), gray(after[19, 33]))
    ring = np.subtract(colour(fresh, 20, 33, extent, corner), [255, 210, 63])  # 3 columns beside the place
    assert np.abs(ring).max() < 60


def test_enlarged_with_a_double_click_and_back(fresh):
    before = a_viewer().images["LDCT"][2]
    place = on_screen(fresh, 30, 10)
    for clicks in (1, 2):
        fresh.mouse("mousePressed", *place, clickCount=clicks)
        fresh.mouse("mouseReleased", *place, clickCount=clicks)
    assert near(colour(fresh, 28, 8, (64 / 3, 16), (30.5 - 32 / 3, 10.5 - 8)), gray(before[28, 8]))
    assert fresh.said == []


def test_a_damaged_volume_is_said_and_the_rest_stays(tmp_path):
    path = tmp_path / "report.html"
    page(path, "A scan", [Case("a", viewer=a_viewer()), Case("b", viewer=a_viewer())])
    text = path.read_text()
    path.write_text(re.sub(r'class="volume">.{40}', 'class="volume">', text, count=1))
    with Page(path) as browser:
        browser.wait_for("document.querySelectorAll('figure.viewer')[1].dataset.ready === 'true'")
        browser.wait_for("document.body.innerText.includes('The slices cannot be shown')")
        assert browser.said
