"""Settings: presets are the published ones, rows of the ablations lack what they say, wrong values are told."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ASCONDenoiseLib.models.files import ARCHITECTURES
from ASCONTrainingLib.config import settings
from ASCONTrainingLib.config.settings import PRESETS, ConfigError, LossConfig, MACConfig, TrainConfig

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
        ({"doses": [0.5, 1.0]}, "doses"),
        ({"lesions": -1}, "lesions is -1.0; it must be 0 or more"),
        ({"kernels": [0.5, -0.5]}, "kernels is .*the lower first"),
        ({"kernels": [-1, 0]}, "kernels is .*above -1"),
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
    with pytest.raises(ConfigError, match=message):
        PRESETS["released"].changed(change)


def test_growth_adds_stages():
    config = PRESETS["released"].changed({"growth": "[[0.5, 256, 2], [0.75, 512, 1]]", "patch": 64})
    assert config.stages == ((0.0, 64, 8), (0.5, 256, 2), (0.75, 512, 1))
    assert PRESETS["released"].stages == ((0.0, None, 8),)


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


def losses_of(config: TrainConfig) -> set[str]:
    """Losses that reach the denoiser."""
    found = {name for name in ("mse", "ssim", "perceptual") if getattr(config.loss, f"{name}_weight")}
    if config.mac is not None and config.loss.mac_weight:
        found |= {name for name in ("local", "global") if getattr(config.mac, f"use_{name}")}
    return found


@pytest.mark.parametrize("base", ["released", "paper-mayo2020", "smoke"])
def test_rows_of_table_2_have_the_losses_that_they_name(base):
    rows = settings.table_2(PRESETS[base], vgg_weights="vgg19.pth")
    assert [row.name for row in rows] == [
        "MSE",
        "MSE + perceptual",
        "MSE + SSIM",
        "MSE + SSIM + global",
        "MSE + SSIM + local",
        "MSE + SSIM + local + global",
    ]
    for row in rows:
        assert losses_of(row.config) == set(row.name.lower().split(" + "))
        same = {field: getattr(row.config, field) for field in ("network", "optimizer", "epochs", "batch", "seed")}
        assert same == {field: getattr(PRESETS[base], field) for field in same}
    assert rows[-1].config == PRESETS[base]


def test_perceptual_row_takes_the_file_that_the_settings_name():
    base = PRESETS["released"].changed({"loss.vgg_weights": "vgg19.pth"})
    row = settings.table_2(base)[1]
    assert (row.config.loss.vgg_weights, row.config.loss.perceptual_weight) == ("vgg19.pth", 0.1)
    assert settings.table_2(base, "other.pth")[1].config.loss.vgg_weights == "other.pth"


def test_perceptual_row_is_not_run_without_a_weights_file():
    rows = settings.table_2(PRESETS["released"])
    assert [(row.name, row.reason) for row in rows if row.config is None] == [
        ("MSE + perceptual", "not run: no weights file")
    ]


def test_table_s1_runs_only_the_networks_that_exist():
    rows = settings.table_s1(PRESETS["released"], {"esau_net": None, "unet": None})
    assert {row.name: (row.config.network, row.config.mac is not None) for row in rows if row.config} == {
        "U-Net": ("unet", False),
        "U-Net + MAC-Net": ("unet", True),
        "ESAU-Net": ("esau_net", False),
        "ESAU-Net + MAC-Net": ("esau_net", True),
    }
    assert [row.reason for row in rows if not row.config] == ["not run: there is no network red_cnn"] * 2


def test_rows_of_table_s2_lack_one_strategy_each():
    rows = settings.table_s2(PRESETS["released"])
    switches = ("alternate", "neighbour_matching", "hard_negatives")
    off = [{name for name in switches if not getattr(row.config.mac, name)} for row in rows]
    assert off == [{"alternate"}, {"neighbour_matching"}, {"hard_negatives"}, set()]
    assert rows[-1].config == PRESETS["released"]


@pytest.mark.parametrize("table", [settings.table_2, settings.table_s2, lambda base: settings.table_s1(base, {})])
def test_ablation_needs_mac_net(table):
    with pytest.raises(ConfigError, match="with MAC-Net"):
        table(PRESETS["pixel"])


def test_pixel_weights_are_nothing_without_a_loss():
    with pytest.raises(ConfigError):
        LossConfig(mse_weight=0, ssim_weight=0)
