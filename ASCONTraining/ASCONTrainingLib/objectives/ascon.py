"""The training objective of ASCON: denoiser and MAC-Net learn alternately (paper, sections 2.1 and 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn import functional as F

from ASCONTrainingLib.config import LossConfig
from ASCONTrainingLib.losses import ssim
from ASCONTrainingLib.mac_net import MACNet
from ASCONTrainingLib.perceptual import VGG19, perceptual_loss


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite. No weights were changed with it."""


class ASCONObjective:
    """What one training step does to a denoiser G and, where there is one, to MAC-Net.

    network: G; mac: a MACNet, or None to train the denoiser alone. Either may be wrapped in DistributedDataParallel.
    optimizer, mac_optimizer: theirs; the caller sets learning rates and keeps their state, this class has none.
    perceptual: features for the perceptual loss, needed where its weight is not 0.
    gradient_clip: largest norm of the denoiser's gradient. autocast: makes the context of the networks' forward passes;
    the losses keep fp32. scaler: of losses, for fp16; then steps with infinite gradients are skipped, as is its habit.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: LossConfig,
        mac: nn.Module | None = None,
        mac_optimizer: torch.optim.Optimizer | None = None,
        *,
        perceptual: VGG19 | None = None,
        gradient_clip: float | None = None,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        scaler: torch.amp.GradScaler | None = None,
    ):
        if (mac is None) != (mac_optimizer is None):
            raise ValueError("MAC-Net and its optimiser come together: one of the two is missing.")
        if loss.perceptual_weight and perceptual is None:
            raise ValueError("The perceptual loss has a weight but no VGG-19: load one with perceptual.load_vgg19.")
        self.network, self.optimizer = network, optimizer
        self.mac, self.mac_optimizer = mac, mac_optimizer
        self.mac_net: MACNet | None = getattr(mac, "module", mac)  # without its DistributedDataParallel
        self.loss, self.perceptual = loss, perceptual
        self.gradient_clip, self.autocast, self.scaler = gradient_clip, autocast, scaler

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """One step on a batch; returns losses and gradient norms by name.

        ldct, ndct: (B, 1, H, W) in unit range; `generator` draws MAC-Net's queries.
        "loss" is the denoiser's, "mse", "ssim" (1 - SSIM), "perceptual", "global" and "local" its parts before their
        weights, "gradient_norm" before clipping; "mac_loss" and "mac_gradient_norm" are MAC-Net's.
        Raises NotFiniteError.
        """
        if self.mac is None:
            values = self._update_denoiser(self._denoise(ldct), ndct, generator)
        elif self.mac_net.config.alternate:
            values = self._alternate(ldct, ndct, generator)
        else:
            values = self._together(ldct, ndct, generator)
        if self.scaler is not None:
            self.scaler.update()
        return values

    def _alternate(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """Alternate learning: MAC-Net from an image that stands still, then the denoiser from a MAC-Net that does."""
        denoised = self._denoise(ldct)  # (1) y' = G(x)
        mac_values = self._update_mac_net(denoised.detach(), ndct, generator)  # (2) the online side learns
        self.mac_net.update_target(self.mac_net.config.momentum)  # (3) the target moves
        return mac_values | self._update_denoiser(denoised, ndct, generator)  # (4) G learns, MAC-Net is frozen

    def _together(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """Without alternate learning (Table S2): one loss, the denoiser's, moves both networks at once."""
        denoised = self._denoise(ldct)
        parts = self._image_parts(denoised, ndct) | self.mac(denoised, ndct, generator, self.autocast)
        total = self._total(parts)
        norm, mac_norm = self._descend(total, "denoiser and MAC-Net", self.optimizer, self.mac_optimizer)
        self.mac_net.update_target(self.mac_net.config.momentum)
        return _floats(parts | {"loss": total, "gradient_norm": norm, "mac_gradient_norm": mac_norm})

    def _denoise(self, ldct: torch.Tensor) -> torch.Tensor:
        with self.autocast():
            denoised = self.network(ldct)
        return denoised.to(ldct.dtype)

    def _update_mac_net(
        self, denoised: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """Online network, projectors and predictor take a step; the target gets no gradient (see MACNet)."""
        found = self.mac(denoised, ndct, generator, self.autocast)
        total = self.loss.mac_net_loss_weight * sum(found.values())
        (norm,) = self._descend(total, "MAC-Net", self.mac_optimizer)
        return _floats({"mac_loss": total, "mac_gradient_norm": norm})

    def _update_denoiser(
        self, denoised: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator
    ) -> dict[str, float]:
        """The denoiser takes a step on the whole loss; the gradient passes through MAC-Net, and leaves none there."""
        parts = self._image_parts(denoised, ndct)
        if self.mac_net is not None:
            with frozen(self.mac_net):  # not through DistributedDataParallel, which would wait for its gradients
                parts |= self.mac_net(denoised, ndct, generator, self.autocast)
        total = self._total(parts)
        (norm,) = self._descend(total, "denoiser", self.optimizer)
        return _floats(parts | {"loss": total, "gradient_norm": norm})

    def _image_parts(self, denoised: torch.Tensor, ndct: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses on the image itself that have a weight (section 2.4, Table 2)."""
        parts = {}
        if self.loss.mse_weight:
            parts["mse"] = F.mse_loss(denoised, ndct)
        if self.loss.ssim_weight:
            parts["ssim"] = 1 - ssim(denoised, ndct)
        if self.loss.perceptual_weight:
            with self.autocast():
                parts["perceptual"] = perceptual_loss(self.perceptual, denoised, ndct)
        return parts

    def _total(self, parts: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = {
            "mse": self.loss.mse_weight,
            "ssim": self.loss.ssim_weight,
            "perceptual": self.loss.perceptual_weight,
            "global": self.loss.mac_weight,
            "local": self.loss.mac_weight,
        }
        return sum(weights[name] * part for name, part in parts.items())

    def _descend(self, loss: torch.Tensor, what: str, *optimizers: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Backward, then a step of each optimiser; returns the norms of their gradients."""
        if not torch.isfinite(loss):
            raise NotFiniteError(f"The loss of the {what} is {loss.item()}.")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        norms = [self._limit_gradient(optimizer) for optimizer in optimizers]
        if self.scaler is None and not torch.isfinite(torch.stack(norms)).all():
            raise NotFiniteError(f"A gradient of the {what} is not finite, at a loss of {loss.item():g}.")
        for optimizer in optimizers:
            if self.scaler is None:
                optimizer.step()
            else:
                self.scaler.step(optimizer)
        return norms

    def _limit_gradient(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """Norm of the gradient before it is clipped; only the denoiser's is."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        limit = self.gradient_clip if optimizer is self.optimizer else None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return nn.utils.clip_grad_norm_(parameters, torch.inf if limit is None else limit)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, what is computed with `module` passes gradients on but leaves none in its parameters."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """One transfer from the device for all."""
    return dict(zip(values, torch.stack([v.detach() for v in values.values()]).tolist(), strict=True))
