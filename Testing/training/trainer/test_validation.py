"""Validation on whole slices against naive sums: metrics, preview."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from trainer_fixtures import (
    CPU,
)
from training_fixtures import Tiny

from ASCONDenoiseLib.imaging import hounsfield, metrics
from ASCONDenoiseLib.models import inference, mixed_precision
from ASCONTrainingLib.data.training_set import EvaluationSet
from ASCONTrainingLib.trainer import validation


def test_validation_is_in_fp32_whatever_the_device_is_fast_at(a_set, monkeypatch):
    class Fast(Tiny):
        PRECISE_LAYERS = ()

    def refused(network: nn.Module, dtype: torch.dtype) -> nn.Module:
        raise AssertionError("asked for a bf16 copy")

    monkeypatch.setattr(mixed_precision, "mixed_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(mixed_precision, "mixed_copy", refused)
    pairs, network = EvaluationSet(a_set, "validation"), Fast()
    with pytest.raises(AssertionError, match="bf16"):
        inference.denoise(pairs[0].ldct_hu[None], network, device=CPU)
    assert len(validation.compare(pairs, network).rows) == 4
    assert validation.preview(network, pairs[0], device=CPU).any()


def test_comparison_of_the_ldct_is_the_naive_one(a_set):
    pairs = EvaluationSet(a_set, "test")
    found = validation.compare(pairs, name="LDCT")
    for pair, row in zip(pairs, found.rows, strict=True):
        ldct, ndct = ((np.clip(i.astype(float), -1000, 2000) + 1000) / 3000 for i in (pair.ldct_hu, pair.ndct_hu))
        assert row.psnr_db == pytest.approx(-10 * math.log10(np.mean((ldct - ndct) ** 2)))
        assert row.rmse == pytest.approx(math.sqrt(np.mean((ldct - ndct) ** 2)))
    assert [row.index for row in found.rows] == [pair.index for pair in pairs] and len(found.rows) == 4


def test_comparison_of_a_network_is_that_of_its_clipped_input(a_set):
    """Nothing but clip, network, metrics: the prediction itself is not clipped."""

    class Brighter(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 30 / 3000

    pairs = EvaluationSet(a_set, "test")
    found = validation.compare(pairs, Brighter(), limit=2)
    assert len(found.rows) == 2
    for row in found.rows:
        pair = next(pair for pair in pairs if pair.index == row.index)
        difference = np.clip(pair.ldct_hu, -1000, 2000).astype(float) + 30 - np.clip(pair.ndct_hu, -1000, 2000)
        assert row.rmse_hu == pytest.approx(math.sqrt(np.mean(difference**2)), rel=1e-5)
    assert found.scale == metrics.PAPER and not found.clip_test


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(4, None, [0, 1, 2, 3]), (4, 9, [0, 1, 2, 3]), (9, 3, [1, 4, 7])]
)
def test_evenly_spaced(count, limit, expected):
    assert validation.evenly_spaced(count, limit).tolist() == expected


def test_preview_is_four_pictures_in_a_row(a_set):
    pair = EvaluationSet(a_set, "test")[0]
    row = validation.preview(nn.Identity(), pair, device=CPU)
    ldct, denoised, ndct, difference = np.split(row, 4, axis=1)
    assert np.array_equal(ldct, hounsfield.to_gray(pair.ldct_hu, (-160, 240))) and np.array_equal(ldct, denoised)
    assert np.array_equal(ndct, hounsfield.to_gray(pair.ndct_hu, (-160, 240)))
    assert np.array_equal(difference, hounsfield.to_gray(pair.ldct_hu.astype(float) - pair.ndct_hu, (-100, 100)))
