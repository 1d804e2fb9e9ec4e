"""Denoising networks, one per file. Each maps (B, 1, H, W) in unit range to the same shape."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def _network(file: str, name: str) -> Callable[..., nn.Module]:
    """The constructor of a network in this folder, which is imported (and torch with it) when it is called."""

    def build(**settings: Any) -> nn.Module:
        network: nn.Module = getattr(import_module(f"{__name__}.{file}"), name)(**settings)
        return network

    return build


ARCHITECTURES = {
    "esau_net": _network("esau_net", "ESAUNet"),
    "unet": _network("unet", "UNet"),
    "red_cnn": _network("red_cnn", "REDCNN"),
    "edcnn": _network("edcnn", "EDCNN"),
    "cncl": _network("cncl", "CNCLUNet"),
    "du_gan": _network("du_gan", "DUGANGenerator"),
    "wgan_vgg": _network("wgan_vgg", "WGANVGGGenerator"),
    "patch_dml": _network("patch_dml", "PatchDML"),
    "tsc_net": _network("tsc_net", "TSCNet"),
    "resnet": _network("resnet", "ResNet"),
    "cnn10": _network("cnn10", "CNN10"),
}
"""Architecture as the card names it -> its constructor, which imports torch; the card's settings are its arguments."""
