"""The presets: published settings, those of models that ship, those of the methods that the paper compares with.

A new preset is one more entry of `PRESETS`; a new peer is one more `_peer(...)`, named after its network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ASCONTrainingLib.config.settings import LossConfig, MACConfig, OptimizerConfig, TrainConfig

_PAPER_MAC = MACConfig(
    local_queries=32,
    global_queries=512,
    window=13,  # candidates are nearer than 7 pixels (section 2.3)
    candidates=48,  # not given; as many as a 7x7 window holds
    filter_background=True,
)
_PAPER = TrainConfig(
    "paper-mayo2016",
    mac=_PAPER_MAC,
    loss=LossConfig(mse_weight=10.0, ssim_weight=10.0, mac_weight=1.0, mac_net_loss_weight=1.0),  # section 2.4
    optimizer=OptimizerConfig(1e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False),
)

_OPTIMIZER = OptimizerConfig(6e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False, warm_up=0.03, gradient_clip=1.0)

# For models that ship: the whole objective on what the product makes of the network, for many doses and kernels, with
# lesions, with images that grow. For simulated sets.
_PRODUCT = TrainConfig(
    "product",
    loss=LossConfig(
        mse_weight=1000.0,
        ssim_weight=1.0,
        mac_weight=0.005,
        product_output=True,
        local_mean_weight=5e4,
        local_mean_from=0.6,
        response_weight=1.2,
        response_from=0.6,
    ),
    optimizer=_OPTIMIZER,
    steps_per_epoch=250,
    batch=16,
    patch=64,
    growth=((0.6, 128, 4), (0.85, 256, 1)),
    doses=(0.10, 0.50),
    lesions=3.0,
    kernels=(-0.5, 0.5),
    ema=0.998,
    validation_slices=16,
    fit_gain=True,
)


def _peer(name: str, rate: float, betas: tuple[float, float], **changes: Any) -> TrainConfig:
    """A method that the paper compares with: its own loss and optimiser (Adam), images and doses of `product`."""
    optimizer = replace(_OPTIMIZER, learning_rate=rate, betas=betas, weight_decay=0.0)
    values = {"network": name, "mac": None, "loss": LossConfig(), "optimizer": optimizer, "fit_gain": False}
    return replace(_PRODUCT, preset=name, **values | changes)


_ONLY_MSE = LossConfig(mse_weight=1000.0, ssim_weight=0.0)

_ALL = (
    _PAPER,
    replace(_PAPER, preset="paper-mayo2020", mac=replace(_PAPER_MAC, local_queries=16, global_queries=256), patch=256),
    TrainConfig("released"),
    # The whole objective in minutes, on phantoms and two processor cores: it shows that everything works, no more.
    TrainConfig(
        "smoke",
        mac=MACConfig(global_queries=8, local_queries=64),
        loss=LossConfig(mse_weight=1000.0, ssim_weight=1.0, mac_weight=0.005),
        optimizer=replace(_OPTIMIZER, warm_up=0.05),
        epochs=6,
        steps_per_epoch=80,
        batch=4,
        patch=64,
        ema=0.98,
        validation_slices=4,
        workers=0,
        minutes=6.0,
    ),
    _PRODUCT,
    # The denoiser alone, without MAC-Net; the MSE weighs as much as 1 - SSIM does on CT noise.
    TrainConfig(
        "pixel",
        mac=None,
        loss=LossConfig(mse_weight=1000.0, ssim_weight=1.0),
        optimizer=_OPTIMIZER,
        batch=16,
        patch=64,
        doses=(0.17, 0.38),
        ema=0.998,
    ),
    # The peers of Table 1; networks/ and objectives/ name their papers, where the learning rates are from.
    _peer("unet", _OPTIMIZER.learning_rate, _OPTIMIZER.betas, loss=_ONLY_MSE),
    _peer("red_cnn", 1e-4, (0.9, 0.99), loss=_ONLY_MSE),
    _peer("edcnn", 1e-3, (0.9, 0.999), objective="edcnn"),
    _peer("cncl", 2e-5, (0.5, 0.999), objective="cncl"),
    _peer("du_gan", 1e-4, (0.9, 0.999), objective="du_gan"),
    _peer("wgan_vgg", 1e-5, (0.5, 0.9), objective="wgan_vgg", growth=()),  # needs loss.vgg_weights
)
PRESETS: dict[str, TrainConfig] = {config.preset: config for config in _ALL}
"""Name -> settings that a training can begin with."""
