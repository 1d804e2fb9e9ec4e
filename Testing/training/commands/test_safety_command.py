"""`ascon safety`: what it prints and saves."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
from evaluation_fixtures import TINY_SAFETY
from training_fixtures import make_set

from ASCONDenoiseLib.commands import cli
from ASCONTrainingLib.commands.registration import add_commands
from ASCONTrainingLib.evaluation import safety, safety_settings


def test_safety_is_one_command(a_model, tmp_path, capsys, monkeypatch):
    """What is asked for wins over --quick."""
    monkeypatch.setattr(safety_settings, "QUICK", replace(TINY_SAFETY, doses=(0.5,), realisations=1))
    asked, measure = [], safety.measure
    monkeypatch.setattr(safety, "measure", lambda *args: asked.append(args[3]) or measure(*args))
    data = make_set(tmp_path / "set", ("train", "test"), slices=2, side=128)
    flat = np.full((2, 128, 128), 60, np.int16) + np.random.default_rng(0).integers(-9, 10, (2, 128, 128))
    for what in ("ndct", "ldct"):
        np.save(data / f"P1.{what}.npy", flat.astype(np.int16))
    out = tmp_path / "safety"
    arguments = ["safety", "--models", a_model, "--data", data, "--out", out, "--quick", "--quiet"]
    arguments += ["--doses", 0.4, "--diameters", 6, 7, "--edges-dose", 0.3]
    assert cli.main([str(argument) for argument in arguments], plugins=[add_commands]) == 0
    assert [(a.doses, a.diameters_mm, a.cylinder_dose) for a in asked] == [((0.4,), (6.0, 7.0), 0.3)]
    printed = capsys.readouterr().out
    assert "lesion of 20 HU, 7 mm, dose 0.4" in printed and (out / "safety.txt").read_text() == printed
    (saved,) = json.loads((out / "safety.json").read_text())
    rows = list(csv.DictReader((out / "lesions.csv").open()))
    assert [float(row["kept"]) for row in rows] == [point["kept"] for point in saved["lesions"]]
    assert all(0 < point["kept"] < 1 for point in saved["lesions"])  # a blur
    assert (out / "lesions.png").stat().st_size > 1000
