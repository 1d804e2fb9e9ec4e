"""`ascon evaluate`: the right numbers, with their window and range."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from alignment_fixtures import other_order
from command_fixtures import GEOMETRY, run_json

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume


def test_evaluate_prints_window_range_and_the_right_numbers(a_pair, capsys):
    a, b = a_pair
    assert cli.main(["evaluate", "--reference", str(a), "--test", str(b), "--test", str(a)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    paper, abdomen = out.split("\n\n")
    assert "window [-1000, 2000] HU, data range 1" in paper
    assert "window [-160, 240] HU, data range 400 HU" in abdomen
    row = next(line for line in paper.splitlines() if line.startswith("b.nrrd")).split()
    assert row[1:4] == ["40.00", "±", "0.00"]  # 20 log10(3000 / 30)
    assert row[-3:] == ["30.00", "±", "0.00"]
    row = next(line for line in abdomen.splitlines() if line.startswith("b.nrrd")).split()
    assert row[1] == "22.50"  # 20 log10(400 / 30)
    assert "inf" in next(line for line in paper.splitlines() if line.startswith("a.nrrd"))


def test_evaluate_in_json_and_another_window(a_pair, capsys):
    a, b = a_pair
    code, lines = run_json(capsys, "evaluate", "--reference", a, "--test", b, "--window", "bone")
    assert code == 0
    assert [line["done"] for line in lines[:-1]] == [1, 2]
    paper, bone = lines[-1]["comparisons"]
    assert (paper["scale"], bone["scale"], bone["window_hu"]) == ("paper", "bone", [-450, 1050])
    assert bone["mean"]["psnr_db"] == pytest.approx(20 * np.log10(1500 / 30))
    assert [row["rmse_hu"] for row in paper["slices"]] == pytest.approx([30, 30, 30])


def test_evaluate_per_slice_and_unclipped(a_pair, tmp_path, capsys):
    a, _ = a_pair
    metal = read_volume(a)
    metal.voxels[1, 0, 0] = 30000
    write_image(metal, tmp_path / "c.nrrd")
    command = ["evaluate", "--reference", str(a), "--test", str(tmp_path / "c.nrrd"), "--per-slice"]
    rmse = {}
    for option in ("clipped", "--unclipped"):
        assert cli.main([*command, option] if option.startswith("-") else command) == 0
        paper = capsys.readouterr().out.split("\n\n")[0]
        rows = [line for line in paper.splitlines() if line.startswith("c.nrrd, slice")]
        assert len(rows) == 3
        rmse[option] = float(rows[1].split()[-1])
    original = float(read_volume(a).voxels[1, 0, 0])
    assert rmse["clipped"] == pytest.approx((2000 - original) / 16, abs=0.01)  # one of 256 pixels
    assert rmse["--unclipped"] == pytest.approx((30000 - original) / 16, abs=0.01)


def test_evaluate_refuses_volumes_that_lie_elsewhere_unless_told_to_go_by_their_order(a_pair, tmp_path, capsys):
    a, b = a_pair
    for name, geometry in (("c.nrrd", Geometry()), ("d.nrrd", replace(GEOMETRY, origin_mm=(-99.0, -90.5, 30.25)))):
        write_image(Volume(read_volume(b).voxels, geometry), tmp_path / name)
    command = ["evaluate", "--reference", str(a), "--test", str(b), "--test"]
    assert cli.main([*command, str(tmp_path / "c.nrrd")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "turned against each other by 46 degrees" in err and "--by-order" in err
    assert cli.main([*command, str(tmp_path / "d.nrrd")]) == 2
    assert "are up to 1 mm apart" in capsys.readouterr().err
    code, lines = run_json_with_remarks(capsys, *command, tmp_path / "d.nrrd", "--by-order")
    assert code == 0 and "1 mm apart. Voxels are compared by their order." in lines[-1]["warnings"][0]
    assert lines[-1]["comparisons"][0]["mean"] == lines[-1]["comparisons"][2]["mean"]


def run_json_with_remarks(capsys, *arguments):
    code = cli.main([*map(str, arguments), "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["c.nrrd", "c.nii.gz", "c.mha"])
def test_evaluate_finds_the_same_numbers_whatever_the_order_of_the_voxels(a_pair, tmp_path, capsys, name):
    """The same scan with its rows from back to front, and its slices from left to right."""
    a, b = a_pair
    test = read_volume(b)
    test.voxels[0, 0, 0] += 100
    write_image(test, tmp_path / "b2.nrrd")
    write_image(other_order(test, (1, 2, 0), (-1, 1, -1)), tmp_path / name)
    code, lines = run_json(
        capsys, "evaluate", "--reference", a, "--test", tmp_path / "b2.nrrd", "--test", tmp_path / name
    )
    assert code == 0
    first, second = ({**c, "name": ""} for c in lines[-1]["comparisons"][::2])
    assert first == second


def test_evaluate_remarks_on_an_anatomy_that_is_shifted(tmp_path, capsys):
    rows, columns = np.mgrid[:96, :96] - 48
    body = np.where(np.hypot(rows, columns) < 30, 40, -1000) + np.where(np.hypot(rows - 9, columns + 8) < 7, 400, 0)
    noise = np.random.default_rng(0).normal(0, 30, (4, 96, 96))
    for name, image in (("a", body), ("b", np.roll(body, 7, axis=1)), ("c", body)):
        noise = noise[::-1]
        write_image(Volume((image + noise).astype(np.int16), Geometry()), tmp_path / f"{name}.nrrd")
    command = ["evaluate", "--reference", tmp_path / "a.nrrd", "--test", tmp_path / "c.nrrd", "--test"]
    code, lines = run_json_with_remarks(capsys, *command, tmp_path / "b.nrrd")
    assert code == 0
    (warning,) = lines[-1]["warnings"]
    assert "b.nrrd differ in place" in warning and "7 columns" in warning


def test_evaluate_reads_all_volumes_before_it_compares(a_pair, tmp_path, capsys):
    code, lines = run_json(
        capsys, "evaluate", "--reference", a_pair[0], "--test", a_pair[1], "--test", tmp_path / "no.nrrd"
    )
    assert code == 2 and [line["event"] for line in lines] == ["error"]
