"""`ascon safety`: what it prints and saves."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_fixtures import TINY_SAFETY
from training_fixtures import make_set

from ASCONDenoiseLib.commands import cli
from ASCONTrainingLib.commands.registration import add_commands
from ASCONTrainingLib.evaluation import cylinder, safety, safety_settings


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--doses", 1), "one of them must be below 1"),
        (("--doses", 0.25, 50), "a fraction of the normal dose); got 50"),
        (("--edges-dose", 25), "a fraction of the normal dose); got 25"),
        (("--diameters", 5, 35), "2 to 20 mm can be measured; got 35 mm"),
        (("--diameters", 1), "2 to 20 mm can be measured; got 1 mm"),
        (("--realisations", 0), "One realisation of the noise or more"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(change, sentence, a_model, tmp_path, capsys):
    data = make_set(tmp_path / "set", ("test",), slices=1)
    arguments = ["safety", "--models", a_model, "--data", data, "--out", tmp_path / "safety", *change]
    assert cli.main([str(argument) for argument in arguments], plugins=[add_commands]) == 2
    out, err = capsys.readouterr()
    assert sentence in err and not out and not (tmp_path / "safety").exists()


def test_the_largest_lesion_has_room_in_the_cylinder():
    largest = replace(TINY_SAFETY, diameters_mm=safety_settings.DIAMETERS_MM[1:], cylinder_side=256, views=90)
    (disc,) = cylinder.disc_detectability(lambda volume, _: volume, largest)
    assert disc.count == 3 * 4 and np.isfinite(disc.ldct)
