"""Denoising networks, one per file. Each maps (B, 1, H, W) in unit range to the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    import torch
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


def build(architecture: str, settings: Mapping[str, Any]) -> nn.Module:
    """A network with random weights.

    Args:
        architecture: a key of ARCHITECTURES.
        settings: arguments of its constructor; none is the published form.

    Raises:
        InputError: there is no such architecture, or it has no such settings.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"There is no network {architecture}; there are {', '.join(ARCHITECTURES)}.")
    try:
        return ARCHITECTURES[architecture](**settings)
    except (TypeError, ValueError) as error:  # InputError is one
        raise InputError(
            f"The network {architecture} cannot be made with the settings {dict(settings)}: {error}"
        ) from None


def image_of(network: nn.Module, features: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The output of a network that has features, (B, 1, H, W), from the features of its input x.

    `network.image(features, x)` where it has that (ESAU-Net, whose input may be added), else `network.last(features)`.
    """
    known: Any = network
    image: torch.Tensor = known.image(features, x) if hasattr(network, "image") else known.last(features)
    return image


def has_features(network: nn.Module) -> bool:
    """Whether `network.features` and `image_of` can be called."""
    return hasattr(network, "features") and hasattr(network, "last")
