"""The rows of the paper's tables 1, 2, S1 and S2, and of a table of other systems, as settings of trainings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.presets import peer
from ASCONTrainingLib.config.settings import WEIGHT_FILES, LossConfig, MACConfig, TrainConfig

PERCEPTUAL_SHARE = 0.1
"""Weight of the VGG loss in its row of Table 2, for an MSE of weight 1; not given in the paper."""

NO_FILE = "not run: no weights file"


@dataclass(frozen=True)
class AblationRow:
    """One training of a table.

    Attributes:
        name: as the table has it.
        config: None where it cannot be run.
        reason: why it cannot be run.
    """

    name: str
    config: TrainConfig | None
    reason: str = ""


def table_1(base: TrainConfig) -> list[AblationRow]:
    """The eight rows of Table 1: the peers with the images and the schedule of `base` (see `presets.peer`), and ASCON.

    WGAN-VGG is not run without the file of `base.loss.vgg_weights`; without `base.loss.resnet_weights` EDCNN has the
    MSE alone, and the row says so. `base.loss.du_gan` chooses DU-GAN's weights. Raises InputError without MAC-Net.
    """
    _mac_of(base)
    vgg, resnet = base.loss.vgg_weights, base.loss.resnet_weights
    du_gan, its_weights = {
        "defaults": ("du_gan", "the defaults of its code"),
        "script": ("du_gan_script", "the values of its script"),
    }[base.loss.du_gan]
    base = _without_files(base)
    wgan_vgg = AblationRow("WGAN-VGG", None, f"{NO_FILE} (VGG-19)")
    if vgg is not None:
        wgan_vgg = AblationRow(wgan_vgg.name, peer("wgan_vgg", _with_losses(base, vgg_weights=vgg)))
    return [
        AblationRow("U-Net", peer("unet", base)),
        AblationRow("RED-CNN", peer("red_cnn", base)),
        wgan_vgg,
        AblationRow(
            "EDCNN" if resnet else "EDCNN without its perceptual loss: no ResNet-50 weights",
            peer("edcnn", _with_losses(base, resnet_weights=resnet)),
        ),
        AblationRow(f"DU-GAN with {its_weights}", peer(du_gan, base)),
        AblationRow("CNCL", peer("cncl", base)),
        AblationRow("ESAU-Net", replace(base, mac=None)),
        AblationRow("ASCON", base),
    ]


def table_systems(base: TrainConfig) -> list[AblationRow]:
    """Systems that are not in the paper, with the images and the schedule of `base`, and ASCON (docs/systems.md).

    TSC-Net and ALDEN are not run without the files of `base.loss.vgg_weights` and `base.loss.vit_weights`; their
    variants with features of our own are rows of their own. Raises InputError without MAC-Net.
    """
    _mac_of(base)
    files = {"TSC-Net": ("tsc_net", "vgg_weights", "VGG-19"), "ALDEN": ("alden", "vit_weights", "DINOv2 ViT")}
    with_file = {}
    for name, (preset, setting, title) in files.items():
        path = getattr(base.loss, setting)
        with_file[name] = AblationRow(name, None, f"{NO_FILE} ({title})")
        if path is not None:
            config = peer(preset, _with_losses(_without_files(base), **{setting: path}))
            with_file[name] = AblationRow(name, config)
    base = _without_files(base)
    return [
        AblationRow("CNN-10", peer("cnn10", base)),
        AblationRow("ResNet (Missert et al.)", peer("resnet", base)),
        AblationRow("Patch-DML, unpaired", peer("patch_dml", base)),
        with_file["TSC-Net"],
        AblationRow("TSC-Net's losses in its teacher", peer("tsc_net_latent", base)),
        with_file["ALDEN"],
        AblationRow("ALDEN's losses with our features", peer("alden_own_features", base)),
        AblationRow("CoreDiff", None, "not run: it is not here, since its training takes days on a GPU"),
        AblationRow("ESAU-Net", replace(base, mac=None)),
        AblationRow("ASCON", base),
    ]


def table_2(base: TrainConfig) -> list[AblationRow]:
    """The six rows of Table 2, losses added one after the other; `base` is a training with MAC-Net.

    What `base` has besides (local means, the answer to lesions), all rows have. The row with the perceptual loss is not
    run without the file of `base.loss.vgg_weights`. Raises InputError without MAC-Net.
    """
    mac = _mac_of(base)
    vgg, base = base.loss.vgg_weights, _without_files(base)
    pixel = _with_losses(replace(base, mac=None), ssim_weight=0.0, perceptual_weight=0.0, vgg_weights=None)
    pixel = pixel if pixel.loss.mse_weight else pixel.changed({"loss.mse_weight": LossConfig.mse_weight})
    both = _with_losses(pixel, ssim_weight=base.loss.ssim_weight or LossConfig.ssim_weight)
    perceptual = AblationRow("MSE + perceptual", None, f"{NO_FILE} (VGG-19)")
    if vgg is not None:
        weight = PERCEPTUAL_SHARE * pixel.loss.mse_weight
        config = _with_losses(pixel, perceptual_weight=weight, vgg_weights=vgg)
        perceptual = AblationRow(perceptual.name, config)
    global_, local = (replace(mac, use_global=g, use_local=not g) for g in (True, False))
    return [
        AblationRow("MSE", pixel),
        perceptual,
        AblationRow("MSE + SSIM", both),
        AblationRow("MSE + SSIM + global", replace(both, mac=global_)),
        AblationRow("MSE + SSIM + local", replace(both, mac=local)),
        AblationRow("MSE + SSIM + local + global", replace(both, mac=replace(global_, use_local=True))),
    ]


def table_s1(base: TrainConfig, networks: Collection[str]) -> list[AblationRow]:
    """Table S1: MAC-Net on other denoisers, each without and with it; `networks` are those that exist.

    Settings of the base's network are its own, and no other's.
    """
    base = _without_files(base)
    rows = []
    for network, name in (("red_cnn", "RED-CNN"), ("unet", "U-Net"), ("esau_net", "ESAU-Net")):
        for mac, suffix in ((None, ""), (_mac_of(base), " + MAC-Net")):
            there = network in networks
            settings = base.network_settings if network == base.network else {}
            config = replace(base, network=network, network_settings=settings, mac=mac) if there else None
            reason = "" if there else f"not run: there is no network {network}"
            rows.append(AblationRow(name + suffix, config, reason))
    return rows


def table_s2(base: TrainConfig) -> list[AblationRow]:
    """Table S2: the whole method, and without one of its training strategies.

    Without alternate learning MAC-Net's gradient comes from the denoiser's loss, where its losses weigh less than in
    its own. Its plain SGD gets a rate that is higher by the same factor, so that it moves as fast as in the other rows.
    """
    base = _without_files(base)
    mac, loss, optimizer = _mac_of(base), base.loss, base.optimizer
    together = replace(base, mac=replace(mac, alternate=False))
    if mac.optimizer == "sgd" and loss.mac_weight:
        rate = optimizer.mac_learning_rate or optimizer.learning_rate
        rate *= loss.mac_net_loss_weight / loss.mac_weight
        together = replace(together, optimizer=replace(optimizer, mac_learning_rate=rate))
    return [
        AblationRow("without alternate learning", together),
        AblationRow(
            "without neighbouring positive matching", replace(base, mac=replace(mac, neighbour_matching=False))
        ),
        AblationRow("without hard negatives", replace(base, mac=replace(mac, hard_negatives=False))),
        AblationRow("the whole method", base),
    ]


def _mac_of(base: TrainConfig) -> MACConfig:
    if base.mac is None:
        raise InputError("The setting mac is None; it must be set: an ablation starts from a training with MAC-Net.")
    return base.mac


def _without_files(base: TrainConfig) -> TrainConfig:
    """Without files of weights that it does not use, so that a row is the same training whether others have theirs."""
    kept = {"vgg_weights"} if base.loss.perceptual_weight else set()
    return _with_losses(base, **{name: None for name in WEIGHT_FILES if name not in kept})


def _with_losses(base: TrainConfig, **settings: Any) -> TrainConfig:
    return replace(base, loss=replace(base.loss, **settings))
