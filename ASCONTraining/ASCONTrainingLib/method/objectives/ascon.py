"""The training objective of ASCON: denoiser and MAC-Net learn alternately (paper, sections 2.1 and 2.4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ASCONDenoiseLib.imaging import hounsfield
from ASCONTrainingLib.data import augmentation
from ASCONTrainingLib.method.losses import local_mean_loss, response_loss, ssim
from ASCONTrainingLib.method.mac_net import MACNet
from ASCONTrainingLib.method.objectives.setup import Setup, frozen, to_floats
from ASCONTrainingLib.method.perceptual import VGG19, load_vgg19, perceptual_loss


def make(setup: Setup) -> ASCONObjective:
    """The objective that the settings describe, with its MAC-Net and VGG-19 where they are asked for.

    Raises perceptual.WeightsFileError.
    """
    mac, mac_optimizer, config = None, None, setup.config
    if config.mac is not None:
        mac = MACNet(config.mac).to(setup.device, memory_format=torch.channels_last)
        learning = [p for p in mac.parameters() if p.requires_grad]
        rate = config.optimizer.mac_learning_rate or config.optimizer.learning_rate
        mac_optimizer = torch.optim.SGD(learning, rate)  # no momentum, as released; the paper names none
    perceptual = None
    if config.loss.perceptual_weight:
        perceptual = load_vgg19(config.loss.vgg_weights).to(setup.device)
    return ASCONObjective(setup, mac, mac_optimizer, perceptual)


MOST_LESIONS = 1.5
"""For each 64x64 pixels, where the answer to lesions is looked at: as a rule one by one."""
PIXEL_MM = (0.75, 0.75)
"""Taken for their size: a batch has images of many scans."""


@dataclass(frozen=True)
class Batch:
    """(B, 1, H, W) each, in unit range. Lesions, if any, are in LDCT and NDCT; `before` is G(LDCT) without them."""

    ldct: torch.Tensor
    ndct: torch.Tensor
    lesions: torch.Tensor | None = None
    before: torch.Tensor | None = None


class ASCONObjective:
    """What one training step does to a denoiser G and, where there is one, to MAC-Net.

    mac: a MACNet, or None to train the denoiser alone; mac_optimizer: its own.
    perceptual: features for the perceptual loss, needed where its weight is not 0.
    """

    def __init__(
        self,
        setup: Setup,
        mac: MACNet | None = None,
        mac_optimizer: torch.optim.Optimizer | None = None,
        perceptual: VGG19 | None = None,
    ):
        if (mac is None) != (mac_optimizer is None):
            raise ValueError("MAC-Net and its optimiser come together: one of the two is missing.")
        if setup.config.loss.perceptual_weight and perceptual is None:
            raise ValueError("The perceptual loss has a weight but no VGG-19: load one with perceptual.load_vgg19.")
        self.setup, self.loss, self.perceptual = setup, setup.config.loss, perceptual
        self.mac_net, self.mac_optimizer = mac, mac_optimizer
        self.mac = None if mac is None else setup.wrap(mac)  # in step with other processes
        self.parts = {} if mac is None else {"mac": mac, "mac_optimizer": mac_optimizer}

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """One step on a batch; returns losses and gradient norms by name.

        ldct, ndct: (B, 1, H, W) in unit range; `generator` draws MAC-Net's queries, and lesions.
        "loss" is the denoiser's, "mse", "ssim" (1 - SSIM), "local_mean", "response", "perceptual", "global" and "local"
        its parts before their weights, "gradient_norm" before clipping; "mac_loss" and "mac_gradient_norm" are
        MAC-Net's. Raises NotFiniteError.
        """
        batch = Batch(ldct, ndct)
        if self.loss.response_weight and self.setup.share() >= self.loss.response_from:
            batch = self._with_lesions(batch, generator)
        denoised = self.setup.denoise(batch.ldct)
        if self.mac is None:
            return self._update_denoiser(denoised, batch, generator)
        if self.mac_net.config.alternate:
            return self._alternate(denoised, batch, generator)
        return self._together(denoised, batch, generator)

    def _with_lesions(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with lesions in both of its images; one forward pass more, without gradients."""
        with torch.no_grad():
            before = self.setup.denoise(batch.ldct)
        random = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        images_hu = hounsfield.to_hu(batch.ndct[:, 0]).cpu().numpy()
        added_hu = np.stack([augmentation.lesions(image, PIXEL_MM, MOST_LESIONS, random) for image in images_hu])
        low, high = hounsfield.TRAINING_WINDOW_HU
        lesions = torch.empty_like(batch.ldct).copy_(torch.from_numpy(added_hu[:, None])) / (high - low)
        return Batch(batch.ldct + lesions, batch.ndct + lesions, lesions, before)

    def _alternate(self, denoised: torch.Tensor, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Alternate learning: MAC-Net from an image that stands still, then the denoiser from a MAC-Net that does.

        The paper's (1) y' = G(x) is done.
        """
        mac_values = self._update_mac_net(denoised.detach(), batch.ndct, generator)  # (2) the online side learns
        self.mac_net.update_target(self.mac_net.config.momentum)  # (3) the target moves
        return mac_values | self._update_denoiser(denoised, batch, generator)  # (4) G learns, MAC-Net is frozen

    def _together(self, denoised: torch.Tensor, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """Without alternate learning (Table S2): one loss, the denoiser's, moves both networks at once."""
        parts = self._image_parts(denoised, batch) | self.mac(denoised, batch.ndct, generator, self.setup.autocast)
        total = self._total(parts)
        norm, mac_norm = self.setup.descend(total, "denoiser and MAC-Net", self.setup.optimizer, self.mac_optimizer)
        self.mac_net.update_target(self.mac_net.config.momentum)
        return to_floats(parts | {"loss": total, "gradient_norm": norm, "mac_gradient_norm": mac_norm})

    def _update_mac_net(
        self, denoised: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Online network, projectors and predictor take a step; the target gets no gradient (see MACNet)."""
        found = self.mac(denoised, ndct, generator, self.setup.autocast)
        total = self.loss.mac_net_loss_weight * sum(found.values())
        (norm,) = self.setup.descend(total, "MAC-Net", self.mac_optimizer)
        return to_floats({"mac_loss": total, "mac_gradient_norm": norm})

    def _update_denoiser(self, denoised: torch.Tensor, batch: Batch, generator: torch.Generator) -> dict[str, float]:
        """The denoiser takes a step on the whole loss; the gradient passes through MAC-Net, and leaves none there."""
        parts = self._image_parts(denoised, batch)
        if self.mac_net is not None:
            with frozen(self.mac_net):  # not through DistributedDataParallel, which would wait for its gradients
                parts |= self.mac_net(denoised, batch.ndct, generator, self.setup.autocast)
        total = self._total(parts)
        (norm,) = self.setup.descend(total, "denoiser", self.setup.optimizer)
        return to_floats(parts | {"loss": total, "gradient_norm": norm})

    def _image_parts(self, denoised: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses on the image itself that have a weight (section 2.4, Table 2)."""
        parts, ndct = {}, batch.ndct
        if self.loss.mse_weight:
            parts["mse"] = F.mse_loss(denoised, ndct)
        if self.loss.ssim_weight:
            parts["ssim"] = 1 - ssim(denoised, ndct)
        if self.loss.local_mean_weight and self.setup.share() >= self.loss.local_mean_from:
            parts["local_mean"] = local_mean_loss(denoised, ndct)
        if batch.lesions is not None:
            parts["response"] = response_loss(denoised - batch.before, batch.lesions, batch.ldct - ndct)
        if self.loss.perceptual_weight:
            with self.setup.autocast():
                parts["perceptual"] = perceptual_loss(self.perceptual, denoised, ndct)
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
        return sum(weights[name] * part for name, part in parts.items())
