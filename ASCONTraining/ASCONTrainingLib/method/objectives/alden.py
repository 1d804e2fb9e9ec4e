"""ALDEN's losses: a critic and a contrast that see anatomy (Wang et al., arXiv 2508.07788, 2025).

"Anatomy-Aware Low-Dose CT Denoising via Pretrained Vision Models and Semantic-Guided Contrastive Learning". Its
abstract has the parts: features that a pretrained vision model sees in the NDCT enter the discriminator by
cross-attention, and features of LDCT, denoised image and NDCT are contrasted, with two kinds of negatives. Layers,
weights and the vision model (DINOv2) are decided here. Any denoiser can be trained with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU, to_hu
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.vision_transformer import VisionTransformerFeatures, load_vision_transformer

MSE_WEIGHT, CONTRAST_WEIGHT = 1000.0, 0.1
ADVERSARIAL_SHARE, BALANCED_UNTIL, BALANCE_EVERY = 0.1, 500, 100
"""The adversarial loss's gradient, as part of the MSE's, is brought to the first until so many steps, every so many."""
TEMPERATURE, NEGATIVES, DIFFERENT, SAME = 0.1, 32, 0.7, 0.98
"""Of the contrast: other places whose cosine in the NDCT is below `DIFFERENT` are negatives; places where LDCT and NDCT
are closer than `SAME` are left out, since negative and positive are one there."""
RATE, BETAS = 1e-4, (0.5, 0.999)
"""Of the discriminator's Adam."""
WIDTHS, HEADS, HEAD_WIDTH, SLOPE = (64, 128, 256, 512), 4, 32, 0.2


