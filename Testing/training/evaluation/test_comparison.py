"""The comparison: its numbers against other ways to get them, its honesty about patients, and its command."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_fixtures import a_card
from torch import nn
from training_fixtures import make_set

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.imaging import image_quality, metrics
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import save_model
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONDenoiseLib.physics import phantoms
from ASCONTrainingLib.commands import evaluation as judging
from ASCONTrainingLib.evaluation import comparison, filters
from ASCONTrainingLib.evaluation.comparison import ComparisonError, Measured, Settings, SliceRow

FEW = Settings(classical=False, phantoms=0)


class Smooth(nn.Module):
    """The image blended with its 3x3 mean: a denoiser whose output is known."""

    def __init__(self, share: float = 1.0):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(float(share)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
        return x + self.share * (mean - x)


def a_card_of(name: str, **scans: list[str]) -> ModelCard:
    """`scans`: split -> fingerprints."""
    return a_card(name=name, architecture="smooth", metrics={"training": {"scans": scans}} if scans else {})


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    """Two patients train, three test."""
    return make_set(tmp_path_factory.mktemp("compare") / "set", ("train", "validation", "test", "test", "test"))


def networks(**shares: float) -> dict[str, tuple[nn.Module, ModelCard]]:
    return {name: (Smooth(share).eval(), a_card_of(name, train=["0" * 16])) for name, share in shares.items()}


def fingerprints(folder: Path) -> dict[str, str]:
    """Volume of `make_set` -> its fingerprint, as datasets.scan_fingerprints describes it."""
    middles = {name: np.load(folder / f"{name}.ndct.npy")[2].tobytes() for name in ("P0", "P1", "P2", "P3", "P4")}
    return {name: hashlib.sha256(b"64x64:" + middle).hexdigest()[:16] for name, middle in middles.items()}


# The numbers


def test_the_numbers_are_those_of_the_measures_on_the_same_slices(a_set):
    found = comparison.compare(a_set, networks(full=1.0, half=0.5), FEW)
    assert [method.name for method in found.methods] == ["LDCT", "full", "half"] and found.patients == 3
    for method in found.methods:
        share = {"LDCT": 0, "full": 1.0, "half": 0.5}[method.name]
        rows, noise = [], []
        for patient in ("P2", "P3", "P4"):
            ndct, ldct = (np.load(a_set / f"{patient}.{what}.npy") for what in ("ndct", "ldct"))
            padded = np.pad(ldct.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
            mean = sum(padded[:, a : a + 64, b : b + 64] for a in range(3) for b in range(3)) / 9
            output = np.rint(ldct + share * (mean - ldct)).astype(np.int16)
            rows += metrics.compare(ndct, output).rows
            centres = image_quality.flat_soft_tissue_windows(ndct, (0.7, 0.7, 3.0))
            before, after = (image_quality.noise_hu(v, (0.7, 0.7, 3.0), centres=centres) for v in (ldct, output))
            noise += [100 * (1 - after.sd_hu / before.sd_hu)] if before else []
        for name in metrics.METRICS:
            values = np.array([getattr(row, name) for row in rows])
            mean, sd = method.mean_sd(name)
            assert mean == pytest.approx(values.mean(), rel=1e-4)
            assert sd == pytest.approx(values.std(ddof=1), rel=0.02)  # ties are rounded either way
        if noise:
            assert method.noise_reduction_percent() == pytest.approx(np.mean(noise), abs=0.1)
    psnr = {m.name: m.mean_sd("psnr_db")[0] for m in found.methods}
    assert psnr["full"] > psnr["half"] > psnr["LDCT"]


def test_classical_filters_stand_in_the_same_table_at_their_best(a_set):
    seen = []
    settings = replace(FEW, classical=True, every=2)
    found = comparison.compare(a_set, networks(full=1.0), settings, see=lambda *args: seen.append(args))
    names = [method.name for method in found.methods]
    assert names == ["LDCT", "full", *filters.candidates(40.0)]
    for method in found.methods[2:]:
        assert method.kind == "filter" and len(method.settings) == 3 and method.seconds > 0
        assert method.mean_sd("psnr_db")[0] > found.methods[0].mean_sd("psnr_db")[0]
    assert len(found.methods[0].rows) == 6  # every second slice of 3 x 4
    volume, images, spacing = seen[0]
    assert (volume, spacing) == ("P2", (0.7, 0.7, 3.0)) and list(images) == ["NDCT", *names]
    assert np.array_equal(images["LDCT"], np.load(a_set / "P2.ldct.npy")[2])  # of slices 0 and 2 the second


def test_hu_shifts_of_volumes_are_weighed_by_their_voxels():
    method = Measured("m", "model", shifts={"fat": [(100, 1.0), (300, 3.0)], "bone": [(10, -2.0)]})
    assert method.shift_hu() == {"fat": 2.5, "bone": -2.0}


def test_the_cnr_is_that_of_lesions_against_the_liver_around_them():
    phantom = phantoms.abdomen(comparison.PHANTOM_SEED, (16, 128, 128), (360 / 128, 360 / 128, 3.0), lesions=3)
    assert phantom.lesions
    for lesion in phantom.lesions:
        s, inside, around = comparison._lesion_masks(phantom, lesion)
        image = phantom.voxels_hu[s]
        if inside.sum() > 1 and around.sum() > 1:
            assert image[inside].mean() - image[around].mean() == pytest.approx(lesion.contrast_hu, abs=8)
            assert not (inside & around).any()


def test_less_noise_is_a_higher_cnr(a_set):
    settings = replace(FEW, phantoms=1, phantom_side=128)
    found = comparison.compare(a_set, networks(full=1.0), settings)
    ldct, full = found.methods
    assert len(ldct.cnr) == len(full.cnr) >= 1
    assert np.mean(full.cnr) > 1.3 * np.mean(ldct.cnr)


def test_an_image_without_error_does_not_make_the_mean_infinite():
    rows = [SliceRow("P", "P", i, psnr, 1.0, 0.0, 0.0) for i, psnr in enumerate((40.0, math.inf, 42.0))]
    method = Measured("m", "model", rows=rows)
    assert method.mean_sd("psnr_db") == pytest.approx((41.0, math.sqrt(2)))
    assert method.patient_means("psnr_db") == {"P": pytest.approx(41.0)}  # which the tests are on
    assert [row["psnr_db"] for row in method.to_dict()["slices"]] == [40.0, None, 42.0]  # JSON has no infinity


# The tests


def methods_of(**values: dict[str, list[float]]) -> list[Measured]:
    """Name -> patient -> PSNR of its slices."""
    found = []
    for name, patients in values.items():
        rows = [SliceRow(p, p, i, db, 0.9, 0.01, 30.0) for p, of_one in patients.items() for i, db in enumerate(of_one)]
        found.append(Measured(name, "none" if name == "LDCT" else "model", rows=rows))
    return found


def test_the_signed_rank_test_is_on_patients_by_its_definition():
    """All 2^n signs of the ranks, counted; slices beyond a patient's mean make no difference."""
    differences = [0.5, -0.2, 0.9, 0.3, 0.8, 0.1, 0.7]
    first = {f"P{i}": [40 + d - 1, 40 + d + 1] * 5 for i, d in enumerate(differences)}
    other = {f"P{i}": [40.0] for i in range(7)}
    (found,) = comparison.paired_tests(methods_of(LDCT=other, first=first, other=other), "first")
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    rank_sum = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    sums = np.array([sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=7)])
    p = min(1.0, 2 * min(np.mean(sums >= rank_sum), np.mean(sums <= rank_sum)))
    assert found.p == pytest.approx(p) and found.p_holm == pytest.approx(p)
    assert (found.other, found.patients, found.better) == ("other", 7, 6)
    assert found.difference_db == pytest.approx(np.mean(differences)) and found.smallest_p == 2 / 128


