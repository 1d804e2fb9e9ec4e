"""The state of a training, as checkpoints hold it: networks, optimisers, averaged weights, random numbers, position."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from ASCONDenoiseLib.errors import Failure, InputError, is_out_of_memory
from ASCONDenoiseLib.models.card import ModelCard
from ASCONDenoiseLib.models.files import find_model, load_network, verify
from ASCONDenoiseLib.models.mixed_precision import mixed_dtype
from ASCONDenoiseLib.models.networks import build
from ASCONTrainingLib.config.settings import TrainConfig, learning_rate
from ASCONTrainingLib.method.denoiser_output import MixedPrecision, ProductOutput
from ASCONTrainingLib.method.objective import TrainingContext
from ASCONTrainingLib.method.objectives import OBJECTIVES
from ASCONTrainingLib.trainer.distributed import Processes

FORMAT = 3
"""Of the checkpoints."""
MAY_CHANGE = {"epochs", "minutes", "validate_every", "validation_slices", "save_minutes", "workers"}
"""Settings that may be others when a training is resumed."""
POSITION = ("step", "epoch", "epoch_step", "stage", "used_s", "best_psnr_db", "validated_step", "seen_before")
"""Attributes that a checkpoint holds as they are."""
SLOW_RATE = 1e-3
"""Up to which plain SGD hardly moves MAC-Net."""
CLEAN_STEP = 10
"""Steps in which the averaged weights forget the random ones they began with."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class TrainingState:
    """All that a training changes and a checkpoint holds, and the step that changes it.

    Attributes:
        network: the denoiser.
        average: its averaged weights; None without them.
        precision: that it computes in; see `working_precision`.
        objective: what a step does, with the networks that it has besides.
        generator: random numbers of the objective: MAC-Net's queries.
        step: steps done in all.
        epoch: complete epochs.
        epoch_step: steps done in the epoch under way.
        stage: its number in TrainConfig.stages.
        used_s: seconds of training.
        best_psnr_db: of the validations so far.
        validated_step: step of the last validation.
        seen_before: ModelCard.scans of the models that the training began with and learns from.
    """

    def __init__(self, config: TrainConfig, processes: Processes):
        """Make fresh networks and optimisers. Raises InputError where the settings cannot be used on this device."""
        device = processes.device
        _check(config, device)
        self.config, self.device = config, device
        self.step, self.epoch, self.epoch_step, self.stage = 0, 0, 0, 0
        self.used_s, self.best_psnr_db, self.validated_step = 0.0, -math.inf, 0
        self.seen_before: dict[str, list[str]] = {}
        for model in config.loss.teachers:
            self._remember(verify(find_model(model)))
        self._fraction_done = 0.0  # at the step under way
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        network = build(config.network, config.network_settings)
        self.network: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        multiple = getattr(self.network, "SIDE_MULTIPLE", 1)
        if wrong := [patch for _, patch, _ in config.stages if patch is not None and patch % multiple]:
            raise InputError(
                f"{config.network} takes images whose sides are multiples of {multiple}; got patches of {wrong[0]}."
            )
        self.average = copy.deepcopy(self.network).requires_grad_(False) if config.ema else None
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
        )
        self.precision = working_precision(config.precision, device)
        self.scaler = _grad_scaler() if self.precision == "fp16" else None
        dtype = DTYPES[self.precision]
        mixed = MixedPrecision(self.network)
        context = TrainingContext(
            network=processes.wrap(ProductOutput(mixed) if config.loss.product_output else mixed),
            unwrapped=self.network,
            optimizer=self.optimizer,
            config=config,
            device=device,
            wrap=processes.wrap,
            autocast=nullcontext if dtype is None else partial(torch.autocast, device.type, dtype),
            scaler=self.scaler,
            fraction_done=lambda: self._fraction_done,
            mean=processes.mean,
        )
        self.objective = OBJECTIVES[config.objective](context)
        self._optimizers: list[torch.optim.Optimizer] = [self.optimizer]
        self._optimizers += [p for p in self.objective.parts.values() if isinstance(p, torch.optim.Optimizer)]
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]

    def begin_with(self, model: str) -> None:
        """Give the denoiser the weights of a model, by its name or file. Raises InputError."""
        network, card = load_network(find_model(model))
        ours = (self.config.network, self.config.network_settings)
        if (card.architecture, card.settings) != ours:
            raise InputError(
                f"The model {model} is of the network {card.architecture} with the settings {card.settings}: "
                "set network and network_settings to that."
            )
        for own in (self.network, self.average):
            if own is not None:
                own.load_state_dict(network.state_dict())
        self._remember(card)

    def _remember(self, card: ModelCard) -> None:
        """Scans that this model has seen are no longer unseen by the one that learns."""
        for split, scans in (card.scans or {"unlisted": [card.name]}).items():
            self.seen_before[split] = sorted({*self.seen_before.get(split, []), *scans})

    @property
    def denoiser(self) -> nn.Module:
        """The network that is validated and becomes the model: the averaged one where there is one."""
        return self.network if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """Of the step before."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_step(self, ldct: torch.Tensor, ndct: torch.Tensor, fraction_done: float) -> dict[str, float]:
        """Take one step.

        Args:
            ldct: (B, 1, H, W) in unit range, on the device.
            ndct: like `ldct`.
            fraction_done: of the training, 0..1.

        Returns:
            The losses of the objective.

        Raises:
            NotFiniteError: a loss or gradient is not finite; no weights were changed with it.
            Failure: there is not enough memory.
        """
        self._fraction_done, schedule = fraction_done, self.config.optimizer
        if schedule.per_epoch:
            fraction_done = math.floor(fraction_done * self.config.epochs + 1e-9) / self.config.epochs
        for optimizer, rates in zip(self._optimizers, self._rates, strict=True):
            for group, start in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = learning_rate(schedule, fraction_done, start)
        try:
            losses = self.objective.step(ldct, ndct, self.generator)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise Failure(
                f"There is not enough memory for a batch of {len(ldct)} images of {ldct.shape[-1]}x{ldct.shape[-2]} on "
                f"{ldct.device}. Choose a smaller batch or patch."
            ) from error
        self._average_weights()
        self.step += 1
        return losses

    @torch.no_grad()
    def _average_weights(self) -> None:
        if self.average is None or self.config.ema is None:
            return
        keep = min(self.config.ema, self.step / (self.step + CLEAN_STEP))
        for mean, weight in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)
        for copied, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            copied.copy_(buffer)

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its name in the checkpoint."""
        own = {name: getattr(self, name) for name in ("network", "average", "optimizer", "scaler")}
        return {name: part for name, part in (own | dict(self.objective.parts)).items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain dictionaries."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        position = {name: getattr(self, name) for name in POSITION}
        random = {"queries": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {"format": FORMAT, "config": self.config.to_dict(), **position, **states, "random": random}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The mirror image of `state_dict`. Raises InputError where the checkpoint is of another training."""
        if state.get("format") != FORMAT:
            raise InputError("The checkpoint is of another version of ASCON: continue with that one.")
        before, now = _flat(TrainConfig.from_dict(state["config"]).to_dict()), _flat(self.config.to_dict())
        changes = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in MAY_CHANGE
        ]
        if changes:
            raise InputError(f"A training goes on with the settings it began with: {'; '.join(changes)}.")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in POSITION:
            setattr(self, name, state[name])
        self.generator.set_state(state["random"]["queries"])
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)


def working_precision(precision: str, device: torch.device) -> str:
    """What is asked for, but fp32 for bf16 on a device without instructions for it, which would take far longer.

    Args:
        precision: of the settings.
        device: where the training runs.
    """
    return "fp32" if precision == "bf16" and mixed_dtype(device) is None else precision


def slow_mac_net(config: TrainConfig) -> str:
    """A remark where MAC-Net hardly learns, as in the published training; "" where it may, or there is none."""
    rate = config.optimizer.mac_learning_rate or config.optimizer.learning_rate
    if config.mac is None or config.mac.optimizer != "sgd" or rate > SLOW_RATE:
        return ""
    return (
        f"MAC-Net learns by plain SGD at {rate:g}, as published: a step moves its weights by about a ten-thousandth of "
        "their size, so that it stays nearly what it was at random. mac.optimizer=adamw, which is not in the paper, "
        "makes it learn."
    )


def _check(config: TrainConfig, device: torch.device) -> None:
    if config.precision == "fp16" and device.type != "cuda":
        raise InputError(f"The precision fp16 is for CUDA GPUs, and this is {device}: choose bf16 or fp32.")


def _grad_scaler() -> torch.amp.GradScaler:
    if hasattr(torch.amp, "GradScaler"):  # torch 2.3
        return torch.amp.GradScaler("cuda")
    return torch.cuda.amp.GradScaler()


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, Any]:
    """{"mac": {"window": 7}} -> {"mac.window": 7}"""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}": value}
    return flat
