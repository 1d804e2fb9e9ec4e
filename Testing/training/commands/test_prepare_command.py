"""`ascon prepare`: pairs become a set, and bad input is told."""

from __future__ import annotations

import numpy as np
from training_fixtures import ascon

from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Geometry, Volume


def test_prepare_pairs(tmp_path, capsys):
    random = np.random.default_rng(0)
    geometry = Geometry((0.7, 0.7, 3.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    for patient in "ABC":
        for dose in ("full", "low"):
            (tmp_path / "src" / dose).mkdir(parents=True, exist_ok=True)
            voxels = random.integers(-200, 300, (2, 32, 32)).astype(np.int16)
            write_image(Volume(voxels, geometry), tmp_path / "src" / dose / f"{patient}.nrrd")
    assert ascon("prepare", "paired", tmp_path / "src", tmp_path / "set") == 0
    assert "train 1 patient with 2 slices" in capsys.readouterr().out
    assert (tmp_path / "set" / "index.json").exists()


def test_prepare_tells_bad_input(tmp_path, capsys):
    assert ascon("prepare", "mayo2016", tmp_path / "nowhere", tmp_path / "set") == 2
    assert ascon("prepare", "simulate", tmp_path / "set") == 2
    assert ascon("prepare", "simulate", tmp_path / "set", "--phantoms", "1", "--dose", "1.5") == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "set").exists()
