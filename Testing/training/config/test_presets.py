"""Presets are the published settings, and each survives JSON."""

from __future__ import annotations

import json

import pytest

from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import TrainConfig

PAPER = {
    "epochs": 100,
    "batch": 8,
    "optimizer.learning_rate": 1e-4,
    "optimizer.last_learning_rate": 1e-6,
    "optimizer.betas": (0.9, 0.99),
    "optimizer.weight_decay": 1e-9,
    "mac.negatives": 24,
    "mac.neighbours": 4,
    "mac.momentum": 0.99,
    "mac.temperature": 1.0,
    "mac.window": 13,  # nearer than 7 pixels
    "mac.filter_background": True,
    "loss.mse_weight": 10.0,
    "loss.ssim_weight": 10.0,
    "loss.mac_weight": 1.0,
    "loss.mac_net_loss_weight": 1.0,
}
PUBLISHED = {
    "paper-mayo2016": PAPER | {"mac.local_queries": 32, "mac.global_queries": 512, "patch": None},
    "paper-mayo2020": PAPER | {"mac.local_queries": 16, "mac.global_queries": 256, "patch": 256},
    "released": {
        "epochs": 100,
        "batch": 8,
        "patch": None,
        "optimizer.learning_rate": 2e-4,
        "optimizer.last_learning_rate": 1e-6,
        "optimizer.betas": (0.5, 0.999),
        "optimizer.weight_decay": 0.01,
        "optimizer.per_epoch": True,
        "mac.local_queries": 512,
        "mac.global_queries": 32,
        "mac.negatives": 24,
        "mac.window": 7,
        "mac.candidates": None,
        "mac.filter_background": False,
        "loss.mse_weight": 100.0,
        "loss.ssim_weight": 10.0,
        "loss.mac_weight": 0.05,
        "loss.mac_net_loss_weight": 0.5,
    },
}


def value_of(config: object, name: str) -> object:
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("preset", "name", "value"), [(p, n, v) for p, values in PUBLISHED.items() for n, v in values.items()]
)
def test_presets_are_the_published_settings(preset, name, value):
    assert value_of(PRESETS[preset], name) == value


def test_every_preset_is_named_after_itself_and_its_network_exists():
    ours = {"paper-mayo2016", "paper-mayo2020", "released", "smoke", "product", "pixel"}
    assert set(PRESETS) == ours | {"unet", "red_cnn", "edcnn", "cncl", "du_gan", "wgan_vgg"}
    assert all(config.preset == name and config.network in ARCHITECTURES for name, config in PRESETS.items())
    assert TrainConfig() == PRESETS["released"]


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset):
    config = PRESETS[preset]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_is_not_in_the_paper_is_off_in_its_presets():
    for name in ("paper-mayo2016", "paper-mayo2020", "released"):
        config = PRESETS[name]
        assert (config.growth, config.doses, config.ema, config.fit_gain, config.objective) == (
            (),
            None,
            None,
            False,
            "ascon",
        )
        assert not config.loss.product_output and config.loss.local_mean_weight == 0
