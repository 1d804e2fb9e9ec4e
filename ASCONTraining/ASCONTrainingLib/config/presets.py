"""The presets: published settings, those of models that ship, those of the methods that the paper compares with.

A new preset is one more entry of `_ALL`; a new peer is one more entry of `PEERS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ASCONTrainingLib.config.settings import WEIGHT_FILES, LossConfig, MACConfig, OptimizerConfig, TrainConfig

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
    train_with_all=True,  # of validation patients the paper says nothing
)

_OPTIMIZER = OptimizerConfig(6e-4, 1e-6, (0.9, 0.99), 1e-9, per_epoch=False, warm_up=0.03, gradient_clip=1.0)

# For models that ship: the whole objective on what the product makes of the network, for many doses and kernels, with
# lesions, with images that grow. For simulated sets. ESAU-Net as a residual on folded pixels: ahead of the paper's form
# in equal time, at a quarter of its cost in use.
_PRODUCT = TrainConfig(
    "product",
    network_settings={"residual": True, "fold": 2},
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
    precision="bf16",
    ema=0.998,
    validation_slices=16,
)


@dataclass(frozen=True)
class Peer:
    """What a method that ASCON is compared with has of its own: network, losses, optimiser (Adam).

    All the rest of its training is another preset's, its base; see `peer`. `networks/` and `objectives/` name the
    papers that losses, learning rates and betas are from.

    Attributes:
        network: a key of ASCONDenoiseLib.models.networks.ARCHITECTURES.
        objective: one of OBJECTIVE_NAMES.
        loss: weights of the losses.
        learning_rate: at the start; None: the base's.
        betas: of Adam; None: the base's.
        changes: other settings.
    """

    network: str
    objective: str = "ascon"
    loss: LossConfig = field(default_factory=LossConfig)
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    changes: dict[str, Any] = field(default_factory=dict)


ADAM = (0.9, 0.999)
"""Betas where a paper names none."""

_ONLY_MSE = LossConfig(mse_weight=1000.0, ssim_weight=0.0)  # to Adam a factor is nothing, but for a gradient's clip

CRITIC_PATCH, CRITIC_BATCH = 64, 128
"""WGAN-VGG's, as published: its critic takes images of one size."""

_FP32: dict[str, Any] = {"precision": "fp32"}
_ALDEN = _FP32 | {"patch": 128, "batch": 8, "growth": ()}  # smaller patches hold too little for a vision model
_UNPAIRED_SLICES = _FP32 | {"unpaired": True, "patch": None, "batch": 8, "growth": ()}
_UNPAIRED_SLICES |= {"pixels_mm": None, "kernel_cutoffs": None, "noise_cutoffs": None}  # which need patches

PEERS = {
    "unet": Peer("unet", loss=_ONLY_MSE),  # its optimiser is ASCON's, as in the table of that paper
    "red_cnn": Peer("red_cnn", loss=_ONLY_MSE, learning_rate=1e-4, betas=ADAM),
    "wgan_vgg": Peer("wgan_vgg", "wgan_vgg", learning_rate=1e-5, betas=(0.5, 0.9)),  # needs loss.vgg_weights
    "edcnn": Peer("edcnn", "edcnn", learning_rate=1e-3, betas=ADAM),
    "du_gan": Peer("du_gan", "du_gan", learning_rate=1e-4, betas=ADAM),
    "du_gan_script": Peer("du_gan", "du_gan", LossConfig(du_gan="script"), 0.00018083340390609657, ADAM),
    "cncl": Peer("cncl", "cncl", learning_rate=2e-5, betas=(0.5, 0.999)),
    "patch_dml": Peer("patch_dml", "patch_dml", learning_rate=2e-4, betas=(0.5, 0.999), changes=_UNPAIRED_SLICES),
    "tsc_net": Peer("tsc_net", "tsc_net", learning_rate=1e-4, betas=ADAM, changes=_FP32),  # needs loss.vgg_weights
    "tsc_net_latent": Peer("tsc_net", "tsc_net_latent", learning_rate=1e-4, betas=ADAM, changes=_FP32),
    "alden": Peer("esau_net", "alden", learning_rate=1e-4, betas=(0.5, 0.999), changes=_ALDEN),  # loss.vit_weights
    "alden_own_features": Peer(
        "esau_net", "alden_own_features", learning_rate=1e-4, betas=(0.5, 0.999), changes=_ALDEN
    ),
    "resnet": Peer("resnet", loss=_ONLY_MSE, learning_rate=1e-4, betas=ADAM),
    "cnn10": Peer("cnn10", loss=_ONLY_MSE, learning_rate=1.58e-4, betas=ADAM),  # both rates are ldct-benchmark's
}
"""Name of the preset -> what the method has of its own."""


def peer(name: str, base: TrainConfig) -> TrainConfig:
    """The training of a peer whose images, doses, epochs and schedule are those of a base.

    From the base it has patches, batch, growth, doses, lesions, kernels and whatever else its images get; epochs, steps
    and minutes; warm-up, cosine, last learning rate, clipping of the gradient; averaged weights, precision, seed,
    validation, and files of weights. So with the base `product` a peer has warm-up, clipping, averaged weights, growing
    patches, lesions and kernels that its paper does not have.

    Args:
        name: a key of PEERS.
        base: a training, with or without MAC-Net.
    """
    own = PEERS[name]
    rate, betas = own.learning_rate or base.optimizer.learning_rate, own.betas or base.optimizer.betas
    files = {name: getattr(base.loss, name) for name in WEIGHT_FILES}
    images: dict[str, Any] = {}
    if own.objective == "wgan_vgg":
        larger = base.patch is None or base.patch > CRITIC_PATCH
        images = {"growth": (), "patch": CRITIC_PATCH, "batch": CRITIC_BATCH if larger else base.batch}
    settings: dict[str, Any] = {
        "preset": name if base.preset == "product" else f"{name}-{base.preset}",
        "network": own.network,
        "network_settings": {},
        "objective": own.objective,
        "initial": None,
        "mac": None,
        "loss": replace(own.loss, **files),
        "optimizer": replace(base.optimizer, learning_rate=rate, betas=betas, weight_decay=0.0, mac_learning_rate=None),
    }
    return replace(base, **settings | images | own.changes)


_ALL = (
    _PAPER,
    replace(
        _PAPER,
        preset="paper-mayo2020",
        mac=replace(_PAPER_MAC, local_queries=16, global_queries=256),
        patch=256,
        crops_per_epoch=9600,  # 1200 steps; the set has about six times as many
    ),
    TrainConfig("released", train_with_all=True),
    # The whole objective in minutes, on phantoms and two processor cores: it shows that everything works, no more.
    TrainConfig(
        "smoke",
        network_settings={"residual": True, "fold": 2, "channels": 16},
        mac=MACConfig(global_queries=8, local_queries=64),
        loss=LossConfig(mse_weight=1000.0, ssim_weight=1.0, mac_weight=0.005),
        optimizer=replace(_OPTIMIZER, warm_up=0.05),
        epochs=6,
        steps_per_epoch=80,
        batch=4,
        patch=64,
        precision="bf16",
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
        precision="bf16",
        ema=0.998,
    ),
)
BASES = tuple(config.preset for config in _ALL)
"""Names of the presets that a peer can have as its base."""

PRESETS: dict[str, TrainConfig] = {config.preset: config for config in _ALL}
PRESETS |= {name: peer(name, _PRODUCT) for name in PEERS}
"""Name -> settings that a training can begin with."""