def test_holm_by_hand():
    found = comparison.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan, "e": 0.5})
    assert math.isnan(found.pop("d"))
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "e": 0.5})
    assert comparison.holm({"a": 0.6, "b": 0.7}) == pytest.approx({"a": 1.0, "b": 1.0})


def test_too_few_patients_for_a_test_are_said(a_set, tmp_path):
    found = comparison.compare(a_set, networks(full=1.0, half=0.5), FEW)
    assert found.tests[0].smallest_p == 0.25
    text = comparison.text(found)
    assert "3 patients give no p below 0.25" in text and "half" in text and "3 of 3" in text
    one = methods_of(first={"P0": [40.0]}, other={"P0": [39.0]})
    (alone,) = comparison.paired_tests(one, "first")
    assert math.isnan(alone.p) and math.isnan(alone.smallest_p)


@pytest.mark.parametrize("name", ["LDCT", "NDCT", "median"])
def test_a_model_named_like_another_row_is_refused(a_set, name):
    with pytest.raises(ComparisonError, match=rf"named like other rows of the table \({name}\)"):
        comparison.compare(a_set, networks(**{name: 1.0}), FEW)


# What a model has seen


def test_scans_that_a_model_was_trained_on_are_refused(a_set):
    seen = {"first": (Smooth(), a_card_of("first", train=[fingerprints(a_set)["P3"], "9" * 16]))}
    with pytest.raises(ComparisonError, match=r"model first was trained on 1 of these 3 scans \(P3\)\."):
        comparison.compare(a_set, seen, FEW)
    found = comparison.compare(a_set, seen, replace(FEW, allow_seen=True))
    assert "too good" in found.warnings[0] and "too good" in comparison.text(found)


