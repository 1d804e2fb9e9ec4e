"""The training objective of ASCON: denoiser and MAC-Net learn alternately (paper, sections 2.1 and 2.4)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ASCONDenoiseLib.imaging import hounsfield
from ASCONTrainingLib.data import augmentation
from ASCONTrainingLib.method.losses import local_mean_loss, mse_loss, noise_weights, response_loss, ssim, total_loss
from ASCONTrainingLib.method.mac_net import MACNet
from ASCONTrainingLib.method.objective import TrainingContext, frozen, to_floats
from ASCONTrainingLib.method.perceptual import VGG19, load_vgg19, perceptual_loss
from ASCONTrainingLib.method.teachers import Teachers

MOST_LESIONS = 1.5
"""For each 64x64 pixels, the size of the regions in which the response to lesions is measured: as a rule one each."""
PIXEL_MM = (0.75, 0.75)
"""Assumed for the size of lesions: a batch has images of many scans."""


def make(context: TrainingContext) -> ASCONObjective:
    """The objective that the settings describe, with its MAC-Net and VGG-19 where they are asked for.

    Raises InputError where a teacher, or the file with VGG-19's weights, cannot be used.
    """
    mac, config = None, context.config
    mac_optimizer: torch.optim.Optimizer | None = None
    if config.mac is not None:
        mac = MACNet(config.mac).to(context.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        learning = [p for p in mac.parameters() if p.requires_grad]
        settings = config.optimizer
        rate = settings.mac_learning_rate or settings.learning_rate
        if config.mac.optimizer == "adamw":
            mac_optimizer = torch.optim.AdamW(learning, rate, settings.betas, weight_decay=settings.weight_decay)
        else:
            mac_optimizer = torch.optim.SGD(learning, rate)  # no momentum, as released; the paper names none
    teachers = None
    if config.loss.teachers:
        teachers = Teachers.of_models(config.loss).to(context.device)
    vgg = None
    if config.loss.perceptual_weight and config.loss.vgg_weights is not None:
        vgg = load_vgg19(config.loss.vgg_weights).to(context.device)
    return ASCONObjective(context, mac, mac_optimizer, vgg, teachers)


class Batch(NamedTuple):
    """(B, 1, H, W) each, in unit range. Lesions, if any, are in LDCT and NDCT; `without` is G(LDCT) without them."""

    ldct: torch.Tensor
    ndct: torch.Tensor
    lesions: torch.Tensor | None = None
    without: torch.Tensor | None = None


class MACTraining(NamedTuple):
    """MAC-Net, the same wrapped for several processes, and the optimiser of its online side."""

    net: MACNet
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer


class ASCONObjective:
    """What one training step does to a denoiser G and, where there is one, to MAC-Net.

    Args:
        context: the denoiser and the tools to train it.
        mac: None trains the denoiser alone.
        mac_optimizer: MAC-Net's own.
        vgg: features for the perceptual loss, needed where its weight is not 0.
        teachers: what they make of the batch takes the place of the NDCT.
    """

    def __init__(
        self,
        context: TrainingContext,
        mac: MACNet | None = None,
        mac_optimizer: torch.optim.Optimizer | None = None,
        vgg: VGG19 | None = None,
        teachers: Teachers | None = None,
    ):
        if (mac is None) != (mac_optimizer is None):
            raise ValueError("MAC-Net and its optimiser come together: one of the two is missing.")
        if context.config.loss.perceptual_weight and vgg is None:
            raise ValueError("The perceptual loss has a weight but no VGG-19: load one with perceptual.load_vgg19.")
        self.context, self.loss, self.vgg, self.teachers = context, context.config.loss, vgg, teachers
        self.mac: MACTraining | None = None
        self.parts: dict[str, nn.Module | torch.optim.Optimizer] = {}
        if mac is not None and mac_optimizer is not None:
            self.mac = MACTraining(mac, context.wrap(mac), mac_optimizer)
            self.parts = {"mac": mac, "mac_optimizer": mac_optimizer}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """As `Objective.step`; `generator` draws MAC-Net's queries, and lesions.

        "loss" is the denoiser's, "mse", "ssim" (1 - SSIM), "local_mean", "response", "perceptual", "global" and "local"
        its parts before their weights, "gradient_norm" before clipping; "mac_loss" and "mac_gradient_norm" are
        MAC-Net's.
        """
        batch = Batch(ldct, ndct)
        if self.loss.response_weight and self.context.fraction_done() >= self.loss.response_from:
            batch = self._with_lesions(batch, generator)
        if self.teachers is not None:
            with self.context.autocast():
                batch = batch._replace(ndct=self.teachers(batch.ldct, batch.ndct))
        denoised = self.context.denoise(batch.ldct)
        if self.mac is None:
            return self._update_denoiser(denoised, batch, generator)
        if self.mac.net.config.alternate:
            return self._alternate(self.mac, denoised, batch, generator)
        return self._together(self.mac, denoised, batch, generator)

    def _with_lesions(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with lesions in both of its images; one forward pass more, without gradients."""
        with torch.no_grad():
            denoised = self.context.denoise(batch.ldct)
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        images_hu = hounsfield.to_hu(batch.ndct[:, 0]).cpu().numpy()
        added_hu = np.stack([augmentation.lesions(image, PIXEL_MM, MOST_LESIONS, random) for image in images_hu])
        low, high = hounsfield.TRAINING_WINDOW_HU
        added = torch.empty_like(batch.ldct).copy_(torch.from_numpy(added_hu[:, None])) / (high - low)
        return Batch(batch.ldct + added, batch.ndct + added, added, denoised)

    def _alternate(
        self, mac: MACTraining, denoised: torch.Tensor, batch: Batch, generator: torch.Generator
    ) -> dict[str, float]:
        """Alternate learning: MAC-Net from a fixed image, then the denoiser from a fixed MAC-Net.

        The paper's (1) y' = G(x) is done.
        """
        losses = mac.wrapped(denoised.detach(), batch.ndct, generator, self.context.autocast)
        total = self.loss.mac_net_loss_weight * total_loss(losses.values())
        (norm,) = self.context.descend(total, "MAC-Net", mac.optimizer)  # (2) the online side learns
        values = to_floats({"mac_loss": total, "mac_gradient_norm": norm})
        mac.net.update_target(mac.net.config.momentum)  # (3) the target moves
        return values | self._update_denoiser(denoised, batch, generator)  # (4) G learns, MAC-Net is frozen

    def _together(
        self, mac: MACTraining, denoised: torch.Tensor, batch: Batch, generator: torch.Generator
    ) -> dict[str, float]:
        """Without alternate learning (Table S2): one loss, the denoiser's, moves both networks at once."""
        parts = self._image_losses(denoised, batch)
        parts |= mac.wrapped(denoised, batch.ndct, generator, self.context.autocast)
        total = self._total(parts)
        norm, mac_norm = self.context.descend(total, "denoiser and MAC-Net", self.context.optimizer, mac.optimizer)
        mac.net.update_target(mac.net.config.momentum)
        return to_floats(parts | {"loss": total, "gradient_norm": norm, "mac_gradient_norm": mac_norm})

    def _update_denoiser(self, denoised: torch.Tensor, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """The denoiser takes a step on the whole loss; the gradient passes through MAC-Net and leaves none there."""
        parts = self._image_losses(denoised, batch)
        if self.mac is not None:
            with frozen(self.mac.net):  # not through DistributedDataParallel, which would wait for its gradients
                parts |= self.mac.net(denoised, batch.ndct, generator, self.context.autocast)
        total = self._total(parts)
        (norm,) = self.context.descend(total, "denoiser", self.context.optimizer)
        return to_floats(parts | {"loss": total, "gradient_norm": norm})

    def _image_losses(self, denoised: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses on the image itself that have a weight (section 2.4, Table 2)."""
        parts, ndct = {}, batch.ndct
        weights = noise_weights(batch.ldct, ndct) if self.loss.noise_weighted else None
        if self.loss.mse_weight:
            parts["mse"] = mse_loss(denoised, ndct, weights)
        if self.loss.ssim_weight:
            parts["ssim"] = 1 - ssim(denoised, ndct)
        if self.loss.local_mean_weight and self.context.fraction_done() >= self.loss.local_mean_from:
            parts["local_mean"] = local_mean_loss(denoised, ndct, self.loss.local_mean_sides, weights)
        if batch.lesions is not None and batch.without is not None:
            gained, noise = denoised - batch.without, batch.ldct - ndct
            noise_weight = self.loss.response_noise_weight
            parts["response"] = response_loss(gained, batch.lesions, noise, denoised - ndct, noise_weight)
        if self.loss.perceptual_weight and self.vgg is not None:
            with self.context.autocast():
                parts["perceptual"] = perceptual_loss(self.vgg, denoised, ndct)
        return parts

    def _total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = {
            "mse": self.loss.mse_weight,
            "ssim": self.loss.ssim_weight,
            "local_mean": self.loss.local_mean_weight,
            "response": self.loss.response_weight,
            "perceptual": self.loss.perceptual_weight,
            "global": self.loss.mac_weight,
            "local": self.loss.mac_weight,
        }
        return total_loss(weights[name] * part for name, part in parts.items())
