"""Networks, optimisers and random state of a training: all that a checkpoint holds, and what one step does to it."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.files import find_model, load_network
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config.settings import TrainConfig, learning_rate
from ASCONTrainingLib.method.objective import TrainingContext
from ASCONTrainingLib.method.objectives import OBJECTIVES
from ASCONTrainingLib.trainer.distributed import Processes

FORMAT = 3
"""Of the checkpoints."""
MAY_CHANGE = {"epochs", "minutes", "validate_every", "validation_slices", "save_minutes", "workers"}
"""Settings that may be others when a training goes on."""
COUNTERS = ("step", "epoch", "epoch_step", "stage", "used_s", "best_psnr_db", "validated_step", "seen_before")
CLEAN_STEP = 10
"""Steps in which the averaged weights forget the random ones they began with."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """Networks, optimisers and the random state: all that a checkpoint holds, and what one step does to it.

    step: steps done in all; epoch, epoch_step: complete epochs, and steps done in the one under way; stage: that
    epoch's number in TrainConfig.stages; validated_step: where was validated last. The training moves them.
    seen_before: ModelCard.scans of the model it began with.

    Raises InputError where the settings cannot be used on this device, and what `objectives` raise.
    """

    def __init__(self, config: TrainConfig, processes: Processes):
        device = processes.device
        _check(config, device)
        self.config, self.device = config, device
        self.step, self.epoch, self.epoch_step, self.stage = 0, 0, 0, 0
        self.used_s, self.best_psnr_db, self.validated_step = 0.0, -math.inf, 0
        self.share = 0.0  # of the training that is done, at the step under way
        self.seen_before: dict[str, list[str]] = {}
        torch.manual_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)  # of the objective: MAC-Net's queries
        self.network = ARCHITECTURES[config.network]().to(device, memory_format=torch.channels_last)
        if config.fit_gain and not isinstance(getattr(self.network, "last", None), nn.Module):
            raise InputError(
                f"fit_gain scales a last layer, and {config.network} has none of that name: set it to false."
            )
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
        self.scaler = _grad_scaler() if config.precision == "fp16" else None
        dtype = DTYPES[config.precision]
        network = MixedPrecision(self.network)
        context = TrainingContext(
            network=processes.wrap(ProductOutput(network) if config.loss.product_output else network),
            unwrapped=self.network,
            optimizer=self.optimizer,
            config=config,
            device=device,
            wrap=processes.wrap,
            autocast=nullcontext if dtype is None else partial(torch.autocast, device.type, dtype),
            scaler=self.scaler,
            fraction_done=lambda: self.share,
        )
        self.objective = OBJECTIVES[config.objective](context)
        self._optimizers = [self.optimizer]
        self._optimizers += [p for p in self.objective.parts.values() if isinstance(p, torch.optim.Optimizer)]
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self._optimizers]

    def begin_with(self, model: str) -> None:
        """The denoiser's weights are those of a model, given its name or file. Raises InputError."""
        network, card = load_network(find_model(model))
        if card.architecture != self.config.network:
            raise InputError(f"The model {model} is of the network {card.architecture}: set network to that.")
        for begun in (self.network, self.average):
            if begun is not None:
                begun.load_state_dict(network.state_dict())
        self.seen_before = card.scans or {"unlisted": [card.name]}

    @property
    def result(self) -> nn.Module:
        """The network that is validated and saved: the average where there is one."""
        return self.network if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """Of the step before."""
        return self.optimizer.param_groups[0]["lr"]

    def learn(self, ldct: torch.Tensor, ndct: torch.Tensor, share: float) -> dict[str, float]:
        """One step, at `share` of the training; returns its losses. Raises NotFiniteError, with the weights whole."""
        self.share, schedule = share, self.config.optimizer
        if schedule.per_epoch:
            share = math.floor(share * self.config.epochs + 1e-9) / self.config.epochs
        for optimizer, rates in zip(self._optimizers, self._rates, strict=True):
            for group, start in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = learning_rate(schedule, share, start)
        losses = self.objective.step(ldct, ndct, self.generator)
        if self.average is not None:
            keep = min(self.config.ema, self.step / (self.step + CLEAN_STEP))
            with torch.no_grad():
                for mean, now in zip(self.average.parameters(), self.network.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)
                for mean, now in zip(self.average.buffers(), self.network.buffers(), strict=True):
                    mean.copy_(now)
        self.step += 1
        return losses

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, by its name in the checkpoint."""
        own = {name: getattr(self, name) for name in ("network", "average", "optimizer", "scaler")}
        return {name: part for name, part in (own | self.objective.parts).items() if part is not None}

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as plain dictionaries."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        counters = {name: getattr(self, name) for name in COUNTERS}
        random = {"queries": self.generator.get_state(), "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return {"format": FORMAT, "config": self.config.to_dict(), **counters, **states, "random": random}

    def load(self, state: dict[str, Any]) -> None:
        """The mirror image of `state`. Raises InputError where the checkpoint is of another training."""
        if state.get("format") != FORMAT:
            raise InputError("The checkpoint is of another version of ASCON: continue with that one.")
        before, now = _flat(state["config"]), _flat(self.config.to_dict())
        other = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in MAY_CHANGE
        ]
        if other:
            raise InputError(f"A training goes on with the settings it began with: {'; '.join(other)}.")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        for name in COUNTERS:
            setattr(self, name, state[name])
        self.generator.set_state(state["random"]["queries"])
        torch.set_rng_state(state["random"]["torch"])
        if self.device.type == "cuda" and "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], self.device)


class MixedPrecision(nn.Module):
    """A denoiser whose last layer keeps fp32 under autocast: an image has more than the 8 bits of bfloat16."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range -> the same, denoised."""
        if not (hasattr(self.network, "features") and hasattr(self.network, "last")):
            return self.network(x)
        features = self.network.features(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.network.last(features.float())


class ProductOutput(nn.Module):
    """What the product makes of a denoiser G: y = x + G(c) - c with c = x clipped to the window.

    As in the product, voxels of 2000 HU and more keep their value. (Padding does too there; here x and NDCT are alike
    in it, so it asks G for nothing.)
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in unit range, not clipped -> the same, denoised."""
        clipped = x.clamp(0, 1)
        return torch.where(x < 1, x + (self.network(clipped) - clipped), x)


def _check(config: TrainConfig, device: torch.device) -> None:
    if config.precision == "fp16" and device.type != "cuda":
        raise InputError(f"The precision fp16 is for CUDA GPUs, and this is {device}: choose bf16 or fp32.")
    if config.network not in ARCHITECTURES:
        raise InputError(f"There is no network {config.network}; there are {', '.join(ARCHITECTURES)}.")
    if config.objective not in OBJECTIVES:
        raise InputError(f"There is no objective {config.objective}; there are {', '.join(OBJECTIVES)}.")


def _grad_scaler() -> torch.amp.GradScaler:
    if hasattr(torch.amp, "GradScaler"):  # torch 2.3
        return torch.amp.GradScaler("cuda")
    return torch.cuda.amp.GradScaler()


def _flat(settings: dict[str, Any], place: str = "") -> dict[str, Any]:
    """{"mac": {"window": 7}} -> {"mac.window": 7}"""
    found = {}
    for name, value in settings.items():
        found |= _flat(value, f"{place}{name}.") if isinstance(value, dict) else {f"{place}{name}": value}
    return found
