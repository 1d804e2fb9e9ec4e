"""Tests of differences: on patients, and against their definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ASCONTrainingLib.evaluation import statistics
from ASCONTrainingLib.evaluation.comparison import MethodResult, SliceRow


def test_the_signed_rank_test_is_on_patients_by_its_definition():
    """All 2^n signs of the ranks, counted; slices beyond a patient's mean make no difference."""
    differences = [0.5, -0.2, 0.9, 0.3, 0.8, 0.1, 0.7]
    rows = [
        SliceRow(k, db, 0.9, 0.01, 30.0, patient=f"P{i}", volume=f"P{i}")
        for i, d in enumerate(differences)
        for k, db in enumerate([40 + d - 1, 40 + d + 1] * 5)
    ]
    first = MethodResult("first", "model", rows=rows).patient_means("psnr_db")
    (found,) = statistics.paired_tests(first, {"other": {f"P{i}": 40.0 for i in range(7)}})
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    rank_sum = sum(rank for rank, d in zip(ranks, differences, strict=True) if d > 0)
    sums = np.array([sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=7)])
    p = min(1.0, 2 * min(np.mean(sums >= rank_sum), np.mean(sums <= rank_sum)))
    assert found.p == pytest.approx(p) and found.p_holm == pytest.approx(p)
    assert (found.other, found.patients, found.better) == ("other", 7, 6)
    assert found.difference_db == pytest.approx(np.mean(differences)) and found.smallest_p == 2 / 128


def test_holm_by_hand():
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan, "e": 0.5})
    assert math.isnan(found.pop("d"))
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "e": 0.5})
    assert statistics.holm({"a": 0.6, "b": 0.7}) == pytest.approx({"a": 1.0, "b": 1.0})
