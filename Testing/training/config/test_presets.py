"""Presets are the published settings, and each survives JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config.presets import BASES, PEERS, PRESETS, peer
from ASCONTrainingLib.config.settings import TrainConfig

PAPER = {
    "precision": "fp32",
    "train_with_all": True,
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
    "paper-mayo2020": PAPER
    | {"mac.local_queries": 16, "mac.global_queries": 256, "patch": 256}
    | {"crops_per_epoch": 9600},
    "released": {
        "precision": "fp32",
        "train_with_all": True,
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
    assert set(BASES) == ours and set(PRESETS) == ours | set(PEERS)
    assert {"unet", "red_cnn", "edcnn", "cncl", "du_gan", "du_gan_script", "wgan_vgg"} <= set(PEERS)
    assert all(config.preset == name and config.network in ARCHITECTURES for name, config in PRESETS.items())
    assert replace(TrainConfig(), train_with_all=True) == PRESETS["released"]


@pytest.mark.parametrize("preset", PRESETS)
def test_settings_survive_json(preset):
    config = PRESETS[preset]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_run_that_was_begun_with_a_former_setting_off_goes_on():
    config = PRESETS["product"]
    assert TrainConfig.from_dict(config.to_dict() | {"fit_gain": False}) == config
    with pytest.raises(InputError, match="no setting fit_gain"):
        TrainConfig.from_dict(config.to_dict() | {"fit_gain": True})


def test_what_is_not_in_the_paper_is_off_in_its_presets():
    for name in ("paper-mayo2016", "paper-mayo2020", "released"):
        config = PRESETS[name]
        assert (config.growth, config.doses, config.ema, config.objective) == ((), None, None, "ascon")
        assert not config.loss.product_output and config.loss.local_mean_weight == 0


OWN = {
    "unet": ("ascon", None, None),  # the base's: the table is ASCON's, and its code trains U-Net by its own optimiser
    "red_cnn": ("ascon", 1e-4, (0.9, 0.999)),
    "wgan_vgg": ("wgan_vgg", 1e-5, (0.5, 0.9)),
    "edcnn": ("edcnn", 1e-3, (0.9, 0.999)),
    "du_gan": ("du_gan", 1e-4, (0.9, 0.999)),
    "du_gan_script": ("du_gan", 0.00018083340390609657, (0.9, 0.999)),
    "cncl": ("cncl", 2e-5, (0.5, 0.999)),
}
"""Objective, learning rate and betas of Adam that the papers of the peers name."""


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", OWN)
def test_a_peer_has_its_own_method_and_the_images_and_schedule_of_its_base(name, base):
    objective, rate, betas = OWN[name]
    config, base = (
        peer(name, PRESETS[base].changed({"loss.vgg_weights": "v", "loss.resnet_weights": "r"})),
        PRESETS[base],
    )
    assert (config.network, config.objective, config.mac) == (name.removesuffix("_script"), objective, None)
    assert config.optimizer.learning_rate == (rate or base.optimizer.learning_rate)
    assert config.optimizer.betas == (betas or base.optimizer.betas) and config.optimizer.weight_decay == 0
    assert (config.loss.vgg_weights, config.loss.resnet_weights) == ("v", "r")
    if objective == "ascon":  # the MSE alone
        loss = config.loss
        assert loss.mse_weight and not (loss.ssim_weight or loss.product_output or loss.response_weight)
    taken = ["epochs", "steps_per_epoch", "crops_per_epoch", "doses", "lesions", "kernels", "precision", "ema"]
    taken += [] if name == "wgan_vgg" else ["patch", "batch", "growth"]
    assert {field: getattr(config, field) for field in taken} == {field: getattr(base, field) for field in taken}
    schedule = ("last_learning_rate", "per_epoch", "warm_up", "gradient_clip")
    assert [getattr(config.optimizer, s) for s in schedule] == [getattr(base.optimizer, s) for s in schedule]
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_critic_of_wgan_vgg_gets_images_that_it_can_take():
    assert [(c.patch, c.batch, c.growth) for c in (peer("wgan_vgg", PRESETS[base]) for base in BASES)] == [
        *[(64, 128, ())] * 3,  # as published, where the base has larger images
        (64, 4, ()),
        *[(64, 16, ())] * 2,
    ]


def test_a_peer_of_the_product_is_the_preset_of_its_name():
    assert all(PRESETS[name] == peer(name, PRESETS["product"]) for name in PEERS)
    assert peer("unet", PRESETS["smoke"]).preset == "unet-smoke"


def test_another_network_has_its_published_form_unless_settings_are_given():
    product = PRESETS["product"]
    assert product.changed({"batch": 2}).network_settings == product.network_settings != {}
    assert product.changed({"network": "esau_net"}).network_settings == product.network_settings
    assert product.changed({"network": "unet"}).network_settings == {}
    assert product.changed({"network": "unet", "network_settings": '{"width": 8}'}).network_settings == {"width": 8}
