"""WGAN-VGG's losses: Wasserstein distance with gradient penalty, and VGG-19 (Yang et al., IEEE TMI 37:1348, 2018).

Four steps of the critic, then one of the denoiser (section III-B), all on the same batch; the authors draw a new one
for each. Penalty 10 and VGG weight 0.1 are the paper's (section III-B); their implementation has a penalty of 1. The
VGG loss is theirs: half the sum of the squared differences of relu5_4. Equation 6 has their mean, which for patches of
64x64 is 4096 times less and would leave the denoiser to the critic. Their VGG-19 takes images up to 255, the usual
files of today images of about one deviation: how large its features are is up to the file.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.perceptual import VGG19, deepest_distance, load_vgg19

CRITIC_STEPS = 4
PENALTY = 10.0
VGG_WEIGHT = 0.1
RATE, BETAS = 1e-5, (0.5, 0.9)
"""Of the critic's Adam (section III-B)."""
LARGEST_PATCH = 128
"""The critic ends in a fully connected layer: one for whole slices would have a billion weights."""
SLOPE = 0.2


def make(context: TrainingContext) -> WGANVGGObjective:
    """The objective with a fresh critic and the VGG-19 of loss.vgg_weights.

    Raises InputError without such a file, or where the critic cannot take the patches.
    """
    config = context.config
    if config.loss.vgg_weights is None:
        raise InputError(
            "WGAN-VGG needs VGG-19 weights, which ASCON does not ship: name a file with them in loss.vgg_weights."
        )
    if config.patch is None or config.patch > LARGEST_PATCH or config.patch % 8 or config.growth:
        raise InputError(
            f"WGAN-VGG's critic needs one size of patch, a multiple of 8 and at most {LARGEST_PATCH} (the paper has "
            f"64), and no growth; the setting patch is {config.patch}, growth {config.growth}."
        )
    critic = Critic(config.patch).to(context.device)
    vgg = load_vgg19(config.loss.vgg_weights).to(context.device)
    return WGANVGGObjective(context, critic, torch.optim.Adam(critic.parameters(), RATE, BETAS), vgg)


class WGANVGGObjective:
    """One step: the critic learns four times from the same denoised image, then the denoiser learns."""

    def __init__(self, context: TrainingContext, critic: Critic, optimizer: torch.optim.Optimizer, vgg: VGG19):
        self.context, self.critic, self.optimizer, self.vgg = context, critic, optimizer, vgg
        self.wrapped = context.wrap(critic)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {"critic": critic, "critic_optimizer": optimizer}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; `generator` draws the places of the penalty.

        "adversarial" and "perceptual" are parts of the denoiser's loss before their weights; "distance" is the
        critic's estimate of the Wasserstein distance and "penalty" its gradient penalty, both of its last step.
        """
        denoised = self.context.denoise(ldct)
        for _ in range(CRITIC_STEPS):
            distance, penalty = self._distance(ndct, denoised.detach(), generator)
            self.context.descend(PENALTY * penalty - distance, "critic", self.optimizer)

        with frozen(self.critic), self.context.autocast():
            adversarial = -self.critic(denoised).float().mean()
            perceptual = deepest_distance(self.vgg, denoised, ndct)
        loss = adversarial + VGG_WEIGHT * perceptual
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)
        parts = {"loss": loss, "adversarial": adversarial, "perceptual": perceptual, "gradient_norm": norm}
        return to_floats(parts | {"distance": distance, "penalty": penalty})

    def _distance(
        self, ndct: torch.Tensor, denoised: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """E[D(NDCT)] - E[D(denoised)], and the gradient penalty (equation 3)."""
        with self.context.autocast():
            real, false = self.wrapped(torch.cat((ndct, denoised))).float().chunk(2)
        mixture = torch.rand(len(ndct), 1, 1, 1, generator=generator).to(ndct)
        return real.mean() - false.mean(), gradient_penalty(self.critic, mixture * ndct + (1 - mixture) * denoised)


def gradient_penalty(critic: nn.Module, between: torch.Tensor) -> torch.Tensor:
    """mean((|dD/dx| - 1)^2) at images (B, 1, H, W) (Gulrajani et al., NIPS 2017), in fp32: a scalar with a gradient."""
    between = between.detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: torch.Tensor = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


class Critic(nn.Module):
    """Six 3x3 convolutions, every second halves, then 1024 neurons and one: for patches of one size (section II-C).

    17,923,521 parameters for the paper's patches of 64x64. Weights begin as Xavier's, biases at 0.
    """

    def __init__(self, side: int):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width in (64, 128, 256):
            for stride in (1, 2):
                layers += [nn.Conv2d(channels, width, 3, stride=stride, padding=1), nn.LeakyReLU(SLOPE)]
                channels = width
        self.convs = nn.Sequential(*layers)
        self.hidden = nn.Linear(channels * (side // 8) ** 2, 1024)
        self.value = nn.Linear(1024, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, side, side) -> (B, 1), any number"""
        score: torch.Tensor = self.value(F.leaky_relu(self.hidden(self.convs(x).flatten(1)), SLOPE))
        return score
