"""Training of a denoiser with the pixel loss, within a budget of minutes, in steps that resume."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ASCONDenoiseLib import hounsfield
from ASCONDenoiseLib.networks.esau_net import ESAUNet
from ASCONTrainingLib.datasets import PairSampler
from ASCONTrainingLib.losses import pixel_loss


@dataclass(frozen=True)
class Config:
    """Settings of one training."""

    minutes: float = 90.0  # of training, all runs together, validation included
    learning_rate: float = 6e-4  # at its highest, after `warm_up`
    last_learning_rate: float = 1e-6
    warm_up: float = 0.03  # share of the budget
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-9
    mse_weight: float = 1000.0  # the window spans 3000 HU, so the MSE of 20 HU noise is 4e-5 beside 1 - SSIM of 2e-2
    gradient_clip: float = 1.0  # norm
    average: float = 0.998  # exponential moving average of the weights, which is what is saved and validated
    # (share of the budget at which it starts, patches per step, side): attention looks at the whole patch, so the
    # patches grow towards the slices that the network will see
    patches: tuple[tuple[float, int, int], ...] = ((0.0, 16, 64), (0.5, 4, 128), (0.85, 1, 256))
    dose_jitter: float = 0.5
    validate_minutes: float = 10.0
    save_minutes: float = 3.0
    seed: int = 0


def learning_rate(config: Config, progress: float) -> float:
    """Linear warm-up, then a half cosine; `progress` is the share of the budget that is used, 0..1."""
    if progress < config.warm_up:
        return config.learning_rate * max(progress, 1e-3) / config.warm_up
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, (progress - config.warm_up) / (1 - config.warm_up)))
    return config.last_learning_rate + (config.learning_rate - config.last_learning_rate) * cosine


def train(config: Config, training: Path, validation: Path, run: Path) -> Path:
    """Train on the set `training` until the budget is used; resume where the checkpoint in `run` stands.

    Writes log.jsonl and last.pt (weights, average, optimiser, random state, time used) to `run`; returns the latter.
    Raises FloatingPointError where the loss is not finite.
    """
    run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    network = ESAUNet().to(memory_format=torch.channels_last)
    average = ESAUNet()
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(
        network.parameters(), config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    sampler = PairSampler(training, config.seed, config.dose_jitter)
    checkpoint, step, used_s = run / "last.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        sampler.random.bit_generator.state = json.loads(state["random"])
        step, used_s = state["step"], state["used_s"]
    started, since = time.monotonic(), used_s
    next_save, next_validation, loss_sum, losses = used_s + 60 * config.save_minutes, used_s, 0.0, 0

    while (progress := used_s / (60 * config.minutes)) < 1:
        size, side = [(b, s) for start, b, s in config.patches if start <= progress][-1]
        loss_sum += _step(config, network, average, optimizer, *sampler.batch(size, side), progress, step)
        losses, step, used_s = losses + 1, step + 1, since + time.monotonic() - started
        if used_s >= next_save or used_s >= 60 * config.minutes:
            next_save = used_s + 60 * config.save_minutes
            row = {"step": step, "minutes": round(used_s / 60, 2), "side": side, "loss": round(loss_sum / losses, 5)}
            loss_sum, losses = 0.0, 0
            if used_s >= next_validation or used_s >= 60 * config.minutes:
                next_validation = used_s + 60 * config.validate_minutes
                row |= validate(average, validation)
            state = {"network": network.state_dict(), "average": average.state_dict(), "step": step}
            state |= {"optimizer": optimizer.state_dict(), "used_s": since + time.monotonic() - started}
            state |= {"random": json.dumps(sampler.random.bit_generator.state), "config": json.dumps(asdict(config))}
            torch.save(state, run / "partial.pt")
            (run / "partial.pt").replace(checkpoint)
            with open(run / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
    return checkpoint


def _step(config, network, average, optimizer, ldct, ndct, progress, step) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, progress)
    with torch.autocast("cpu", torch.bfloat16):
        features = network.features(ldct.to(memory_format=torch.channels_last))
    denoised = network.last(features.float())  # the image has more than the 8 bits of bfloat16
    loss = pixel_loss(denoised, ndct, config.mse_weight)
    if not torch.isfinite(loss):
        raise FloatingPointError(f"The loss is {loss.item()} at step {step}; the last checkpoint is from before it.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
    optimizer.step()
    keep = min(config.average, step / (step + 10))
    with torch.no_grad():
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
    return loss.item()


@torch.inference_mode()
def validate(network: torch.nn.Module, folder: Path, slices: int = 4, side: int = 320) -> dict[str, float]:
    """PSNR [dB] over the training window of LDCT and of denoised, mean over the middle of evenly spaced slices."""
    sampler = PairSampler(folder, seed=0)
    before, after = [], []
    for ndct, noise in zip(sampler.ndct, sampler.noise, strict=True):
        y, x = ((n - side) // 2 for n in ndct.shape[1:])
        for z in np.linspace(0, len(ndct) - 1, slices + 2).round().astype(int)[1:-1]:
            where = (z, slice(y, y + side), slice(x, x + side))
            low = ndct[where].astype(np.float32) + noise[where]
            low, target = (
                torch.from_numpy(hounsfield.to_unit(hounsfield.clip_to_window(i.astype(np.float32))))[None, None]
                for i in (low, ndct[where])
            )
            before.append(-10 * math.log10(torch.mean((low - target) ** 2).item()))
            after.append(-10 * math.log10(torch.mean((network(low) - target) ** 2).item()))
    return {"psnr_ldct_db": round(float(np.mean(before)), 3), "psnr_denoised_db": round(float(np.mean(after)), 3)}
