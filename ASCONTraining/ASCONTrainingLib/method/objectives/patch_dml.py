"""Patch-DML's losses: a metric between patches, for unpaired images (Jung et al., MICCAI 2022).

"Patch-wise Deep Metric Learning for Unsupervised Low-Dose CT Denoising". Layers, weights and the order of updates (the
denoiser first) are those of the authors' implementation. All networks see the details alone, what is left of a slice
without its low band, which is taken from whole slices; patches are cut out of it here. The learning rate falls with
the cosine of the other presets, where theirs falls linearly in the second half.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks.patch_dml import INITIAL_SD, PatchDML
from ASCONDenoiseLib.models.networks.wavelet import low_band
from ASCONTrainingLib.method.layer_outputs import outputs_of
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.objectives.cncl import least_squares

IDENTITY_WEIGHT, METRIC_WEIGHT = 5.0, 0.1
TEMPERATURE, PLACES, DIMENSIONS = 0.15, 128, 128
"""Of the metric; places of each image and layer."""
CROP, MARGIN = 128, 30
"""Pixels: side of the patches, and their distance from the border of the slice where there is room for it."""
RATE, BETAS = 2e-4, (0.5, 0.999)
"""Of the Adams of heads and discriminator."""
REDUCTION, SLOPE = 16, 0.2


def make(context: TrainingContext) -> PatchDMLObjective:
    """The objective with fresh heads and discriminator. Raises InputError unless the network is Patch-DML's."""
    network = context.unwrapped
    if not isinstance(network, PatchDML):
        raise InputError("The objective patch_dml learns from the layers of its own network: set network to patch_dml.")
    heads = MetricHeads(network.middle.out_channels).to(context.device)
    discriminator = Discriminator().to(context.device)
    return PatchDMLObjective(context, network, heads, discriminator)


class PatchDMLObjective:
    """One step: denoiser and heads learn against the discriminator as it is, then the discriminator learns."""

    def __init__(self, context: TrainingContext, network: PatchDML, heads: MetricHeads, discriminator: Discriminator):
        self.context, self.heads, self.discriminator = context, context.wrap(heads), discriminator
        self.taps = (network.dense, network.middle)
        self.wrapped = context.wrap(discriminator)
        self.heads_optimizer = torch.optim.Adam(heads.parameters(), RATE, BETAS)
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), RATE, BETAS)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "heads": heads,
            "heads_optimizer": self.heads_optimizer,
            "discriminator": discriminator,
            "discriminator_optimizer": self.discriminator_optimizer,
        }

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; slices are best whole, LDCT and NDCT need not be of one patient.

        `generator` draws patches and places. "adversarial", "identity" (of NDCT that is denoised) and "metric" are
        parts of the denoiser's loss before their weights.
        """
        low_dose, normal_dose = (with_low_band(images, generator) for images in (ldct, ndct))  # (B, 2, side, side)
        count = len(ldct)
        with outputs_of(self.taps) as given:
            denoised, same = self._denoised(torch.cat((low_dose, normal_dose))).chunk(2)
        with outputs_of(self.taps) as gained:
            self._denoised(torch.cat((denoised, low_dose[:, 1:]), 1))
        keys, queries = ([tap[:count].float() for tap in taps] for taps in (given, gained))

        false, real = denoised - low_dose[:, 1:], normal_dose[:, :1] - normal_dose[:, 1:]
        with frozen(self.discriminator):
            adversarial = least_squares(self._scores(self.discriminator, false), 1.0)
        identity = F.l1_loss(same, normal_dose[:, :1]) * PatchDML.UNITS
        metric = self._metric(queries, keys, generator)
        loss = adversarial + IDENTITY_WEIGHT * identity + METRIC_WEIGHT * metric
        optimizers = (self.context.optimizer, self.heads_optimizer)
        norm, _ = self.context.descend(loss, "denoiser and the metric's heads", *optimizers)

        scores = self._scores(self.wrapped, torch.cat((real, false.detach())))
        critic_loss = 0.5 * (least_squares(scores[:count], 1.0) + least_squares(scores[count:], 0.0))
        self.context.descend(critic_loss, "discriminator", self.discriminator_optimizer)
        parts = {"loss": loss, "adversarial": adversarial, "identity": identity, "metric": metric}
        return to_floats(parts | {"discriminator": critic_loss, "gradient_norm": norm})

    def _denoised(self, given: torch.Tensor) -> torch.Tensor:
        """(B, 2, H, W) patches with their low band -> (B, 1, H, W)"""
        with self.context.autocast():
            denoised: torch.Tensor = self.context.network(given)
        return denoised.to(given.dtype)

    def _scores(self, discriminator: nn.Module, details: torch.Tensor) -> torch.Tensor:
        with self.context.autocast():
            scores: torch.Tensor = discriminator(details * PatchDML.UNITS)
        return scores.float()

    def _metric(
        self, queries: list[torch.Tensor], keys: list[torch.Tensor], generator: torch.Generator
    ) -> torch.Tensor:
        """Mean of `metric_loss` over both layers; places are the same in all images of the batch."""
        height, width = keys[0].shape[-2:]
        places = [torch.randperm(height * width, generator=generator)[:PLACES].to(keys[0].device) for _ in keys]
        both = [torch.cat((query, key)) for query, key in zip(queries, keys, strict=True)]
        halves = [embedded.chunk(2) for embedded in self.heads(both, places)]
        return torch.stack([metric_loss(query, key) for query, key in halves]).mean()


def metric_loss(query: torch.Tensor, key: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Places of output and input that are one are pulled together, different places of one image apart: a scalar.

    (mean over i != j of exp(k_i k_j / T) + mean over i != j of exp(q_i q_j / T) - mean of exp(q_i k_i / T)) / D. What
    is pushed apart is of one image, and has the same noise level.

    Args:
        query: (B, N, D) of length 1, of the denoised image.
        key: (B, N, D) of length 1, of the LDCT.
        temperature: T.
    """
    others = ~torch.eye(query.shape[1], dtype=torch.bool, device=query.device)
    apart = [torch.exp((x @ x.mT)[:, others] / temperature).mean() for x in (key, query)]
    together = torch.exp((query * key).sum(-1) / temperature).mean()
    return (apart[0] + apart[1] - together) / query.shape[-1]


