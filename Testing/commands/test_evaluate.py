"""`ascon evaluate`: the right numbers, with their window and range."""

from __future__ import annotations

import numpy as np
import pytest
from command_fixtures import run_json

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_volume
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
    write_volume(metal, tmp_path / "c.nrrd")
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


def test_evaluate_remarks_on_volumes_that_lie_elsewhere(a_pair, tmp_path, capsys):
    a, b = a_pair
    write_volume(Volume(read_volume(b).voxels, Geometry()), tmp_path / "c.nrrd")
    assert cli.main(["evaluate", "--reference", str(a), "--test", str(tmp_path / "c.nrrd")]) == 0
    assert "lies elsewhere" in capsys.readouterr().err
