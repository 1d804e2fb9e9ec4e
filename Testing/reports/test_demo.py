"""The demonstration: the right volumes, numbers and pictures; a folder that is complete or untouched."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from dicom_fixtures import make_ct_series, oblique_direction
from folder_contents import files_in
from model_fixtures import a_card
from PIL import Image
from torch import nn

from ASCONDenoiseLib.commands.cli import main
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.calibration import CalibrationError
from ASCONDenoiseLib.physics.settings import DoseSettings
from ASCONDenoiseLib.reports import demo, demo_scans
from ASCONDenoiseLib.reports.demo_scans import Scan

SPACING_MM = (2.0, 2.0, 3.0)
A_CARD = a_card(name="A <test> model", architecture="shift", sha256="ab" * 32)


class Shift(nn.Module):
    """Adds 10 HU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 10 / 3000


@pytest.fixture
def a_noisy_scan() -> Scan:
    """Water of 60 HU in air, three slices of 96 x 96, with noise of 10 HU."""
    y, x = np.mgrid[-48:48, -48:48] + 0.5
    clean = np.where(np.hypot(x, y) < 40, 60.0, -1000.0)
    noisy = clean + np.random.default_rng(0).normal(0, 10, (3, 96, 96))
    volume = Volume(np.rint(noisy).astype(np.int16), Geometry(SPACING_MM, (1.0, 2.0, 3.0), oblique_direction()))
    truth_hu = np.repeat(np.rint(clean).astype(np.int16)[None], 3, axis=0)
    return Scan("water", "Water & air", "A cylinder.", volume, ("abdomen", "lung"), truth_hu=truth_hu)


def psnr_db(reference: np.ndarray, test: np.ndarray) -> float:
    """Mean over slices in the paper's units, typed out."""
    a, b = (v.astype(float).clip(-1000, 2000) for v in (reference, test))
    return float(np.mean([10 * np.log10(3000**2 / np.mean((p - q) ** 2)) for p, q in zip(a, b, strict=True)]))


def test_volumes_numbers_pictures_and_page(a_noisy_scan, tmp_path):
    steps = []
    shown = demo.run(tmp_path / "out", Shift(), A_CARD, [a_noisy_scan], progress=lambda *step: steps.append(step))
    assert steps == [(k, 6) for k in range(1, 7)]  # three slices simulated, three denoised

    own = tmp_path / "out" / "water"
    ndct, ldct, denoised = (read_volume(own / f"{name}.nrrd") for name in ("ndct", "ldct", "denoised"))
    np.testing.assert_array_equal(ndct.voxels, a_noisy_scan.ndct.voxels)
    np.testing.assert_allclose(denoised.geometry.direction, oblique_direction(), atol=1e-12)
    assert denoised.geometry.origin_mm == (1.0, 2.0, 3.0)
    soft = a_noisy_scan.truth_hu == 60
    expected = np.where((ldct.voxels <= -1024) | (ldct.voxels >= 2000), ldct.voxels, ldct.voxels + 10)
    np.testing.assert_array_equal(denoised.voxels[soft], expected[soft])
    noise = np.std(ldct.voxels[:, 24:72, 24:72] - 60.0)
    assert noise == pytest.approx(20, rel=0.15)  # a quarter of the dose, twice the noise
    record = json.loads((own / "denoised.nrrd.json").read_text())
    assert record["model"] == "A <test> model" and record["model_sha256"] == "ab" * 32 and record["device"] == "cpu"

    (scan,) = json.loads((tmp_path / "out" / "results.json").read_text())["scans"]
    found = {(c["name"], c["scale"]): c["mean"]["psnr_db"] for c in scan["against_ndct"]}
    assert set(found) == {(name, scale) for name in ("LDCT", "denoised") for scale in ("paper", "abdomen", "lung")}
    assert found["LDCT", "paper"] == pytest.approx(psnr_db(ndct.voxels, ldct.voxels))
    assert found["denoised", "paper"] == pytest.approx(psnr_db(ndct.voxels, denoised.voxels))
    assert [c["name"] for c in scan["against_truth"]] == ["LDCT", "denoised", "NDCT"]
    (tissue,) = (row for row in scan["quality"]["hu_shift"] if row["tissue"] == "soft tissue")
    bias = float(np.mean(ldct.voxels[:, 24:72, 24:72].astype(float) - ndct.voxels[:, 24:72, 24:72]))
    assert tissue["shift_hu"] == pytest.approx(10 + bias, abs=0.5)

    pictures = sorted(own.glob("*.png"))
    assert [path.name for path in pictures] == ["water-abdomen.png", "water-lung.png"]
    assert Image.open(pictures[0]).width > 4 * 384
    page = (tmp_path / "out" / "report.html").read_text()
    assert shown.report == tmp_path / "out" / "report.html"
    assert page.count("data:image/png;base64,") == 2 and not re.search(r"(src|href)=\"(?!data:)", page)
    facts = json.loads(re.search(r'class="facts">(.*?)</script>', page)[1])
    assert [image["name"] for image in facts["images"]] == ["LDCT", "denoised", "NDCT", "phantom"]
    for text in ("A &lt;test&gt; model", "Water &amp; air", "ab" * 32, "at most 6.0 dB", "25 % of the dose"):
        assert text in page
    header, row = shown.summary.rows
    assert header[2] == "PSNR [dB]" and row[0] == "Water & air"
    assert row[2] == f"{found['LDCT', 'paper']:.1f} -> {found['denoised', 'paper']:.1f}"
    assert "[-1000, 2000] HU" in shown.summary.note


