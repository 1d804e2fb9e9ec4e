"""CNCL's losses: content and noise at once, and a PatchGAN (Geng et al., IEEE TMI 41:407, 2022, section II).

The denoiser predicts (content, noise); its loss is 100 * L1, the mean over both, plus a least-squares adversarial loss.
The discriminator sees content, noise and the LDCT. Layers, weights and the order of updates (the denoiser first) are
those of the authors' implementation. They divide images by the variance of each; ours stay in unit range.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONTrainingLib.config.settings import ConfigError
from ASCONTrainingLib.method.objectives.setup import Setup, frozen, to_floats

L1_WEIGHT = 100.0
RATE, BETAS = 2e-5, (0.5, 0.999)
"""Of the discriminator's Adam."""
INITIAL_SD = 0.02


def make(setup: Setup) -> CNCLObjective:
    """The objective with a fresh discriminator. Raises ConfigError unless the network predicts content and noise."""
    if not hasattr(setup.bare, "complements"):
        raise ConfigError("The objective cncl trains a network that predicts content and noise: set network to cncl.")
    discriminator = PatchDiscriminator().to(setup.device)
    return CNCLObjective(setup, discriminator, torch.optim.Adam(discriminator.parameters(), RATE, BETAS))


class CNCLObjective:
    """One step: the denoiser learns against the discriminator as it stands, then the discriminator learns."""

    def __init__(self, setup: Setup, discriminator: PatchDiscriminator, optimizer: torch.optim.Optimizer):
        self.setup, self.discriminator, self.optimizer = setup, discriminator, optimizer
        self.called = setup.wrap(discriminator)
        self.parts = {"discriminator": discriminator, "discriminator_optimizer": optimizer}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """One step on a batch, (B, 1, H, W) in unit range; "l1" and "adversarial" are the denoiser's before weights."""
        with self.setup.autocast():
            predicted = self.setup.network(ldct)
        predicted = predicted.to(ldct.dtype)  # (B, 2, H, W): content and noise
        wanted = torch.cat((ndct, ldct - ndct), 1)

        with frozen(self.discriminator):
            adversarial = least_squares(self._judge(self.discriminator, predicted, ldct), 1.0)
        l1 = F.l1_loss(predicted, wanted)
        loss = adversarial + L1_WEIGHT * l1
        (norm,) = self.setup.descend(loss, "denoiser", self.setup.optimizer)

        pairs = torch.cat((wanted, predicted.detach()))
        real, false = self._judge(self.called, pairs, torch.cat((ldct, ldct))).chunk(2)
        judged = 0.5 * (least_squares(real, 1.0) + least_squares(false, 0.0))
        self.setup.descend(judged, "discriminator", self.optimizer)
        parts = {"loss": loss, "l1": l1, "adversarial": adversarial, "discriminator": judged, "gradient_norm": norm}
        return to_floats(parts)

    def _judge(self, discriminator: nn.Module, pair: torch.Tensor, ldct: torch.Tensor) -> torch.Tensor:
        with self.setup.autocast():
            return discriminator(torch.cat((pair, ldct), 1)).float()


def least_squares(judged: torch.Tensor, wanted: float) -> torch.Tensor:
    """Least-squares adversarial loss, mean((judged - wanted)^2) (Mao et al., ICCV 2017): a scalar."""
    return (judged - wanted).square().mean()


class PatchDiscriminator(nn.Module):
    """PatchGAN on content, noise and LDCT: one judgement for each 16x16 pixels. 2,764,736 parameters."""

    def __init__(self):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for channels in (64, 128, 256):
            layers += [
                nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
                nn.InstanceNorm2d(2 * channels),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers += [nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(512, 1, 4, padding=1, bias=False)]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, INITIAL_SD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W), sides at least 32 -> (B, 1, H/16, W/16)"""
        return self.layers(x)
