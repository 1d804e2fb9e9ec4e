"""`ascon simulate`: every option reaches the simulation."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import run_json
from dose_fixtures import PIXEL_MM, water

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.settings import DoseSettings


@pytest.fixture
def a_cylinder(tmp_path) -> Path:
    """Water in air, 64 x 64, in the middle of the image."""
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    voxels = np.where(np.hypot(x, y) < 25, 0, -1000).astype(np.int16)
    write_image(Volume(np.stack([voxels, voxels]), Geometry((2.0, 2.0, 3.0))), tmp_path / "water.nrrd")
    return tmp_path / "water.nrrd"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ("--kernel soft --photons 2e5 --seed 3", {"kernel": "soft", "photons": 2e5, "seed": 3}),
        (
            "--kernel sharp --photons 1e6 --geometry parallel --electronic-noise 20 --bowtie-edge 0.5 "
            "--current-modulation 0.5",
            {
                "kernel": "sharp",
                "photons": 1e6,
                "geometry": "parallel",
                "electronic_noise": 20.0,
                "bowtie_edge": 0.5,
                "current_modulation": 0.5,
            },
        ),
    ],
)
def test_simulate_hands_every_option_on(a_cylinder, tmp_path, capsys, options, settings):
    code, lines = run_json(capsys, "simulate", a_cylinder, tmp_path / "low.nrrd", "--dose", "0.1", *options.split())
    assert code == 0
    assert lines[0] == {"event": "progress", "done": 2, "total": 2}
    volume = read_volume(a_cylinder)
    expected = dose.simulate(volume.voxels, (2.0, 2.0, 3.0), DoseSettings(dose=0.1, **settings)).voxels
    low = read_volume(tmp_path / "low.nrrd")
    np.testing.assert_array_equal(low.voxels, expected)
    assert (low.voxels != volume.voxels).mean() > 0.5
    assert low.geometry == volume.geometry
    record = json.loads((tmp_path / "low.nrrd.json").read_text())
    assert record["settings"] == json.loads(json.dumps(asdict(DoseSettings(dose=0.1, **settings))))
    assert record["photons"] == [settings["photons"]] * 2


def test_simulate_at_the_whole_dose_changes_nothing(a_cylinder, tmp_path, capsys):
    command = ["simulate", str(a_cylinder), str(tmp_path / "same.nrrd"), "--dose", "1"]
    assert cli.main([*command, "--photons", "1e6", "--kernel", "soft"]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "same.nrrd").voxels, read_volume(a_cylinder).voxels)
    assert "1,000,000 photons per ray at normal dose (as given)" in re.sub(r"[\d,]+ to ", "", capsys.readouterr().out)


def test_what_no_scanner_does_is_said_and_recorded(tmp_path, capsys):
    """A scan with next to no noise: the photons that it stands for are not believed in silence."""
    clean = water(1)[:, 50:130, 50:130]  # water to the borders
    ndct = dose.scan(clean, PIXEL_MM, DoseSettings(photons=1e9, kernel="standard", views=360))
    write_image(Volume(ndct, Geometry(PIXEL_MM)), tmp_path / "calm.nrrd")
    assert cli.main(["simulate", str(tmp_path / "calm.nrrd"), str(tmp_path / "low.nrrd"), "--dose", "0.25"]) == 0
    said = "photons per ray, and scans of patients have 5,000 to 10,000,000"
    assert said in " ".join(capsys.readouterr().err.split())
    assert said in json.loads((tmp_path / "low.nrrd.json").read_text())["notes"][0]


@pytest.mark.parametrize(
    ("pixel_mm", "options", "words"),
    [
        ((4.07, 4.07), "--dose 0.25", ""),  # PET/CT: too coarse for a spectrum of its noise
        ((1.5, 3.5), "--dose 0.25 --photons 4e5", ""),
        ((100.0, 100.0), "--dose 0.25 --photons 4e5 --geometry parallel", "pixels are 100 x 100 mm"),
        ((0.001, 0.001), "--dose 0.25 --photons 4e5", "pixels are 0.001 x 0.001 mm"),
        ((15.0, 15.0), "--dose 0.25 --photons 4e5", "reaches 1019 mm"),
        ((19.0, 19.0), "--dose 0.25 --photons 4e5 --geometry parallel", "Check the size of its pixels"),
        ((1.5, 1.5), "--dose nan", "a number is needed"),
        ((1.5, 1.5), "--dose 0 --photons 4e5", "must be above 0"),
        ((1.5, 1.5), "--dose 1e-300 --photons 4e5", "leaves nothing to see"),
        ((1.5, 1.5), "--dose 0.25 --photons 1e300", "No scanner has 1e+300 photons"),
        ((1.5, 1.5), "--dose 0.25 --photons 1e-300", "No scanner has 1e-300 photons"),
        ((1.5, 1.5), "--dose 0.25 --photons 4e5 --electronic-noise 1e300", "electronic noise"),
        ((1.5, 1.5), "--dose 0.25 --photons 4e5 --bowtie-edge 1e-300", "bow-tie"),
        ((1.5, 1.5), "--dose 0.25 --seed 99999999999999999999", "63 bits"),
    ],
)
def test_simulate_of_any_pixels_and_numbers_works_or_says_why_not(tmp_path, capsys, pixel_mm, options, words):
    rows, columns = np.mgrid[:96, :96] - 47.5
    voxels = np.where(np.hypot(rows, columns) < 40, 40, -1000) + np.random.default_rng(0).normal(0, 20, (1, 96, 96))
    write_image(Volume(voxels.astype(np.int16), Geometry((*pixel_mm, 3.0))), tmp_path / "a.nrrd")
    assert cli.main(["simulate", str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd"), *options.split()]) == 2 * bool(
        words
    )
    assert words in capsys.readouterr().err and (tmp_path / "b.nrrd").exists() == (not words)


def test_simulate_of_values_beyond_ct_is_refused(tmp_path, capsys):
    huge = np.random.default_rng(0).normal(0, 1e37, (1, 24, 24)).astype(np.float32)
    write_image(Volume(huge, Geometry((1.5, 1.5, 3.0))), tmp_path / "a.nrrd")
    command = ["simulate", str(tmp_path / "a.nrrd"), str(tmp_path / "b.nrrd"), "--dose", "0.25", "--photons", "4e5"]
    assert cli.main(command) in (0, 2)
    assert "Unexpected" not in capsys.readouterr().err
