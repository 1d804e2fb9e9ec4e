"""What every objective is given: the denoiser, its optimiser, the settings, and how a gradient step is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ASCONTrainingLib.config.settings import ConfigError, TrainConfig


class NotFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite. No weights were changed with it."""


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


def _at_the_end() -> float:
    return 1.0


@dataclass(frozen=True)
class Setup:
    """The denoiser G as an objective sees it, and the tools to train it and other networks.

    Attributes:
        network: G as a step calls it, wrapped for mixed precision and for several processes.
        bare: the same network without wrappers; calling it directly bypasses what keeps several processes in step.
        optimizer: of G; its learning rate is set by the learner.
        config: all settings.
        device: where networks and batches lie.
        wrap: makes another network fit for several processes (DistributedDataParallel); a step calls what it returns,
            `parts` keeps the network itself.
        autocast: makes the context in which networks run forward; losses are computed outside of it, in fp32.
        scaler: of losses, for fp16; then steps with infinite gradients are skipped, as is its habit.
        share: tells the share of the training that is done at this step, 0..1.
    """

    network: nn.Module
    bare: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    device: torch.device = torch.device("cpu")
    wrap: Callable[[nn.Module], nn.Module] = _as_it_is
    autocast: Callable[[], AbstractContextManager] = nullcontext
    scaler: torch.amp.GradScaler | None = None
    share: Callable[[], float] = _at_the_end

    def denoise(self, ldct: torch.Tensor) -> torch.Tensor:
        """G(ldct), (B, 1, H, W) fp32, with its gradient. Raises ConfigError for a G of more channels in training."""
        with self.autocast():
            denoised = self.network(ldct)
        if denoised.shape != ldct.shape:
            raise ConfigError(
                f"The network {self.config.network} gives {denoised.shape[1]} channels in training, and the objective "
                f"{self.config.objective} takes 1: set objective to the network's own."
            )
        return denoised.to(ldct.dtype)

    def descend(self, loss: torch.Tensor, what: str, *optimizers: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Backward, then a step of each optimiser; returns the norms of their gradients, before clipping.

        Only parameters of `optimizers` may get a gradient: `frozen` holds others back. The denoiser's gradient is
        clipped where the settings say so. `what` names the networks in the error. Raises NotFiniteError.
        """
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
        if self.scaler is not None:
            self.scaler.update()  # here, as an objective may take several steps with one optimiser
        return norms

    def _limit_gradient(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        limit = self.config.optimizer.gradient_clip if optimizer is self.optimizer else None
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


def to_floats(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Scalars for the log, in one transfer from the device."""
    return dict(zip(values, torch.stack([v.detach() for v in values.values()]).tolist(), strict=True))
