"""`ascon compare`: the table as it is printed and saved, names of rows, and what is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from evaluation_fixtures import Smooth, a_card_of
from training_fixtures import make_set

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.models.files import save_model
from ASCONTrainingLib.commands.model_arguments import named_models
from ASCONTrainingLib.commands.registration import add_commands


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    """Two patients train, three test."""
    return make_set(tmp_path_factory.mktemp("compare") / "set", ("train", "validation", "test", "test", "test"))


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments], plugins=[add_commands])


def test_compare_prints_and_saves_the_table(a_set, a_model, tmp_path, capsys):
    out = tmp_path / "table"
    arguments = ("compare", "--models", a_model, a_model, "--data", a_set, "--out", out, "--phantoms", 0)
    assert run(*arguments, "--no-filters", "--not-run", "WGAN-VGG=no weights file", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "WGAN-VGG: not run: no weights file" in printed and "smooth (2)" in printed
    assert (out / "comparison.txt").read_text() == printed
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert [row["name"] for row in rows] == ["LDCT", "smooth", "smooth (2)"]
    saved = json.loads((out / "comparison.json").read_text())
    slices = list(csv.DictReader((out / "slices.csv").open()))
    assert len(slices) == 3 * 12 and saved["patients"] == 3 and saved["not_run"] == {"WGAN-VGG": "no weights file"}
    mean = np.mean([float(row["psnr_db"]) for row in slices if row["method"] == "smooth"])
    assert float(rows[1]["psnr_db_mean"]) == pytest.approx(mean) == pytest.approx(saved["methods"][1]["psnr_db"][0])
    assert f"{mean:.2f} ±" in printed
    assert {path.name for path in out.glob("*.png")} == {f"P{n}-1.png" for n in (2, 3, 4)}
    assert run(*arguments) == 2 and "is not empty" in capsys.readouterr().err


def test_a_row_for_each_strength(a_set, a_model, tmp_path, capsys):
    out = tmp_path / "table"
    arguments = ("compare", "--models", a_model, "--strengths", 0, 100, "--data", a_set, "--out", out)
    assert run(*arguments, "--phantoms", 0, "--no-filters", "--every", 4, "--quiet") == 0
    saved = json.loads((out / "comparison.json").read_text())["methods"]
    assert [method["name"] for method in saved] == ["LDCT", "smooth, 0 %", "smooth"]
    assert saved[1]["psnr_db"] == saved[0]["psnr_db"] != saved[2]["psnr_db"]
    assert saved[1]["seconds_per_slice"] > 0 and saved[2]["seconds_per_slice"] is None  # it ran once
    lines = (out / "comparison.txt").read_text().splitlines()
    assert next(line for line in lines if line.startswith("smooth ")).split()[-1] == "-"
    assert run(*arguments[:3], "--strengths", 120, *arguments[6:8], "--out", tmp_path / "other") == 2
    assert "Strength is a number from 0 to 1" in capsys.readouterr().err


def named(path: Path, name: str) -> Path:
    """A model file whose card has this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(Smooth(0.8), a_card_of(name), path)
    return path


def names(*texts: object) -> list[str]:
    """Of the rows that `--models` with these texts gives."""
    return list(named_models([str(text) for text in texts]))


def test_rows_have_labels_where_they_are_given(a_set, a_model, tmp_path):
    out = tmp_path / "table"
    arguments = ("--data", a_set, "--out", out, "--phantoms", 0, "--no-filters", "--quiet")
    assert run("compare", "--models", f"ESAU-Net={a_model}", a_model, *arguments) == 0
    rows = list(csv.DictReader((out / "comparison.csv").open()))
    assert [(row["name"], row["note"]) for row in rows[1:]] == [("ESAU-Net", "smooth"), ("smooth", "smooth")]
    assert "ESAU-Net against the others" in (out / "comparison.txt").read_text()


def test_a_name_that_is_taken_gets_a_number(a_model, tmp_path):
    taken = [named(tmp_path / f"{n}.safetensors", name) for n, name in enumerate(("LDCT", "NDCT", "total variation"))]
    assert names(*taken, taken[0]) == ["LDCT (2)", "NDCT (2)", "total variation (2)", "LDCT (3)"]
    assert names(a_model, f"smooth={a_model}", a_model) == ["smooth (2)", "smooth", "smooth (3)"]


def test_an_equals_sign_in_a_files_name_is_no_label(a_model, tmp_path, monkeypatch):
    odd = named(tmp_path / "lr=1" / "b=2.safetensors", "odd")
    assert names(odd, f"w/o MAC-Net={odd}") == ["odd", "w/o MAC-Net"]
    monkeypatch.chdir(tmp_path)
    assert names("lr=1/b=2.safetensors") == ["odd"]
    monkeypatch.setenv("ASCON_MODELS", str(tmp_path / "lr=1"))
    assert names("b=2", "label=b=2") == ["odd", "label"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (("A=", "A="), 'the label "A" to two models'),
        (("LDCT=",), 'the label "LDCT" to a model, but another row'),
        (("NDCT=",), 'the label "NDCT" to a model'),
        (("A=", "non-local means="), 'the label "non-local means" to a model'),
        (("=",), "--models takes MODEL or LABEL=MODEL"),
        (("no such ",), "There is no model file or model named"),
    ],
)
def test_a_label_that_cannot_be_is_refused(labels, sentence, a_set, a_model, tmp_path, capsys):
    arguments = ("--data", a_set, "--out", tmp_path / "new")
    assert run("compare", "--models", *(f"{label}{a_model}" for label in labels), *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("--not-run", "WGAN-VGG"), "--not-run takes NAME=REASON"),
        (("--every", "0"), "--every takes 1 or more"),
        (("--phantom-side", "0"), "have 64 pixels a side or more; got 0"),
        (("--device", "abacus"), "There is no device"),
        (("--data", "nowhere"), "holds no index.json"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(change, sentence, a_set, a_model, tmp_path, capsys):
    arguments = ["compare", "--models", a_model, "--data", a_set, "--out", tmp_path / "new", *change]
    assert run(*arguments) != 0
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_method_of_somebody_elses_stands_in_the_table(a_set, a_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_filter.py").write_text(
        "from scipy.ndimage import gaussian_filter\n"
        "def run(hu, spacing_mm):\n"
        "    return gaussian_filter(hu.astype(float), (0, 0.6 / spacing_mm[1], 0.6 / spacing_mm[0]))\n"
    )
    (tmp_path / "copy.py").write_text("import shutil, sys\nshutil.copy(*sys.argv[1:])\n")
    copies = f"Copy={sys.executable} copy.py {{in}} {{out}}"
    arguments = ("--data", a_set, "--out", tmp_path / "table", "--phantoms", 0, "--no-filters", "--quiet")
    assert run("compare", "--models", "their_filter:run", copies, f"Ours={a_model}", *arguments) == 0
    printed = capsys.readouterr().out
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "table" / "comparison.csv").open())}
    assert list(rows) == ["LDCT", "their_filter:run", "Copy", "Ours"]
    assert "Nothing tells what Copy was made with" in printed
    for column in ("psnr_db_mean", "soft_tissue_psnr_db_mean", "soft_tissue_ssim_mean"):
        assert float(rows["Copy"][column]) == float(rows["LDCT"][column])
        assert float(rows["their_filter:run"][column]) > float(rows["LDCT"][column])
