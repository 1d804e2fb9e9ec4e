"""What a training objective is, and what it is given: the denoiser, its optimiser and how a gradient step is taken.

An objective says what one training step does. The implementations are in objectives/, one per file, and the dictionary
in objectives/__init__.py names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ASCONDenoiseLib.errors import Failure, InputError
from ASCONTrainingLib.config.settings import TrainConfig


class NotFiniteError(Failure):
    """A loss or a gradient is NaN or infinite. No weights were changed with it."""


class Objective(Protocol):
    """What one step of a training does; made by a function `make(context: TrainingContext)` of its file."""

    @property
    def parts(self) -> Mapping[str, nn.Module | torch.optim.Optimizer]:
        """What it has besides the denoiser and the denoiser's optimiser: critics, MAC-Net, their optimisers.

        Checkpoints save all of it under these names and restore it by `load_state_dict`. The learning rate that an
        optimiser is made with is where its schedule starts; the training moves it.
        """

    def step(self, ldct: torch.Tensor, ndct: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
        """Take one step on a batch; every network has moved afterwards.

        Nothing that the next step depends on may live outside of `parts`, or a resumed training would be another one.

        Args:
            ldct: (B, 1, H, W) fp32 in unit range, on the context's device.
            ndct: like `ldct`.
            generator: source of all random numbers, on the CPU; checkpoints save its state.

        Returns:
            Numbers for the log; "loss" is the denoiser's.

        Raises:
            NotFiniteError: from `TrainingContext.descend`, before a weight was changed.
        """


@dataclass(frozen=True)
class TrainingContext:
    """The denoiser G as an objective sees it, and the tools to train it and other networks.

    Attributes:
        network: G as a step calls it, wrapped for mixed precision and for several processes.
        unwrapped: the same network without wrappers; a step that calls it leaves the other processes behind.
        optimizer: of G; the training sets its learning rate.
        config: all settings.
        device: where networks and batches lie.
        wrap: makes another network fit for several processes (DistributedDataParallel); a step calls what it returns,
            `parts` keeps the network itself.
        autocast: makes the context in which networks run forward; losses are computed outside of it, in fp32.
        scaler: of losses, for fp16; it skips steps with infinite gradients.
        fraction_done: returns the fraction of the training that is done at this step, 0..1.
        mean: of numbers over all processes.
    """

    network: nn.Module
    unwrapped: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainConfig
    device: torch.device = torch.device("cpu")
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext
    scaler: torch.amp.GradScaler | None = None
    fraction_done: Callable[[], float] = lambda: 1.0
    mean: Callable[..., list[float]] = lambda *values: list(values)

    def denoise(self, ldct: torch.Tensor) -> torch.Tensor:
        """G(ldct), (B, 1, H, W) fp32, with its gradient. Raises InputError for a G of more channels in training."""
        with self.autocast():
            denoised: torch.Tensor = self.network(ldct)
        if denoised.shape != ldct.shape:
            raise InputError(
                f"The network {self.config.network} gives {denoised.shape[1]} channels in training, and the objective "
                f"{self.config.objective} takes 1: set objective to the network's own."
            )
        return denoised.to(ldct.dtype)

    def descend(self, loss: torch.Tensor, what: str, *optimizers: torch.optim.Optimizer) -> list[torch.Tensor]:
        """Compute the gradient of a loss and take a step with each optimiser.

        Only parameters of `optimizers` may get a gradient: `frozen` holds others back. The denoiser's gradient is
        clipped where the settings say so.

        Args:
            loss: a scalar.
            what: the networks that learn, for the error.
            optimizers: those that take a step.

        Returns:
            The norm of each optimiser's gradient, before clipping.

        Raises:
            NotFiniteError: the loss or a gradient is not finite.
        """
        if not torch.isfinite(loss):
            raise NotFiniteError(f"The loss of the {what} is {loss.item()}.")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
        norms = [self._clip_gradient(optimizer) for optimizer in optimizers]
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

    def _clip_gradient(self, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """The norm of the gradient before it is clipped; only the denoiser's has a limit."""
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
