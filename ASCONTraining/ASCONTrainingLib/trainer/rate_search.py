"""An equal search of the learning rate for every training of a comparison: short trials, judged on validation slices.

Published rates are for days on a GPU; in minutes most get nowhere, some more so than others. What is tried for each
training is the same: as many rates, as far from its own, for the same time. Nothing is measured on test patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ASCONDenoiseLib.checked_json import FieldError, from_json, parse_json
from ASCONDenoiseLib.errors import Failure, InputError
from ASCONTrainingLib.config.settings import TrainConfig
from ASCONTrainingLib.method.objective import NotFiniteError
from ASCONTrainingLib.trainer import run_folder
from ASCONTrainingLib.trainer.trainer import Trained

APART = 3.0
"""Each rate over the one below it."""
SHARE = 1 / 6
"""Of a training's minutes that each trial takes."""
TRIAL = "trial.json"

Train = Callable[[TrainConfig, Path], Trained | None]


@dataclass(frozen=True)
class Trial:
    """A short training at one rate.

    Attributes:
        factor: on the learning rate of the training.
        config: its settings.
        psnr_db: best of its validations; None where the rate was too high.
        reason: what the rate led to.
        scans: fingerprints of the scans that train and validate.
    """

    factor: float
    config: TrainConfig
    psnr_db: float | None = None
    reason: str = ""
    scans: tuple[str, ...] = ()


def factors(count: int) -> tuple[float, ...]:
    """On the published rate, which is the middle one: 1/3, 1 and 3 for three.

    Raises InputError for other than an odd number.
    """
    if count < 1 or count % 2 == 0:
        raise InputError(f"Search an odd number of rates, the published one in the middle; got {count}.")
    return tuple(APART ** (number - count // 2) for number in range(count))


def at_rate(config: TrainConfig, factor: float) -> TrainConfig:
    """The training with its learning rates, the denoiser's and MAC-Net's, times a factor; a critic keeps its own."""
    optimizer = config.optimizer
    mac_rate = optimizer.mac_learning_rate and factor * optimizer.mac_learning_rate
    faster = replace(optimizer, learning_rate=factor * optimizer.learning_rate, mac_learning_rate=mac_rate)
    return replace(config, optimizer=faster)


def search(
    config: TrainConfig, count: int, folder: Path, train: Train, say: Callable[[str], None], scans: Sequence[str] = ()
) -> tuple[Trial, ...]:
    """Try each rate for a share of the training's minutes. A trial that is done is not run again.

    Args:
        config: the training, with a budget of minutes.
        count: number of rates, odd.
        folder: of the training; the trials' folders lie beside it.
        train: trains in a folder, or goes on there, without a look at test patients.
        say: takes a sentence for each trial.
        scans: fingerprints of the scans that train and validate.

    Returns:
        All trials, the lowest rate first.

    Raises:
        InputError: there is no budget, nothing to validate on, or the trials in the folder are others.
        Failure: a trial failed, and not for its rate; or all rates are too high.
    """
    if config.minutes is None:
        raise InputError("A search of learning rates is for equal minutes: say how many a training has.")
    if config.train_with_all:
        raise InputError(
            "A search of learning rates needs validation patients, and all of them train here: set train_with_all to "
            "false."
        )
    trials = []
    for factor in factors(count):
        short = replace(at_rate(config, factor), minutes=SHARE * config.minutes)
        trial = _tried(
            Trial(factor, short, scans=tuple(scans)), folder.with_name(f"{folder.name}-rate-{factor:.3g}"), train
        )
        found = trial.reason if trial.psnr_db is None else f"validation PSNR {trial.psnr_db:.2f} dB"
        say(f"learning rate {short.optimizer.learning_rate:.3g}: {found}")
        trials.append(trial)
    if all(trial.psnr_db is None for trial in trials):
        raise Failure(f"No learning rate of {len(trials)} could be trained with. {trials[len(trials) // 2].reason}")
    return tuple(trials)


def best(trials: Sequence[Trial]) -> Trial:
    """That of the highest PSNR; of equals the one with the lowest rate."""
    return max(trials, key=lambda trial: -math.inf if trial.psnr_db is None else trial.psnr_db)


def _tried(trial: Trial, folder: Path, train: Train) -> Trial:
    """The trial with what came of it, as its file has it, or as it is found now."""
    path = folder / TRIAL
    if path.exists():
        try:
            earlier = from_json(Trial, parse_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, FieldError) as error:
            raise InputError(f"{path} cannot be read ({error}): remove it, and the trial is run again.") from None
        if earlier.config != trial.config:
            raise InputError(
                f"{folder} holds a trial with other settings or minutes: name another folder for the results."
            )
        if earlier.scans != trial.scans:
            raise InputError(f"{folder} holds a trial on other scans: name another folder for the results.")
        return earlier
    try:
        trained = train(trial.config, folder)
    except NotFiniteError as error:  # a rate too high; no other failure is the rate's
        trial = replace(trial, reason=f"failed: {error}")
    else:
        if trained is None or not math.isfinite(trained.best_psnr_db):
            raise InputError("A search of learning rates needs validation patients, and the set has none.")
        trial = replace(trial, psnr_db=trained.best_psnr_db)
    run_folder.make_folder(folder)
    run_folder.write_json(path, asdict(trial))
    for name in (run_folder.LAST, run_folder.BEST):  # gigabytes, of networks with large critics
        (folder / name).unlink(missing_ok=True)
    return trial
