"""How a denoiser runs in training: what hands on the image in fp32, and the rule of the product for its output."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.func import functional_call

from ASCONDenoiseLib.models.mixed_precision import lowered_layers
from ASCONDenoiseLib.models.networks import has_features, image_of


class MixedPrecision(nn.Module):
    """A denoiser that keeps in fp32 what hands on the image under autocast: an image has more than bfloat16's 8 bits.

    A network that names its PRECISE_LAYERS has the form that it has in inference: all other convolutions in autocast's
    type, the rest in fp32. Under autocast alone ESAU-Net's shipped weights give an image that is 1.7 HU too dark, with
    2.0 HU RMS; in this form it is 0.1 and 0.2 HU. Of other networks the last layer keeps fp32.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the same, denoised."""
        kind = _computed_in(x)
        if kind != x.dtype and hasattr(self.network, "PRECISE_LAYERS"):
            names = [f"{name}.weight" for name in lowered_layers(self.network)]
            lowered = {name: self.network.get_parameter(name).to(kind) for name in names}
            with torch.autocast(x.device.type, enabled=False):
                image: torch.Tensor = functional_call(self.network, lowered, (x,))
            return image
        if not has_features(self.network):
            denoised: torch.Tensor = self.network(x)
            return denoised
        features: torch.Tensor = cast(Any, self.network).features(x)
        with torch.autocast(x.device.type, enabled=False):
            return image_of(self.network, features.float(), x)


def _computed_in(x: torch.Tensor) -> torch.dtype:
    """The type in which matrices like x are multiplied here; all versions of torch say so in this way only."""
    one = x.new_ones(1, 1)
    return (one @ one).dtype


class ProductOutput(nn.Module):
    """What the product makes of a denoiser G: y = x + G(c) - c with c = x clipped to the window.

    As in the product, voxels of 2000 HU and more keep their value. (Padding does too there; here x and NDCT have the
    same padding, so G has nothing to learn from it.)
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range, not clipped -> the same, denoised."""
        clipped = x.clamp(0, 1)
        return torch.where(x < 1, x + (self.network(clipped) - clipped), x)