class Features(Protocol):
    """A frozen model that sees anatomy.

    Attributes:
        widths: channels of the tokens of three depths.
    """

    @property
    def widths(self) -> tuple[int, ...]: ...

    def __call__(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in unit range -> tokens (B, N, C) of each depth."""


def make(context: TrainingContext) -> ALDENObjective:
    """The objective with the transformer of loss.vit_weights. Raises InputError without such a file."""
    path = context.config.loss.vit_weights
    if path is None:
        raise InputError(
            "ALDEN sees anatomy with a pretrained vision transformer (DINOv2 ViT-S/14), whose weights ASCON does not "
            "ship: name a file with them in loss.vit_weights, or set objective to alden_own_features."
        )
    return ALDENObjective(context, VisionTransformerFeatures(load_vision_transformer(path).to(context.device)))


class ALDENObjective:
    """One step: the discriminator learns from the denoised image as it is, then the denoiser learns.

    Args:
        context: the denoiser and the tools to train it.
        features: of images; never trained.
    """

    def __init__(self, context: TrainingContext, features: Features):
        self.context, self.features = context, features
        self.discriminator = AnatomyAwareDiscriminator(features.widths).to(context.device)
        self.wrapped = context.wrap(self.discriminator)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(self.discriminator.parameters(), RATE, BETAS)
        self.balance = Balance(context.mean).to(context.device)
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {
            "discriminator": self.discriminator,
            "discriminator_optimizer": self.optimizer,
            "balance": self.balance,
        }

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; `generator` draws the negatives.

        "mse", "contrast" and "adversarial" are parts of the denoiser's loss before their weights; "adversarial_weight"
        is that of the last, "adversarial_share" the size of its gradient as part of the MSE's, when last measured.
        """
        denoised = self.context.denoise(ldct)
        with torch.no_grad():
            anatomy, noisy = self.features(ndct), self.features(ldct)[-1]
        twice = [torch.cat((tokens, tokens)) for tokens in anatomy]
        real, false = self._scores(self.wrapped, torch.cat((ndct, denoised.detach())), twice).chunk(2)
        critic_loss = F.relu(1 - real).mean() + F.relu(1 + false).mean()
        self.context.descend(critic_loss, "discriminator", self.optimizer)

        mse = F.mse_loss(denoised, ndct)
        contrast = semantic_contrast(self.features(denoised)[-1], anatomy[-1], noisy, generator)
        with frozen(self.discriminator):
            adversarial = -self._scores(self.discriminator, denoised, anatomy).mean()
        learning = [p for p in self.context.unwrapped.parameters() if p.requires_grad]
        weight = self.balance.weight_of(MSE_WEIGHT * mse, adversarial, learning)
        loss = MSE_WEIGHT * mse + CONTRAST_WEIGHT * contrast + weight * adversarial
        (norm,) = self.context.descend(loss, "denoiser", self.context.optimizer)
        parts = {"loss": loss, "mse": mse, "contrast": contrast, "adversarial": adversarial}
        balance = {"adversarial_weight": self.balance.weight, "adversarial_share": self.balance.share}
        return to_floats(parts | balance | {"discriminator": critic_loss, "gradient_norm": norm})

    def _scores(self, discriminator: nn.Module, images: torch.Tensor, anatomy: list[torch.Tensor]) -> torch.Tensor:
        low, high = DISPLAY_WINDOWS_HU["abdomen"]
        with self.context.autocast():
            scores: torch.Tensor = discriminator((to_hu(images) - low) / (high - low), anatomy)
        return scores.float()


class Balance(nn.Module):
    """The weight of the adversarial loss, which makes its gradient a tenth of the MSE's; part of the checkpoint.

    It is set at the first step and anew every 100 steps until step 500; from then on it stays, and is only measured.

    Args:
        mean: of numbers over all processes, which all get the same weight.
    """

    steps: torch.Tensor
    weight: torch.Tensor
    share: torch.Tensor

    def __init__(self, mean: Callable[..., list[float]]):
        super().__init__()
        self.mean = mean
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weight", torch.ones(()))
        self.register_buffer("share", torch.zeros(()))

    def weight_of(
        self, mse: torch.Tensor, adversarial: torch.Tensor, parameters: Sequence[nn.Parameter]
    ) -> torch.Tensor:
        """The weight for this step; counts the steps. Both losses are scalars, `parameters` the denoiser's."""
        done = int(self.steps)
        if done % BALANCE_EVERY == 0:
            norms = self.mean(*(_gradient_norm(loss, parameters) for loss in (mse, adversarial)))
            ratio = norms[1] / max(norms[0], 1e-12)
            if done <= BALANCED_UNTIL:
                self.weight.fill_(ADVERSARIAL_SHARE / max(ratio, 1e-12))
            self.share.copy_(self.weight * ratio)
        self.steps += 1
        return self.weight.clone()


def _gradient_norm(loss: torch.Tensor, parameters: Sequence[nn.Parameter]) -> float:
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    return float(torch.stack([gradient.float().square().sum() for gradient in gradients]).sum().sqrt())


def semantic_contrast(
    denoised: torch.Tensor,
    ndct: torch.Tensor,
    ldct: torch.Tensor,
    generator: torch.Generator,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """Places of the denoised image are to look like the NDCT there, not like the LDCT, nor like other tissue: a scalar.

    For each place i: -log(e^(y'_i y_i / t) / (e^(y'_i y_i / t) + e^(y'_i x_i / t) + sum over j of e^(y'_i y_j / t))),
    with features of length 1, y' of the denoised image, y of the NDCT, x of the LDCT, and at most 32 places j that look
    different from i in the NDCT. The mean is over the places where noise changes the features at all; 0 without any.

    Args:
        denoised: (B, N, C), with a gradient.
        ndct: like `denoised`.
        ldct: like `denoised`.
        generator: draws the places j, on the CPU.
        temperature: t.
    """
    own, positive, noisy = (F.normalize(tokens, dim=-1) for tokens in (denoised, ndct, ldct))
    different = positive @ positive.mT < DIFFERENT  # (B, N, N)
    order = torch.rand(different.shape, generator=generator).to(own.device).masked_fill(~different, -1)
    drawn, places = order.topk(min(NEGATIVES, order.shape[-1]), -1)  # (B, N, K)
    others = (own @ positive.mT).gather(-1, places).masked_fill(drawn < 0, -torch.inf)
    alike, unlike = (own * positive).sum(-1, keepdim=True), (own * noisy).sum(-1, keepdim=True)
    logits = torch.cat((alike, unlike, others), -1) / temperature
    counted = (positive * noisy).sum(-1) <= SAME
    losses = (torch.logsumexp(logits, -1) - logits[..., 0]) * counted
    mean: torch.Tensor = losses.sum() / counted.sum().clamp(min=1)
    return mean


class AnatomyAwareDiscriminator(nn.Module):
    """PatchGAN whose last three stages attend to features of the NDCT; a score for each 16x16 pixels.

    Real and denoised images are judged beside the features of the NDCT: by its own features each could be told.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        pairs = zip((1, *WIDTHS[:-1]), WIDTHS, strict=True)
        self.stages = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, 4, stride=2, padding=1)) for a, b in pairs)
        self.attentions = nn.ModuleList(
            CrossAttention(channels, width) for channels, width in zip(WIDTHS[1:], widths, strict=True)
        )
        self.last = spectral_norm(nn.Conv2d(WIDTHS[-1], 1, 1))

    def forward(self, x: torch.Tensor, anatomy: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, 1, H, W) in units of [-160, 240] HU, and tokens (B, N, C) of three depths -> (B, 1, H/16, W/16)"""
        y = F.leaky_relu(self.stages[0](x), SLOPE)
        for stage, attention, tokens in zip(self.stages[1:], self.attentions, anatomy, strict=True):
            y = attention(F.leaky_relu(stage(y), SLOPE), tokens)
        scores: torch.Tensor = self.last(y)
        return scores


class CrossAttention(nn.Module):
    """Each pixel looks for tokens that concern it; what it finds is added, at first with a factor of 0."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        inner = HEADS * HEAD_WIDTH
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query = spectral_norm(nn.Conv2d(channels, inner, 1))
        self.key = spectral_norm(nn.Linear(width, inner))
        self.value = spectral_norm(nn.Linear(width, inner))
        self.project = spectral_norm(nn.Conv2d(inner, channels, 1))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) and (B, N, width) -> (B, C, H, W)"""
        tokens = self.norm(tokens)
        q = self.query(x).flatten(2).mT.unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2)  # (B, heads, H W, 32)
        k, v = (layer(tokens).unflatten(-1, (HEADS, HEAD_WIDTH)).transpose(1, 2) for layer in (self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mT  # (B, 128, H W)
        y: torch.Tensor = x + self.gamma * self.project(found.reshape(len(x), -1, *x.shape[-2:]))
        return y
