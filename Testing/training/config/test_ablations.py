"""Rows of the ablations lack what their names say."""

from __future__ import annotations

import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config import ablations
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import TrainConfig


def losses_of(config: TrainConfig) -> set[str]:
    """Losses that reach the denoiser."""
    found = {name for name in ("mse", "ssim", "perceptual") if getattr(config.loss, f"{name}_weight")}
    if config.mac is not None and config.loss.mac_weight:
        found |= {name for name in ("local", "global") if getattr(config.mac, f"use_{name}")}
    return found


@pytest.mark.parametrize("base", ["released", "paper-mayo2020", "smoke"])
def test_rows_of_table_2_have_the_losses_that_they_name(base):
    rows = ablations.table_2(PRESETS[base], vgg_weights="vgg19.pth")
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
    row = ablations.table_2(base)[1]
    assert (row.config.loss.vgg_weights, row.config.loss.perceptual_weight) == ("vgg19.pth", 0.1)
    assert ablations.table_2(base, "other.pth")[1].config.loss.vgg_weights == "other.pth"


def test_perceptual_row_is_not_run_without_a_weights_file():
    rows = ablations.table_2(PRESETS["released"])
    assert [(row.name, row.reason) for row in rows if row.config is None] == [
        ("MSE + perceptual", "not run: no weights file")
    ]


def test_table_s1_runs_only_the_networks_that_exist():
    rows = ablations.table_s1(PRESETS["released"], {"esau_net": None, "unet": None})
    assert {row.name: (row.config.network, row.config.mac is not None) for row in rows if row.config} == {
        "U-Net": ("unet", False),
        "U-Net + MAC-Net": ("unet", True),
        "ESAU-Net": ("esau_net", False),
        "ESAU-Net + MAC-Net": ("esau_net", True),
    }
    assert [row.reason for row in rows if not row.config] == ["not run: there is no network red_cnn"] * 2


def test_rows_of_table_s2_lack_one_strategy_each():
    rows = ablations.table_s2(PRESETS["released"])
    switches = ("alternate", "neighbour_matching", "hard_negatives")
    off = [{name for name in switches if not getattr(row.config.mac, name)} for row in rows]
    assert off == [{"alternate"}, {"neighbour_matching"}, {"hard_negatives"}, set()]
    assert rows[-1].config == PRESETS["released"]


@pytest.mark.parametrize("table", [ablations.table_2, ablations.table_s2, lambda base: ablations.table_s1(base, {})])
def test_ablation_needs_mac_net(table):
    with pytest.raises(InputError, match="with MAC-Net"):
        table(PRESETS["pixel"])