def test_what_the_model_is_not_for_comes_last_with_its_warning(a_noisy_scan, tmp_path):
    known = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "soft"}, windows=("abdomen",), truth_hu=None)
    knee = replace(known.ndct, description={"modality": "MR"})
    scans = [replace(known, name="knee", title="A knee", ndct=knee), known]
    shown = demo.run(tmp_path / "out", Shift(), A_CARD, scans)
    assert [scan["name"] for scan in shown.results["scans"]] == ["water", "knee"]
    assert [row[0] for row in shown.summary.rows] == ["", "Water & air", "A knee, outside of what the model is for"]
    page = html.unescape(shown.report.read_text())
    assert page.index("<h2>Water & air") < page.index("<h2>A knee")
    (warning,) = re.findall(r'<p class="notice">(Outside.*?)</p>', page)
    assert warning == "Outside of what the model is for. This is MR, not CT: the result will mean nothing."


def test_the_difference_is_denoised_less_ldct(a_noisy_scan, tmp_path, monkeypatch):
    drawn = []
    draw = demo.side_by_side_png

    def noted(panels, *args, **kwargs):
        drawn.append(panels)
        return draw(panels, *args, **kwargs)

    monkeypatch.setattr(demo, "side_by_side_png", noted)
    known = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "soft"}, windows=("abdomen",))
    demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    ((_, ldct, denoised, difference),) = drawn
    assert difference.title == "Denoised - LDCT" and difference.difference
    np.testing.assert_array_equal(difference.image_hu, denoised.image_hu - ldct.image_hu)
    assert difference.image_hu[48, 48] == 10


def test_large_slices_are_shown_in_detail_where_the_tissue_is():
    image = np.full((300, 360), -1000.0, np.float32)
    image[150:280, 200:330] = 60  # soft tissue
    image[20:90, 20:90] = -800  # lung
    rows, columns = demo._detail(image, "abdomen")
    assert (rows.stop - rows.start, columns.stop - columns.start) == (100, 100)
    assert 145 <= rows.start <= 185 and 195 <= columns.start <= 235
    rows, columns = demo._detail(image, "lung")
    assert 0 <= rows.start <= 25 and 0 <= columns.start <= 25


def test_a_scan_without_soft_tissue_gets_stated_photons(a_noisy_scan, tmp_path):
    """Air and bone alone: nothing to calibrate on, and the page says so."""
    voxels = a_noisy_scan.ndct.voxels + np.int16(600)
    scan = replace(a_noisy_scan, ndct=replace(a_noisy_scan.ndct, voxels=voxels), truth_hu=None)
    with pytest.raises(CalibrationError):
        dose.simulate(voxels, SPACING_MM)
    shown = demo.run(tmp_path / "out", Shift(), A_CARD, [scan])
    (found,) = shown.results["scans"]
    assert found["simulation"]["photons"] == [400_000] * 3
    assert "400,000 photons per ray" in found["notes"][0] and found["notes"][0] in html.unescape(
        shown.report.read_text()
    )
    assert found["against_truth"] == []


def test_settings_that_are_given_are_not_guessed(a_noisy_scan, tmp_path):
    scan = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "sharp"})
    shown = demo.run(tmp_path / "out", Shift(), A_CARD, [scan], dose=0.5)
    assert shown.results["scans"][0]["simulation"] == {
        "dose": 0.5,
        "geometry": "fan",
        "photons": [300_000] * 3,
        "kernel": {"cutoff_per_mm": 0.8, "order": 3.0},
    }
    expected = dose.simulate(scan.ndct.voxels, SPACING_MM, DoseSettings(dose=0.5, photons=3e5, kernel="sharp", seed=1))
    np.testing.assert_array_equal(read_volume(tmp_path / "out/water/ldct.nrrd").voxels, expected.voxels)
    with pytest.raises(InputError):
        demo.run(tmp_path / "other", Shift(), A_CARD, [scan], dose=1.5)
    assert not (tmp_path / "other").exists()


