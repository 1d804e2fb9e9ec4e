"""`ascon quality` and `ascon denoise --report`: the numbers, the files, and what is refused before any work."""

from __future__ import annotations

import json

import numpy as np
import pytest
from alignment_fixtures import other_order
from command_fixtures import GEOMETRY, run_json
from folder_contents import files_in

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Geometry, Volume


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A body of 50 HU in air with noise, half of it, and little of it; regions; all oblique."""
    folder = tmp_path_factory.mktemp("scans")
    y, x = np.mgrid[-48:48, -50:50] + 0.5
    clean = np.where(np.hypot(x, y) < 45, 50.0, -1000.0)
    noise = np.random.default_rng(0).normal(0, 20, (3, 96, 100))
    labels = np.where(np.hypot(x - 15, y) < 8, 1, np.where(np.hypot(x + 15, y) < 8, 2, 0)) + np.zeros((3, 1, 1))
    volumes = {"ldct": clean + noise, "denoised": clean + noise / 2, "ndct": clean + noise[::-1] / 2, "roi": labels}
    for name, voxels in volumes.items():
        write_image(Volume(np.rint(voxels).astype(np.int16), GEOMETRY), folder / f"{name}.nrrd")
    return folder


def test_the_numbers_as_text_and_as_json(files, capsys):
    assert cli.main(["quality", str(files / "ldct.nrrd"), str(files / "denoised.nrrd")]) == 0
    out, _ = capsys.readouterr()
    row = next(line for line in out.splitlines() if line.startswith("Noise in soft tissue"))
    before, after = map(float, row.split()[-2:])
    assert before == pytest.approx(20, rel=0.05) and after == pytest.approx(10, rel=0.05)
    assert "Was it noise?" in out and "PSNR" not in out

    arguments = ("--reference", files / "ndct.nrrd", "--roi", files / "roi.nrrd")
    code, lines = run_json(capsys, "quality", files / "ldct.nrrd", files / "denoised.nrrd", *arguments)
    assert code == 0
    result = lines[-1]
    assert [line["event"] for line in lines] == ["progress"] * (len(lines) - 1) + ["result"]
    assert result["quality"]["noise_before"]["sd_hu"] == pytest.approx(20, rel=0.05)
    assert result["regions"]["1"]["LDCT"]["mean_hu"] == pytest.approx(50, abs=2)
    assert {row["name"] for row in result["against_reference"]} == {"LDCT", "denoised"}


def test_a_folder_with_everything_also_in_another_order(files, tmp_path, capsys):
    from ASCONDenoiseLib.io.reading import read_volume

    write_image(other_order(read_volume(files / "denoised.nrrd"), (1, 0, 2), (-1, 1, -1)), tmp_path / "turned.nrrd")
    out = tmp_path / "out"
    code, lines = run_json(capsys, "quality", files / "ldct.nrrd", tmp_path / "turned.nrrd", "--out", out)
    assert code == 0 and lines[-1]["report"] == str(out / "report.html")
    results = json.loads((out / "results.json").read_text())
    assert results["facts"]["Denoised"] == "turned.nrrd"
    _, lines = run_json(capsys, "quality", files / "ldct.nrrd", files / "denoised.nrrd")
    assert lines[-1]["quality"] == results["quality"]
    assert {"numbers.csv", "noise-levels.png", "noise-levels.svg", "places.csv"} <= set(files_in(out))


def test_what_cannot_be_compared_is_refused_with_both_names(files, tmp_path, capsys):
    write_image(Volume(np.zeros((3, 96, 100), np.int16), Geometry((0.7, 0.8, 2.5))), tmp_path / "elsewhere.nrrd")
    code, lines = run_json(capsys, "quality", files / "ldct.nrrd", tmp_path / "elsewhere.nrrd")
    assert code == 2
    assert "elsewhere.nrrd cannot be compared with" in lines[-1]["message"] and "ldct.nrrd" in lines[-1]["message"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thoughts.txt").write_text("precious")
    code, lines = run_json(capsys, "quality", files / "ldct.nrrd", files / "denoised.nrrd", "--out", tmp_path / "mine")
    assert code == 2 and "thoughts.txt" in lines[-1]["message"]


def test_denoise_writes_a_report_on_the_way(files, tmp_path, capsys):
    out, page = tmp_path / "out.nrrd", tmp_path / "page.html"
    code, lines = run_json(capsys, "denoise", files / "ldct.nrrd", out, "--model", "shift-30", "--report", page)
    assert code == 0 and lines[-1]["report"] == str(page)
    text = page.read_text(encoding="utf-8")
    assert "ldct.nrrd" in text and lines[-1]["model_sha256"] in text and 'class="viewer"' in text
    code, lines = run_json(capsys, "quality", files / "ldct.nrrd", out, "--out", tmp_path / "quality")
    facts = json.loads((tmp_path / "quality" / "results.json").read_text())["facts"]
    assert code == 0 and facts["Made from"] == "ldct.nrrd" and "strength 1" in facts["Denoised with"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("page.txt", "ends in .html"), ("missing/page.html", "missing"), ("there.html", "exists already")],
)
def test_a_report_that_cannot_be_written_is_refused_before_the_work(files, tmp_path, capsys, name, words):
    (tmp_path / "there.html").write_text("old")
    before = files_in(tmp_path)
    arguments = (files / "ldct.nrrd", tmp_path / "out.nrrd", "--model", "shift-30", "--report", tmp_path / name)
    code, lines = run_json(capsys, "denoise", *arguments)
    assert code == 2 and words in lines[-1]["message"]
    assert files_in(tmp_path) == before
    if name == "there.html":
        assert run_json(capsys, "denoise", *arguments, "--force")[0] == 0
        assert (tmp_path / "there.html").read_text(encoding="utf-8") != "old"
