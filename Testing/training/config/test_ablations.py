"""Rows of the ablations lack what their names say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config import ablations
from ASCONTrainingLib.config.presets import PRESETS, peer
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.method.objectives import du_gan
from ASCONTrainingLib.trainer.distributed import Processes
from ASCONTrainingLib.trainer.training_state import TrainingState


def losses_of(config: TrainConfig) -> set[str]:
    """Losses that reach the denoiser."""
    found = {name for name in ("mse", "ssim", "perceptual") if getattr(config.loss, f"{name}_weight")}
    if config.mac is not None and config.loss.mac_weight:
        found |= {name for name in ("local", "global") if getattr(config.mac, f"use_{name}")}
    return found


@pytest.mark.parametrize("base", ["paper-mayo2016", "smoke", "product"])
def test_rows_of_other_systems_are_the_peers_of_the_base_and_say_what_is_missing(base):
    base = PRESETS[base]
    rows = {row.name: row for row in ablations.table_systems(base)}
    missing = {name: row.reason for name, row in rows.items() if row.config is None}
    assert missing.pop("CoreDiff").startswith("not run: it is not here")
    reasons = {"TSC-Net": "VGG-19", "ALDEN": "DINOv2 ViT"}
    assert missing == {name: f"not run: no weights file ({what})" for name, what in reasons.items()}
    presets = {
        "CNN-10": "cnn10",
        "ResNet (Missert et al.)": "resnet",
        "Patch-DML, unpaired": "patch_dml",
        "TSC-Net's losses in its teacher": "tsc_net_latent",
        "ALDEN's losses with our features": "alden_own_features",
    }
    for name, preset in presets.items():
        assert rows[name].config == peer(preset, base)
    assert rows["ESAU-Net"].config == replace(base, mac=None) and rows["ASCON"].config == base
    files = {"loss.vgg_weights": "vgg.pth", "loss.vit_weights": "vit.pth"}
    named = {row.name: row.config for row in ablations.table_systems(base.changed(files))}
    assert named["TSC-Net"] == peer("tsc_net", base.changed({"loss.vgg_weights": "vgg.pth"}))
    assert named["ALDEN"] == peer("alden", base.changed({"loss.vit_weights": "vit.pth"}))
    assert named["CNN-10"] == rows["CNN-10"].config  # no other row depends on the files
    with pytest.raises(InputError, match="with MAC-Net"):
        ablations.table_systems(PRESETS["pixel"])


@pytest.mark.parametrize("base", ["released", "paper-mayo2020", "smoke"])
def test_rows_of_table_2_have_the_losses_that_they_name(base):
    rows = ablations.table_2(PRESETS[base].changed({"loss.vgg_weights": "vgg19.pth"}))
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
    """With a weight that is a share of the MSE's; no other row depends on the file."""
    for name in ("released", "smoke", "paper-mayo2020"):
        row, *others = ablations.table_2(PRESETS[name].changed({"loss.vgg_weights": "vgg19.pth"}))[1::-1]
        assert row.config.loss.vgg_weights == "vgg19.pth"
        assert row.config.loss.perceptual_weight == pytest.approx(0.1 * row.config.loss.mse_weight)
        assert [other.config.loss.vgg_weights for other in others] == [None]


def test_perceptual_row_is_not_run_without_a_weights_file():
    rows = ablations.table_2(PRESETS["released"])
    assert [(row.name, row.reason) for row in rows if row.config is None] == [
        ("MSE + perceptual", "not run: no weights file (VGG-19)")
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
    assert {row.config.optimizer for row in rows[1:]} == {PRESETS["released"].optimizer}


@pytest.mark.parametrize(("base", "factor"), [("released", 10), ("paper-mayo2016", 1), ("product", 100)])
def test_without_alternate_learning_mac_net_moves_as_fast_as_with_it(base, factor):
    """Its loss weighs `factor` times less in the denoiser's; the rate of its plain SGD makes up for that."""
    base = PRESETS[base]
    together, *_, whole = ablations.table_s2(base)
    rate = whole.config.optimizer.learning_rate
    assert together.config.optimizer.mac_learning_rate == pytest.approx(factor * rate)
    own = ablations.table_s2(base.changed({"optimizer.mac_learning_rate": 0.5}))[0]
    assert own.config.optimizer.mac_learning_rate == pytest.approx(factor * 0.5)
    adaptive = ablations.table_s2(base.changed({"mac.optimizer": "adamw"}))[0]  # which a factor does not slow down
    assert adaptive.config.optimizer == base.optimizer


def test_table_1_has_eight_methods_with_losses_of_their_own():
    base = PRESETS["paper-mayo2016"].changed({"loss.vgg_weights": "vgg.pth", "loss.resnet_weights": "resnet.pth"})
    rows = ablations.table_1(base)
    assert [row.name for row in rows] == [
        "U-Net",
        "RED-CNN",
        "WGAN-VGG",
        "EDCNN",
        "DU-GAN with the defaults of its code",
        "CNCL",
        "ESAU-Net",
        "ASCON",
    ]
    objectives = ["ascon", "ascon", "wgan_vgg", "edcnn", "du_gan", "cncl", "ascon", "ascon"]
    assert [row.config.objective for row in rows] == objectives
    *peers, esau_net, ascon = (row.config for row in rows)
    assert ascon == PRESETS["paper-mayo2016"] and esau_net == replace(ascon, mac=None)
    for config, name in zip(peers, ("unet", "red_cnn", "wgan_vgg", "edcnn", "du_gan", "cncl"), strict=True):
        own = replace(config.loss, vgg_weights=None, resnet_weights=None)
        assert replace(config, loss=own) == peer(name, PRESETS["paper-mayo2016"])
    files = [(config.loss.vgg_weights, config.loss.resnet_weights) for config in peers]
    none = (None, None)
    assert files == [none, none, ("vgg.pth", None), (None, "resnet.pth"), none, none]


def test_rows_of_table_1_say_what_they_lack():
    rows = ablations.table_1(PRESETS["product"].changed({"loss.du_gan": "script"}))
    assert rows[3].name == "EDCNN without its perceptual loss: no ResNet-50 weights"
    assert [(row.name, row.reason) for row in rows if row.config is None] == [
        ("WGAN-VGG", "not run: no weights file (VGG-19)")
    ]
    assert rows[4].name == "DU-GAN with the values of its script"
    assert rows[4].config == peer("du_gan_script", PRESETS["product"])


ROWS = {
    "1": ablations.table_1,
    "2": ablations.table_2,
    "S1": lambda base: ablations.table_s1(base, ARCHITECTURES),
    "S2": ablations.table_s2,
}


@pytest.mark.parametrize("base", ["product", "paper-mayo2020"])
@pytest.mark.parametrize("table", ROWS)
def test_every_row_can_be_set_up(table, base, monkeypatch):
    """Networks, objective and optimisers of each row exist together: nothing dies at a row's first step."""
    monkeypatch.setattr(du_gan, "WIDTH", 4)  # 57 million weights each cost seconds
    monkeypatch.setattr(du_gan, "WIDEST", 32)
    for row in ROWS[table](PRESETS[base]):
        if row.config is not None:
            TrainingState(row.config, Processes("cpu"))


@pytest.mark.parametrize(
    "table", [ablations.table_1, ablations.table_2, ablations.table_s2, lambda base: ablations.table_s1(base, {})]
)
def test_ablation_needs_mac_net(table):
    with pytest.raises(InputError, match="with MAC-Net"):
        table(PRESETS["pixel"])
