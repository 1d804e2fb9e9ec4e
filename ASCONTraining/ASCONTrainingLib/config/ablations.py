"""The rows of the paper's ablation tables 2, S1 and S2 as settings of trainings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.settings import LossConfig, MACConfig, TrainConfig

PERCEPTUAL_WEIGHT = 0.1
"""Of the VGG loss in its row of Table 2; not given in the paper."""


@dataclass(frozen=True)
class AblationRow:
    """One training of an ablation table.

    Attributes:
        name: as the table has it.
        config: None where it cannot be run.
        reason: why it cannot be run.
    """

    name: str
    config: TrainConfig | None
    reason: str = ""


def table_2(base: TrainConfig, vgg_weights: str | None = None) -> list[AblationRow]:
    """The six rows of Table 2, losses added one after the other; `base` is a training with MAC-Net.

    What `base` has besides (local means, the answer to lesions), all rows have. `vgg_weights` is a file for the row
    with the perceptual loss; None takes that of `base`, if it names one. Raises InputError without MAC-Net.
    """
    mac = _mac_of(base)
    pixel = replace(base, mac=None, loss=replace(base.loss, ssim_weight=0.0, perceptual_weight=0.0, vgg_weights=None))
    pixel = pixel if pixel.loss.mse_weight else pixel.changed({"loss.mse_weight": LossConfig.mse_weight})
    both = replace(pixel, loss=replace(pixel.loss, ssim_weight=base.loss.ssim_weight or LossConfig.ssim_weight))
    perceptual = AblationRow("MSE + perceptual", None, "not run: no weights file")
    vgg_weights = vgg_weights or base.loss.vgg_weights
    if vgg_weights is not None:
        weights = replace(pixel.loss, perceptual_weight=PERCEPTUAL_WEIGHT, vgg_weights=vgg_weights)
        perceptual = AblationRow(perceptual.name, replace(pixel, loss=weights))
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
    """Table S1: MAC-Net on other denoisers, each without and with it; `networks` are those that exist."""
    rows = []
    for network, name in (("red_cnn", "RED-CNN"), ("unet", "U-Net"), ("esau_net", "ESAU-Net")):
        for mac, suffix in ((None, ""), (_mac_of(base), " + MAC-Net")):
            there = network in networks
            config = replace(base, network=network, mac=mac) if there else None
            reason = "" if there else f"not run: there is no network {network}"
            rows.append(AblationRow(name + suffix, config, reason))
    return rows


def table_s2(base: TrainConfig) -> list[AblationRow]:
    """Table S2: the whole method, and without one of its training strategies."""
    mac = _mac_of(base)
    return [
        AblationRow("without alternate learning", replace(base, mac=replace(mac, alternate=False))),
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
