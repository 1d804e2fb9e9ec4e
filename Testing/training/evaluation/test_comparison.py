"""The comparison: its numbers against other ways to get them, and its honesty about patients."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluation_fixtures import Smooth, a_card_of
from training_fixtures import make_set

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging import metrics
from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows, noise_hu
from ASCONDenoiseLib.physics import phantoms
from ASCONTrainingLib.evaluation import comparison, filters, statistics, tables
from ASCONTrainingLib.evaluation.comparison import ComparisonSettings, MethodResult, SliceRow
from ASCONTrainingLib.evaluation.volumes import Candidate, of_network

FEW = ComparisonSettings(classical=False, phantoms=0)


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    """Two patients train, three test."""
    return make_set(tmp_path_factory.mktemp("compare") / "set", ("train", "validation", "test", "test", "test"))


def networks(**shares: float) -> dict[str, Candidate]:
    cards = {name: a_card_of(name, train=["0" * 16]) for name in shares}
    return {name: of_network(Smooth(share).eval(), cards[name], "cpu") for name, share in shares.items()}


def fingerprints(folder: Path) -> dict[str, str]:
    """Volume of `make_set` -> its fingerprint, as set_index.scan_fingerprints describes it."""
    middles = {name: np.load(folder / f"{name}.ndct.npy")[2].tobytes() for name in ("P0", "P1", "P2", "P3", "P4")}
    return {name: hashlib.sha256(b"64x64:" + middle).hexdigest()[:16] for name, middle in middles.items()}


# The numbers


def test_the_numbers_are_those_of_the_measures_on_the_same_slices(a_set):
    found = comparison.compare(a_set, networks(full=1.0, half=0.5), FEW)
    assert [method.name for method in found.methods] == ["LDCT", "full", "half"] and found.patients == 3
    for method in found.methods:
        share = {"LDCT": 0, "full": 1.0, "half": 0.5}[method.name]
        rows, soft, noise = [], [], []
        for patient in ("P2", "P3", "P4"):
            ndct, ldct = (np.load(a_set / f"{patient}.{what}.npy") for what in ("ndct", "ldct"))
            padded = np.pad(ldct.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
            mean = sum(padded[:, a : a + 64, b : b + 64] for a in range(3) for b in range(3)) / 9
            output = np.rint(ldct + share * (mean - ldct)).astype(np.int16)
            rows += metrics.compare(ndct, output).rows
            centres = flat_soft_tissue_windows(ndct, (0.7, 0.7, 3.0))
            before, after = (noise_hu(v, (0.7, 0.7, 3.0), centres=centres) for v in (ldct, output))
            soft += metrics.compare(ndct, output, metrics.ABDOMEN).rows
            noise += [100 * (1 - after.sd_hu / before.sd_hu)] if before else []
        for name in metrics.METRICS:
            values = np.array([getattr(row, name) for row in rows])
            mean, sd = method.mean_sd(name)
            assert mean == pytest.approx(values.mean(), rel=1e-4)
            assert sd == pytest.approx(values.std(ddof=1), rel=0.02)  # ties are rounded either way
            wanted = np.mean([getattr(row, name) for row in soft])
            assert method.mean_sd(name, soft=True)[0] == pytest.approx(wanted, rel=1e-3)
        if noise:
            assert method.noise_reduction_percent() == pytest.approx(np.mean(noise), abs=0.1)
    psnr = {m.name: m.mean_sd("psnr_db")[0] for m in found.methods}
    assert psnr["full"] > psnr["half"] > psnr["LDCT"]


def test_classical_filters_stand_in_the_same_table_at_their_best(a_set):
    seen = []
    settings = replace(FEW, classical=True, every=2, bm3d=False)
    found = comparison.compare(a_set, networks(full=1.0), settings, see=lambda *args: seen.append(args))
    names = [method.name for method in found.methods]
    assert names == ["LDCT", "full", *(name for name in filters.candidates(40.0) if name != "BM3D")]
    assert found.not_run == {"BM3D": "left out"}
    for method in found.methods[2:]:
        assert method.kind == "filter" and len(method.settings) == 3 and method.seconds > 0
        assert method.mean_sd("psnr_db")[0] > found.methods[0].mean_sd("psnr_db")[0]
    assert len(found.methods[0].rows) == 6  # every second slice of 3 x 4
    volume, images, spacing = seen[0]
    assert (volume, spacing) == ("P2", (0.7, 0.7, 3.0)) and list(images) == ["NDCT", *names]
    assert np.array_equal(images["LDCT"], np.load(a_set / "P2.ldct.npy")[2])  # of slices 0 and 2 the second


def test_hu_shifts_of_volumes_are_weighed_by_their_voxels():
    method = MethodResult("m", "model", shifts={"fat": [(100, 1.0), (300, 3.0)], "bone": [(10, -2.0)]})
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
    rows = [SliceRow(i, psnr, 1.0, 0.0, 0.0, patient="P", volume="P") for i, psnr in enumerate((40.0, math.inf, 42.0))]
    method = MethodResult("m", "model", rows=rows)
    assert method.mean_sd("psnr_db") == pytest.approx((41.0, math.sqrt(2)))
    assert method.patient_means("psnr_db") == {"P": pytest.approx(41.0)}  # which the tests are on
    assert [row["psnr_db"] for row in method.to_dict()["slices"]] == [40.0, None, 42.0]  # JSON has no infinity


def test_too_few_patients_for_a_test_are_said(a_set, tmp_path):
    found = comparison.compare(a_set, networks(full=1.0, half=0.5), FEW)
    assert found.tests[0].smallest_p == 0.25
    text = tables.text(found)
    assert "3 patients give no p below 0.25" in text and "half" in text and "3 of 3" in text
    assert "full against the others, paper window" in text and "full against the others, abdomen window" in text
    assert {test.other for test in found.soft_tests} == {"half"} and found.soft_tests[0].difference_db > 0
    (alone,) = statistics.paired_tests({"P0": 40.0}, {"other": {"P0": 39.0}})
    assert math.isnan(alone.p) and math.isnan(alone.smallest_p)


@pytest.mark.parametrize("name", ["LDCT", "NDCT", "median", "BM3D"])
def test_a_model_named_like_another_row_is_refused(a_set, name):
    with pytest.raises(InputError, match=rf"named like other rows of the table \({name}\)"):
        comparison.compare(a_set, networks(**{name: 1.0}), FEW)


# What a model has seen


def test_scans_that_a_model_was_trained_on_are_refused(a_set):
    seen = {"first": of_network(Smooth(), a_card_of("first", train=[fingerprints(a_set)["P3"], "9" * 16]))}
    with pytest.raises(InputError, match=r"model first was trained on 1 of these 3 scans \(P3\)\."):
        comparison.compare(a_set, seen, FEW)
    found = comparison.compare(a_set, seen, replace(FEW, allow_seen=True))
    assert "too good" in found.warnings[0] and "too good" in tables.text(found)


def test_scans_are_known_by_their_voxels_under_any_name(a_set, tmp_path):
    other = make_set(tmp_path / "renamed", ("test",))
    for what in ("ndct", "ldct", "background"):
        np.save(other / f"P0.{what}.npy", np.load(a_set / f"P3.{what}.npy"))
    seen = {"first": of_network(Smooth(), a_card_of("first", train=[fingerprints(a_set)["P3"]]))}
    with pytest.raises(InputError, match=r"was trained on 1 of these 1 scans \(P0\)"):
        comparison.compare(other, seen, FEW)
    for what in ("ndct", "ldct"):
        np.save(other / f"P0.{what}.npy", np.load(a_set / f"P2.{what}.npy"))
    assert comparison.compare(other, seen, FEW).warnings == ()  # another scan under the same name