def test_scans_are_known_by_their_voxels_under_any_name(a_set, tmp_path):
    other = make_set(tmp_path / "renamed", ("test",))
    for what in ("ndct", "ldct", "background"):
        np.save(other / f"P0.{what}.npy", np.load(a_set / f"P3.{what}.npy"))
    seen = {"first": (Smooth(), a_card_of("first", train=[fingerprints(a_set)["P3"]]))}
    with pytest.raises(ComparisonError, match=r"was trained on 1 of these 1 scans \(P0\)"):
        comparison.compare(other, seen, FEW)
    for what in ("ndct", "ldct"):
        np.save(other / f"P0.{what}.npy", np.load(a_set / f"P2.{what}.npy"))
    assert comparison.compare(other, seen, FEW).warnings == ()  # another scan under the same name


def test_scans_that_chose_a_model_and_cards_that_are_silent_give_warnings(a_set):
    of = fingerprints(a_set)
    cards = {
        "chosen": a_card_of("chosen", train=[of["P0"]], validation=[of["P2"]]),
        "silent": a_card_of("silent"),
        "clean": a_card_of("clean", train=[of["P0"], of["P1"]]),
        "begun": a_card_of("begun", train=[of["P1"]], unlisted=["an older model"]),
        "phantoms": a_card_of("phantoms", train=[]),
    }
    warnings = comparison.check_unseen(cards, {of["P2"]: "P2", of["P3"]: "P3"}, False)
    assert len(warnings) == 3 and "was chosen by 1 of these 2 scans (P2)" in warnings[0]
    assert "card of silent does not list" in warnings[1] and "begun began with an older model" in warnings[2]
    assert comparison.check_unseen(cards, {}, False) == []  # a set of phantoms


# The commands


@pytest.fixture
def a_model(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(ARCHITECTURES, "smooth", Smooth)
    path = tmp_path / "smooth.safetensors"
    save_model(Smooth(0.8), a_card_of("smooth", train=["0" * 16]), path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments], plugins=[judging.add_commands])


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


def named(path: Path, name: str) -> Path:
    """A model file whose card has this name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(Smooth(0.8), a_card_of(name), path)
    return path


def names(*texts: object) -> list[str]:
    """Of the rows that `--models` with these texts gives."""
    return list(judging._networks([str(text) for text in texts]))


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
        (("--device", "abacus"), "There is no device"),
        (("--data", "nowhere"), "holds no index.json"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(change, sentence, a_set, a_model, tmp_path, capsys):
    arguments = ["compare", "--models", a_model, "--data", a_set, "--out", tmp_path / "new", *change]
    assert run(*arguments) != 0
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_safety_is_one_command(a_model, tmp_path, capsys, monkeypatch):
    from test_safety import TINY

    from ASCONTrainingLib.evaluation import safety

    monkeypatch.setattr(safety, "quick", lambda settings: replace(TINY, doses=(0.5,), realisations=1))
    data = make_set(tmp_path / "set", ("train", "test"), slices=2, side=128)
    flat = np.full((2, 128, 128), 60, np.int16) + np.random.default_rng(0).integers(-9, 10, (2, 128, 128))
    for what in ("ndct", "ldct"):
        np.save(data / f"P1.{what}.npy", flat.astype(np.int16))
    out = tmp_path / "safety"
    assert run("safety", "--models", a_model, "--data", data, "--out", out, "--quick", "--quiet") == 0
    printed = capsys.readouterr().out
    assert "lesion of 20 HU, 6 mm, dose 0.5" in printed and (out / "safety.txt").read_text() == printed
    (saved,) = json.loads((out / "safety.json").read_text())
    rows = list(csv.DictReader((out / "lesions.csv").open()))
    assert [float(row["kept"]) for row in rows] == [point["kept"] for point in saved["lesions"]]
    assert all(0 < point["kept"] < 1 for point in saved["lesions"])  # a blur
    assert (out / "lesions.png").stat().st_size > 1000
