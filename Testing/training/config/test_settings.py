"""Settings: they are changed by name, and wrong values are told."""

from __future__ import annotations

import dataclasses

import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import LossConfig, MACConfig


def test_changes_by_name():
    config = PRESETS["released"].changed(
        {"batch": 2, "mac.use_local": "false", "optimizer.learning_rate": "1e-3", "precision": "fp32", "minutes": 5}
    )
    assert (config.batch, config.mac.use_local, config.precision) == (2, False, "fp32")
    assert config.optimizer.learning_rate == 1e-3 and config.minutes == 5.0
    assert dataclasses.replace(config.mac, use_local=True) == PRESETS["released"].mac  # all the rest is as it was
    assert PRESETS["released"].changed({"mac": "null"}).mac is None
    assert PRESETS["pixel"].changed({"mac.use_global": False}).mac == MACConfig(use_global=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": 2}, "no setting batches"),
        ({"mac.windw": 7}, r"no setting mac\.windw"),
        ({"a.b": 1}, r"no setting a\.b"),
        ({"batch": "2.5"}, "batch is 2.5; it must be a whole number"),
        ({"batch": True}, "batch is True"),
        ({"batch": 0}, "batch is 0; it must be 1 or more"),
        ({"optimizer.learning_rate": "NaN"}, "learning_rate is nan; it must be a number"),
        ({"optimizer.betas": [0.9]}, r"betas is \[0.9\]"),
        ({"optimizer.betas": [0.9, 1]}, "betas"),
        ({"precision": "fp8"}, "precision is 'fp8'; it must be fp32, bf16, fp16"),
        ({"patch": 8}, "patch is 8; it must be 16 pixels or more"),
        ({"ema": 1}, "ema is 1.0"),
        ({"mac.optimizer": "adam"}, r"mac\.optimizer is 'adam'; it must be sgd or adamw"),
        ({"loss.du_gan": "paper"}, r"loss\.du_gan is 'paper'; it must be defaults or script"),
        ({"mac.window": 6}, r"mac\.window is 6; it must be odd"),
        ({"mac.window": 3}, r"mac\.negatives is 24; it must be at most the 8 candidates"),
        ({"mac.candidates": 20}, r"mac\.negatives is 24; it must be at most the 20"),
        ({"mac.neighbours": 9}, "at most 8"),
        ({"mac.use_local": False, "mac.use_global": False}, "null for no MAC-Net"),
        ({"loss.mse_weight": 0, "loss.ssim_weight": 0}, "no weight"),
        ({"loss.perceptual_weight": 1}, "name a file"),
        ({"growth": [[0.5, 64]]}, "growth is .*a list of the right length"),
        ({"growth": [[0.5, 64, 1], [0.4, 128, 1]]}, "shares that rise"),
        ({"growth": [[0.0, 64, 1]]}, "shares that rise"),
        ({"growth": [[1.0, 64, 1]]}, "shares that rise"),
        ({"growth": [[0.5, 8, 1]]}, "growth"),
        ({"growth": [[0.6, 128, 4], [0.85, 256, 1]], "epochs": 5}, "epochs is 5; it must be enough"),
        ({"doses": [0.5, 0.1]}, "doses is .*the lower first"),
        ({"doses": [0.5, 1.5]}, "doses"),
        ({"doses": [1.0, 1.0]}, "doses is .*below 1"),
        ({"noise_hu": [2, 80]}, "noise_hu is .*null without doses"),
        ({"doses": [0.1, 1], "noise_hu": [0, 80]}, "noise_hu is .*above 0, the lower first"),
        ({"patch": 64, "pixels_mm": [1.0, 0.4]}, "pixels_mm is .*the lower first"),
        ({"kernel_cutoffs": [0.2, 0.8]}, "kernel_cutoffs is .*null with whole slices"),
        ({"crops_per_epoch": 4}, "crops_per_epoch is 4; it must be 8, a batch, or more"),
        ({"crops_per_epoch": 40, "steps_per_epoch": 5}, "steps_per_epoch is 5; it must be null with crops_per_epoch"),
        ({"lesions": -1}, "lesions is -1.0; it must be 0 or more"),
        ({"kernels": [0.5, -0.5]}, "kernels is .*the lower first"),
        ({"kernels": [-1, 0]}, "kernels is .*above -1"),
        ({"objective": "gan"}, "objective is 'gan'; it must be one of ascon, edcnn, cncl, du_gan, wgan_vgg"),
        ({"objective": "gan", "mac": None}, "objective is 'gan'; it must be one of ascon"),
        ({"objective": "edcnn"}, "mac is 'set'; it must be null with the objective edcnn"),
        (
            {"objective": "edcnn", "mac": None, "loss.product_output": True},
            "product_output is True; it must be left out",
        ),
        (
            {"objective": "cncl", "mac": None, "loss.ssim_weight": 5},
            "ssim_weight is 5.0; it must be left out: cncl has",
        ),
        ({"optimizer.mac_learning_rate": 0}, "mac_learning_rate is 0.0; it must be above 0"),
    ],
)
def test_wrong_settings_are_told(change, message):
    with pytest.raises(InputError, match=message):
        PRESETS["released"].changed(change)


def test_growth_adds_stages():
    config = PRESETS["released"].changed({"growth": "[[0.5, 256, 2], [0.75, 512, 1]]", "patch": 64})
    assert config.stages == ((0.0, 64, 8), (0.5, 256, 2), (0.75, 512, 1))
    assert PRESETS["released"].stages == ((0.0, None, 8),)


def test_pixel_weights_are_nothing_without_a_loss():
    with pytest.raises(InputError):
        LossConfig(mse_weight=0, ssim_weight=0)
