"""`ascon simulate`: every option reaches the simulation."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_fixtures import run_json

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_volume
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.physics import dose
from ASCONDenoiseLib.physics.settings import DoseSettings


@pytest.fixture
def a_cylinder(tmp_path) -> Path:
    """Water in air, 64 x 64, in the middle of the image."""
    y, x = np.mgrid[-32:32, -32:32] + 0.5
    voxels = np.where(np.hypot(x, y) < 25, 0, -1000).astype(np.int16)
    write_volume(Volume(np.stack([voxels, voxels]), Geometry((2.0, 2.0, 3.0))), tmp_path / "water.nrrd")
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
