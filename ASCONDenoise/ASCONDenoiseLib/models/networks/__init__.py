"""Denoising networks, one per file. Each maps (B, 1, H, W) in unit range to the same shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

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
    "esau_pair": _network("esau_pair", "ESAUPair"),
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


def anatomy_of(network: nn.Module, features: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """What anatomy is found in, (B, C, H, W), from a network's features and its output, the image (B, 1, H, W).

    The features, each of a square of pixels repeated for these pixels. Those of a residual network describe noise
    alone, as the anatomy goes past them: there the first channel is the image, and after it each feature is multiplied
    by the norm of its weights in the last layer, which tells what it can change in that image.
    """
    import torch

    fold = image.shape[-1] // features.shape[-1]
    if getattr(network, "residual", False):
        weight: torch.Tensor = cast(Any, network).last.weight  # (fold^2, C, 3, 3)
        features = features * weight.to(features.dtype).square().sum((0, 2, 3)).sqrt()[:, None, None]
        return torch.cat((image, _repeated(features, fold).to(image.dtype)), dim=1)
    return _repeated(features, fold)


def _repeated(x: torch.Tensor, times: int) -> torch.Tensor:
    """Each pixel of x (B, C, H, W) `times` times in both directions."""
    return x.repeat_interleave(times, -2).repeat_interleave(times, -1)


def has_features(network: nn.Module) -> bool:
    """Whether `network.features` and `image_of` can be called."""
    return hasattr(network, "features") and hasattr(network, "last")
