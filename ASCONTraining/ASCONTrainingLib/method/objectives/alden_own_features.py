"""ALDEN's losses with features of our own: a variant, not the paper's method, which needs no file.

In the place of a pretrained vision model stands the way down of the denoiser that ASCON ships, an ESAU-Net, the first
of a pair. It has seen CT, and only to take its noise away; and it has seen the scans on its card, so a comparison on
those would flatter.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.files import DEFAULT_MODEL_ALIAS, find_model, load_network
from ASCONDenoiseLib.models.networks.esau_net import LEAKY_SLOPE, ESAUNet
from ASCONDenoiseLib.models.networks.esau_pair import ESAUPair
from ASCONTrainingLib.method.objective import TrainingContext
from ASCONTrainingLib.method.objectives.alden import ALDENObjective


def make(context: TrainingContext) -> ALDENObjective:
    """The objective. Raises InputError where the default model is missing or is no ESAU-Net."""
    network, card = load_network(find_model(DEFAULT_MODEL_ALIAS))
    if isinstance(network, ESAUPair):
        network = network.error
    if not isinstance(network, ESAUNet):
        raise InputError(f"The features of alden_own_features are those of an ESAU-Net, and {card.name} is none.")
    network = network.to(context.device).requires_grad_(False)
    return ALDENObjective(context, ESAUNetFeatures(network))


class ESAUNetFeatures:
    """CT images as the way down of an ESAU-Net sees them, after its second to fourth block, at the size of the last.

    Attributes:
        widths: channels of the tokens of each depth.
    """

    def __init__(self, network: ESAUNet):
        self.network = network
        channels = network.stem.out_channels
        self.widths = (4 * channels, 8 * channels, 8 * channels)

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in unit range, sides multiples of n = SIDE_MULTIPLE -> (B, H W / n^2, C) of each depth"""
        net = self.network
        with torch.autocast(images.device.type, enabled=False):
            y = F.pixel_unshuffle(images, net.fold)
            y = net.enc1(F.leaky_relu(net.stem(y), LEAKY_SLOPE))
            tokens = []
            for block, pooled in ((net.enc2, 4), (net.enc3, 2), (net.enc4, 1)):
                y = block(F.max_pool2d(y, 2))
                tokens.append(F.avg_pool2d(y, pooled).flatten(2).mT)
        return tokens