# ---- the folder


def test_a_second_demonstration_replaces_the_first(a_noisy_scan, tmp_path):
    known = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "soft"}, windows=("abdomen",))
    demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    first = files_in(tmp_path)
    demo.run(tmp_path / "out", Shift(), A_CARD, [replace(known, name="other")])
    assert not (tmp_path / "out" / "water").exists()
    assert sorted(files_in(tmp_path)) == sorted(name.replace("water", "other") for name in first)


def test_what_no_demonstration_wrote_is_never_replaced(a_noisy_scan, tmp_path):
    known = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "soft"}, windows=("abdomen",))
    demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    (tmp_path / "out" / "thoughts.txt").write_text("precious")
    before = files_in(tmp_path)
    with pytest.raises(InputError, match="thoughts.txt"):
        demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("when", ["page", "write_results", "side_by_side_png"])
def test_an_interrupted_demonstration_leaves_the_old_one(a_noisy_scan, tmp_path, monkeypatch, when):
    known = replace(a_noisy_scan, settings={"photons": 3e5, "kernel": "soft"}, windows=("abdomen",))
    demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    before = files_in(tmp_path)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, when, interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run(tmp_path / "out", Shift(), A_CARD, [known])
    assert files_in(tmp_path) == before


# ---- the scans


def test_the_scans_that_come_with_it(monkeypatch):
    """Two real slices without a download, three phantoms with the noise of a routine scan (small here)."""
    monkeypatch.setattr(demo_scans, "PHANTOM_SHAPE", (1, 128, 128))
    monkeypatch.setattr(demo_scans, "PHANTOM_SPACING_MM", (2.96, 2.96, 3.0))
    *phantoms, spine, head = demo_scans.default_scans()
    assert head.ndct.voxels.shape == (1, 512, 512) and spine.ndct.voxels.shape == (1, 128, 128)
    assert head.ndct.voxels.dtype == spine.ndct.voxels.dtype == np.int16
    assert head.ndct.geometry.spacing_mm == (0.431, 0.431, 5.0)
    brain = head.ndct.voxels[0, 350:375, 195:220]
    assert 25 < brain.mean() < 50 and brain.std() < 8  # cerebellum
    assert [scan.name for scan in phantoms] == ["abdomen-phantom", "chest-phantom", "head-phantom"]
    for scan in phantoms:
        noise = (scan.ndct.voxels - scan.truth_hu)[np.abs(scan.truth_hu - 60) < 60]
        assert abs(noise.mean()) < 0.5 and 3 < noise.std() < 20
    assert phantoms[1].windows == ("abdomen", "lung")
    assert phantoms[2].ndct.geometry.spacing_mm[0] == pytest.approx(2.96 / 1.5)


def test_ones_own_scan_is_cut_to_its_middle_and_stays_where_it_lies(tmp_path):
    make_ct_series(tmp_path / "ct", shape=(21, 16, 12), direction=oblique_direction(), series_uid="1.2.3")
    whole = read_volume(tmp_path / "ct")
    scan = demo_scans.own_scan(tmp_path / "ct", "1.2.3")
    np.testing.assert_array_equal(scan.ndct.voxels, whole.voxels[6:14])
    normal = np.reshape(oblique_direction(), (3, 3))[:, 2]
    expected = np.asarray(whole.geometry.origin_mm) + 6 * 2.5 * normal
    np.testing.assert_allclose(scan.ndct.geometry.origin_mm, expected, atol=1e-4)
    assert "Slices 7 to 14 of 21" in scan.text and scan.title == "ct"


def test_the_command_shows_the_table_and_where_to_look(a_noisy_scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASCON_MODELS", str(tmp_path / "models"))
    monkeypatch.setitem(ARCHITECTURES, "shift", Shift)
    save_model(Shift(), A_CARD, tmp_path / "models" / "shift.safetensors")
    write_image(a_noisy_scan.ndct, tmp_path / "water.nrrd")
    command = ["demo", "--model", "shift", "--input", str(tmp_path / "water.nrrd"), "--out", str(tmp_path / "out")]
    assert main([*command, "--dose", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "At 50 % of the dose" in out and "PSNR [dB]" in out and "data range 1" in out
    assert f"Report    {tmp_path / 'out' / 'report.html'}" in out
    assert (tmp_path / "out" / "scan" / "denoised.nrrd").exists()
    assert main([*command, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["progress"] * 6 + ["result"]
    assert lines[-1]["scans"][0]["simulation"]["dose"] == 0.25
