"""The card of a trained model: what it was trained on and for, and what was measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.imaging.hounsfield import TRAINING_WINDOW_HU
from ASCONDenoiseLib.imaging.metrics import Comparison
from ASCONDenoiseLib.models.card import ModelCard, Scope
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.set_index import Index, PreparedVolume

NOT_THE_AUTHORS = {
    "patch_dml": "Patch-DML with the learning rate, batch and images of the preset, other than its authors'.",
    "tsc_net": "TSC-Net as far as its abstract tells: layers and weights were decided by ASCON.",
    "tsc_net_latent": "TSC-Net as far as its abstract tells: layers and weights were decided by ASCON, and images are "
    "contrasted in its own teacher, not in a pretrained network.",
    "alden": "ALDEN as far as its abstract tells: vision model, layers and weights were decided by ASCON.",
    "alden_own_features": "A variant of ALDEN, not the authors' method: its features are those of ASCON's default "
    "denoiser, which has seen the scans on its own card, and not those of a pretrained vision model.",
}
"""Objective -> what its name alone would not say."""


def worse_than_input(comparisons: Sequence[Comparison], split: str) -> tuple[str, ...]:
    """A sentence where a model's PSNR is below that of its own input, nothing where it is not.

    Args:
        comparisons: of the LDCT and of the model's output, both against the NDCT; empty where nothing was measured.
        split: of the slices.
    """
    if not comparisons:
        return ()
    ldct_db, model_db = (comparison.mean_sd("psnr_db")[0] for comparison in comparisons)
    if model_db >= ldct_db:
        return ()
    return (
        f"On {len(comparisons[0].rows)} {split} slices the model's PSNR of {model_db:.2f} dB is below the "
        f"{ldct_db:.2f} dB of the LDCT: it makes images worse. Train longer, or with other settings.",
    )


def model_card(
    name: str, config: TrainConfig, index: Index, metrics: dict[str, Any], warnings: Sequence[str] = ()
) -> ModelCard:
    """The card of a new model, still without the hash of its weights.

    Args:
        name: of the model.
        config: settings of its training.
        index: of the set that it was trained on.
        metrics: what was measured, and what the training took.
        warnings: sentences that come first among the limits.
    """
    trained_on = _trained_on(index, config)
    phantoms = sum(volume.is_phantom for volume in trained_on)
    data = [f"{index.kind}: {index}"]
    if phantoms:
        data.append(f"of which {phantoms} phantoms train")
    if config.initial is not None:
        data.append(f"begun with the model {Path(config.initial).stem}")
    if config.loss.teachers:
        data.append(f"taught by the models {' and '.join(Path(model).stem for model in config.loss.teachers)}")
    limits = ["Not tried on scanners, kernels, doses and body regions other than those of its training data."]
    if config.objective == "edcnn" and config.loss.resnet_weights is None:
        limits.insert(0, "Trained without EDCNN's perceptual loss: no file with ResNet-50 weights was named.")
    if config.objective in NOT_THE_AUTHORS:
        limits.append(NOT_THE_AUTHORS[config.objective])
    if phantoms == len(trained_on):
        limits.insert(0, "Trained on phantoms only: of no use on patients.")
    return ModelCard(
        name=name,
        version="1.0",
        architecture=config.network,
        settings=dict(config.network_settings),
        window_hu=TRAINING_WINDOW_HU,
        preset=config.preset,
        training_data=data,
        dose=_dose(index, config),
        date=time.strftime("%Y-%m-%d"),
        licence="not stated",
        intended_use="Research. Not for diagnosis.",
        limits=[*warnings, *limits],
        scope=scope(index, config),
        metrics=metrics,
    )


def scope(index: Index, config: TrainConfig) -> Scope:
    """What the set says of the scans that train; phantoms are no scans, and nothing is known of kernels and bodies."""
    scans = [volume for volume in _trained_on(index, config) if not volume.is_phantom]
    if not scans:
        return Scope()
    doses = config.doses or [volume.dose for volume in scans if volume.dose is not None]
    return Scope(slice_mm=_ends([volume.spacing_mm[2] for volume in scans]), doses=_ends(doses))


def _trained_on(index: Index, config: TrainConfig) -> list[PreparedVolume]:
    return [*index.of("train"), *(index.of("validation") if config.train_with_all else ())]


def _dose(index: Index, config: TrainConfig) -> str:
    if config.doses:
        return "{:g} to {:g}, simulated".format(*config.doses)
    doses = sorted({volume.dose for volume in _trained_on(index, config) if volume.dose is not None})
    if index.simulated and doses:
        return f"{doses[0]:g}{f' to {doses[-1]:g}' if len(doses) > 1 else ''}, simulated"
    return "quarter dose, as delivered" if index.kind.startswith("mayo") else "that of the low-dose series, as measured"


def _ends(values: Sequence[float]) -> tuple[float, float] | None:
    """The lowest and the highest in four digits; None of none."""
    return (float(f"{min(values):.4g}"), float(f"{max(values):.4g}")) if values else None
