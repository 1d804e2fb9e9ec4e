"""The stages of a training: images of one size each, from the prepared set, and the steps that they take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.data.batches import Batches, Stage
from ASCONTrainingLib.data.reconstruction import Reconstructions
from ASCONTrainingLib.data.set_index import Index, read_index
from ASCONTrainingLib.data.training_set import TrainingSet
from ASCONTrainingLib.method.mac_net import PATCH
from ASCONTrainingLib.trainer.distributed import Processes


def open_stages(config: TrainConfig, data: Path, processes: Processes) -> tuple[Index, list[Stage]]:
    """Open the prepared set, and check that the networks can take its images.

    Args:
        config: settings of the training.
        data: folder of the set.
        processes: those that share each batch.

    Returns:
        The index of the set, and the stages.

    Raises:
        InputError: the set cannot be used, or not with these settings.
    """
    index = read_index(data)
    ranges = (config.pixels_mm, config.kernel_cutoffs, config.noise_cutoffs)
    stages = []
    for begins, patch, batch in config.stages:
        items = TrainingSet(
            data,
            "train",
            patch,
            augment=config.augment,
            doses=config.doses,
            noise_hu=config.noise_hu,
            lesions=config.lesions,
            kernels=config.kernels,
            reconstructions=Reconstructions(*ranges) if any(ranges) else None,
            unpaired=config.unpaired,
            with_validation=config.train_with_all,
            clip=not config.loss.product_output,
            seed=config.seed,
        )
        _check_sides(items[0][0].shape[-2:], config)
        steps = config.crops_per_epoch // batch if config.crops_per_epoch else config.steps_per_epoch
        batches = Batches(len(items), batch, config.seed, steps, processes.rank, processes.count)
        stages.append(Stage(begins, items, batches))
    return index, stages


def stage_at(stages: list[Stage], fraction: float) -> int:
    """Number of the stage of an epoch that begins at `fraction` of the training."""
    return max(number for number, stage in enumerate(stages) if stage.begins <= fraction)


def planned_steps(config: TrainConfig, stages: list[Stage]) -> int:
    """Steps of all epochs; a budget may end the training earlier."""
    return sum(stages[stage_at(stages, epoch / config.epochs)].batches.steps for epoch in range(config.epochs))


def _check_sides(sides: Sequence[int], config: TrainConfig) -> None:
    """Raise InputError for sides, (rows, columns), that the networks cannot take.

    MAC-Net compares patches of 16 pixels with their 8 neighbours: of fewer than 4x4 patches hardly one has all, and
    what is left over at the border of a side that is no multiple would never be compared.
    """
    least, multiple = (4 * PATCH, PATCH) if config.mac is not None else (16, 8)
    if min(sides) < least or any(side % multiple for side in sides):
        whose = "with MAC-Net they" if config.mac is not None else "they"
        raise InputError(
            f"The training images are {sides[1]}x{sides[0]} pixels; {whose} need sides of {least} or more that are "
            f"multiples of {multiple}: set patch, to {max(least, 64)} for example."
        )