def with_low_band(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Slices (B, 1, H, W) -> (B, 2, side, side): a patch of each, and the same patch of the low band of the whole.

    The patch lies anywhere, at least 30 pixels from the border; in images that are too small for it, as far as it can.
    """
    both = torch.cat((images, low_band(images)), 1)
    height, width = images.shape[-2:]
    side = min(CROP, height, width)
    patches = []
    for image in both:
        top, left = (_place(length - side, generator) for length in (height, width))
        patches.append(image[:, top : top + side, left : left + side])
    return torch.stack(patches)


def _place(room: int, generator: torch.Generator) -> int:
    """A place from 0 to `room`, as far from both ends as the margin and the room allow."""
    margin = min(MARGIN, room // 2)
    return margin + int(torch.randint(room - 2 * margin + 1, (1,), generator=generator))


class MetricHeads(nn.Module):
    """For each of two layers: two 1x1 convolutions with a ReLU between them, the result of length 1 at each place."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, DIMENSIONS), nn.ReLU(), nn.Linear(DIMENSIONS, DIMENSIONS))
            for _ in range(2)
        )
        _begin(self)

    def forward(self, taps: list[torch.Tensor], places: list[torch.Tensor]) -> list[torch.Tensor]:
        """(B, C, H, W) and (N,) places of each layer -> (B, N, D) of each layer"""
        return [
            F.normalize(head(tap.flatten(2)[:, :, place].mT), dim=-1)
            for head, tap, place in zip(self.heads, taps, places, strict=True)
        ]


class Discriminator(nn.Module):
    """PatchGAN with spectral norm and channel attention: a score for about 8x8 pixels. 401,373 parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.LeakyReLU(SLOPE)]
        for channels_in, channels, stride in ((32, 64, 2), (64, 128, 2), (128, 256, 1)):
            layers += [
                nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1),
                nn.LeakyReLU(SLOPE),
                SqueezeExcitation(channels),
            ]
        layers.append(nn.Conv2d(256, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        _begin(self)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in units of 2000 HU -> (B, 1, H/8, W/8), rounded up"""
        scores: torch.Tensor = self.layers(x)
        return scores


class SqueezeExcitation(nn.Module):
    """Each channel times a number from 0 to 1 that the means of all channels decide (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int):
        super().__init__()
        self.decide = nn.Sequential(
            nn.Linear(channels, channels // REDUCTION), nn.ReLU(), nn.Linear(channels // REDUCTION, channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same shape"""
        return x * torch.sigmoid(self.decide(x.mean((-2, -1))))[..., None, None]


def _begin(module: nn.Module) -> None:
    """Weights N(0, 0.01^2), biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, INITIAL_SD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
