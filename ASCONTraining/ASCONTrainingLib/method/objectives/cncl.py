"""CNCL's losses: content and noise at once, and a PatchGAN (Geng et al., IEEE TMI 41:407, 2022, section II).

The denoiser predicts (content, noise); its loss is 100 * L1, the mean over both, plus a least-squares adversarial loss.
The discriminator sees content, noise and the LDCT. Layers, weights and the order of updates (the denoiser first) are
those of the authors' implementation. They divide images by the variance of each; ours stay in unit range.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats

L1_WEIGHT = 100.0
RATE, BETAS = 2e-5, (0.5, 0.999)
"""Of the discriminator's Adam."""
INITIAL_SD = 0.02


def make(context: TrainingContext) -> CNCLObjective:
    """The objective with a fresh discriminator. Raises InputError unless the network predicts content and noise."""
    if not hasattr(context.unwrapped, "complements"):
        raise InputError("The objective cncl trains a network that predicts content and noise: set network to cncl.")
    discriminator = PatchDiscriminator().to(context.device)
    return CNCLObjective(context, discriminator, torch.optim.Adam(discriminator.parameters(), RATE, BETAS))


class CNCLObjective:
    """One step: the denoiser learns against the discriminator as it is, then the discriminator learns."""

    def __init__(self, context: TrainingContext, discriminator: PatchDiscriminator, optimizer: torch.optim.Optimizer):
        self.context, self.discriminator, self.optimizer = context, discriminator, optimizer
        self.wrapped = context.wrap(discriminator)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "discriminator": discriminator,
            "discriminator_optimizer": optimizer,
        }

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; "l1" and "adversarial" are parts of the denoiser's loss before their weights."""
        with self.context.autocast():
            predicted = self.context.network(ldct)
        predicted = predicted.to(ldct.dtype)  # (B, 2, H, W): content and noise
        target = torch.cat((ndct, ldct - ndct), 1)

        with frozen(self.discriminator):
            adversarial = least_squares(self._scores(self.discriminator, predicted, ldct), 1.0)
        l1 = F.l1_loss(predicted, target)
        loss = adversarial + L1_WEIGHT * l1
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)

        pairs = torch.cat((target, predicted.detach()))
        real, false = self._scores(self.wrapped, pairs, torch.cat((ldct, ldct))).chunk(2)
        critic_loss = 0.5 * (least_squares(real, 1.0) + least_squares(false, 0.0))
        self.context.descend(critic_loss, "discriminator", self.optimizer)
        parts = {
            "loss": loss,
            "l1": l1,
            "adversarial": adversarial,
            "discriminator": critic_loss,
            "gradient_norm": norm,
        }
        return to_floats(parts)

    def _scores(self, discriminator: nn.Module, pair: torch.Tensor, ldct: torch.Tensor) -> torch.Tensor:
        with self.context.autocast():
            scores: torch.Tensor = discriminator(torch.cat((pair, ldct), 1))
        return scores.float()


def least_squares(scores: torch.Tensor, target: float) -> torch.Tensor:
    """Least-squares adversarial loss, mean((scores - target)^2) (Mao et al., ICCV 2017): a scalar."""
    return (scores - target).square().mean()


class PatchDiscriminator(nn.Module):
    """PatchGAN on content, noise and LDCT: one score for each 16x16 pixels. 2,764,736 parameters."""

    def __init__(self) -> None:
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
        scores: torch.Tensor = self.layers(x)
        return scores
