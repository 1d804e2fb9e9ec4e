"""`ascon ablation`: train and measure the rows of a table of the paper."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import AsconError, Cancelled, InputError
from ASCONTrainingLib.commands.training_arguments import (
    add_training_arguments,
    changes_of,
    chosen_training,
    is_first_process,
    keep_others_quiet,
    run_training,
    usable_device,
)
from ASCONTrainingLib.config import ablations
from ASCONTrainingLib.config.ablations import AblationRow
from ASCONTrainingLib.config.settings import TrainConfig

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.metrics import Comparison
    from ASCONTrainingLib.trainer.rate_search import Trial
    from ASCONTrainingLib.trainer.trainer import Trained

LAST = "last.pt"
EPOCHS_WITHOUT_END = 10_000
"""Where minutes are to end a training, and nothing else."""

FILES = {"vgg_weights": "VGG-19", "resnet_weights": "ResNet-50", "vit_weights": "DINOv2"}
"""Settings of the losses that name a file of weights, with an option of their own."""


@dataclass(frozen=True)
class Done:
    """What came of a row.

    Attributes:
        row: its settings, or why it was not run.
        trained: its training; None where it was not run or failed.
        trials: the search of its learning rate; empty without.
    """

    row: AblationRow
    trained: Trained | None = None
    trials: tuple[Trial, ...] = ()


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "ablation",
        _run,
        summary="train and measure the rows of a table of the paper",
        example="ascon ablation --table 1 --preset paper-mayo2016 --data sets/mayo2016 --out runs/table1\n"
        "  ascon ablation --table 2 --preset smoke --out runs/table2",
    )
    add = parser.add_argument
    add(
        "--table",
        choices=("1", "2", "S1", "S2", "SYSTEMS"),
        type=str.upper,
        default="2",
        help="1: methods, 2: losses (default), S1: networks, S2: strategies, systems: others than the paper's. "
        "All rows take the same steps, or the same minutes where --minutes gives each so many; those of the preset "
        "smoke share its minutes, but where --epochs or --set steps_per_epoch says otherwise",
    )
    add(
        "--search-rates",
        metavar="N",
        type=int,
        default=1,
        help="for each row try N learning rates, an odd number, each 3 times the one before, the published one in the "
        "middle, for a sixth of its minutes each; the best on validation slices trains for all of them (default: 1)",
    )
    add("--vgg-weights", metavar="FILE", help="VGG-19 weights, for WGAN-VGG, TSC-Net, the perceptual loss of table 2")
    add("--resnet-weights", metavar="FILE", help="ResNet-50 weights, for the perceptual loss of EDCNN")
    add("--vit-weights", metavar="FILE", help="DINOv2 weights, for ALDEN")
    add_training_arguments(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    keep_others_quiet(console)
    if args.base and not args.preset:  # the base of all rows
        args.preset, args.base = args.base, None
    base, data = chosen_training(args, console)
    files = {f"loss.{name}": getattr(args, name) for name in FILES if getattr(args, name)}
    base = base.changed(files)
    minutes = _minutes_a_row(args, base, console)
    base = replace(base, epochs=EPOCHS_WITHOUT_END, minutes=minutes) if minutes else replace(base, minutes=None)
    _check_search(args.search_rates, minutes)
    if base.initial is not None and args.table in ("1", "S1", "SYSTEMS"):
        raise InputError(f"The networks of table {args.table.lower()} begin with random weights: leave initial out.")
    rows = _rows(args.table, base)
    if not minutes:
        rows = _with_equal_steps(rows, base, data, usable_device(args.device))
    results = _trained(args, console, rows, data)
    if is_first_process():
        by_row = {
            done.row.name: [c.to_dict() for c in done.trained.comparisons] if done.trained else done.row.reason
            for done in results
        }
        rates = {
            done.row.name: {f"{t.config.optimizer.learning_rate:.4g}": t.psnr_db for t in done.trials}
            for done in results
            if done.trials
        }
        console.answer(ablation_table(args.table, results, base), table=args.table, rows=by_row, search=rates)


def _minutes_a_row(args: argparse.Namespace, base: TrainConfig, console: Console) -> float | None:
    """The budget of each row; None for equal steps.

    Minutes that are named, here or in earlier settings, are each row's. Those of a preset are shared by all rows,
    unless the length of an epoch or their number is named.
    """
    named = changes_of(args).keys()
    if {"minutes", "epochs"} <= named:
        raise InputError("Rows take equal minutes or equal steps: name minutes or epochs, not both.")
    if base.minutes is None or args.config is not None or "minutes" in named:
        return base.minutes
    if named & {"epochs", "steps_per_epoch", "crops_per_epoch"}:
        return None
    rows = len(_rows(args.table, base))
    console.note(
        f"the {base.minutes:g} minutes of {base.preset} are shared by {rows} rows; --epochs N would give them equal "
        "steps, --minutes N so many minutes each"
    )
    return base.minutes / rows


def _check_search(count: int, minutes: float | None) -> None:
    """Raise InputError for a search of rates that cannot be made."""
    from ASCONTrainingLib.trainer.rate_search import factors

    factors(count)
    if count > 1 and minutes is None:
        raise InputError("--search-rates is for equal minutes: say with --minutes how many each row has.")
    if count > 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("--search-rates works in one process: leave out torchrun.")


def _trained(args: argparse.Namespace, console: Console, rows: list[AblationRow], data: Path) -> list[Done]:
    """Each row's training, begun or gone on with. One that fails says why in the table; if all do, that is raised."""
    results: list[Done] = []
    failures: list[AsconError] = []
    for number, row in enumerate(rows, 1):
        if row.config is None:
            results.append(Done(row))
            continue
        console.note(f"row {number} of {len(rows)}: {row.name}")
        folder = args.out / f"{args.table}-{re.sub('[^a-z0-9]+', '-', row.name.lower())}"
        try:
            results.append(_trained_row(args, console, row, row.config, data, folder))
        except Cancelled:
            raise
        except AsconError as error:  # the other rows may do better
            console.warn(f"{row.name}: {error}")
            failures.append(error)
            results.append(Done(replace(row, reason=f"failed: {error}")))
    if failures and len(failures) == sum(row.config is not None for row in rows):
        raise failures[0]
    return results


def _trained_row(
    args: argparse.Namespace, console: Console, row: AblationRow, config: TrainConfig, data: Path, folder: Path
) -> Done:
    """The training of a row, at the best rate where one is searched."""
    train = partial(_train, args, console, data, row.name)
    trials: tuple[Trial, ...] = ()
    if args.search_rates > 1:
        from ASCONTrainingLib.trainer import rate_search

        short = partial(train, measure=False)
        trials = rate_search.search(config, args.search_rates, folder, short, console.note, _scans_of(data))
        config = rate_search.at_rate(config, rate_search.best(list(trials)).factor)
    return Done(row, train(config, folder), trials)


def _scans_of(data: Path) -> list[str]:
    """Fingerprints of the scans that train and validate."""
    from ASCONTrainingLib.data.set_index import read_index, scan_fingerprints

    index = read_index(data)
    return [*scan_fingerprints(data, [*index.of("train"), *index.of("validation")])]


def _train(
    args: argparse.Namespace,
    console: Console,
    data: Path,
    name: str,
    config: TrainConfig,
    folder: Path,
    measure: bool = True,
) -> Trained | None:
    name = re.sub(r"[^\w.+-]+", "-", name.replace(" + ", "+"))
    resume = (folder / LAST).exists()
    return run_training(args, console, config, data, folder, resume=resume, name=name, measure=measure)


def _rows(table: str, base: TrainConfig) -> list[AblationRow]:
    if table == "1":
        return ablations.table_1(base)
    if table == "SYSTEMS":
        return ablations.table_systems(base)
    if table == "2":
        return ablations.table_2(base)
    if table == "S2":
        return ablations.table_s2(base)
    from ASCONDenoiseLib.models.networks import ARCHITECTURES

    return ablations.table_s1(base, ARCHITECTURES)


def _with_equal_steps(rows: list[AblationRow], base: TrainConfig, data: Path, device: str) -> list[AblationRow]:
    """Rows whose images make epochs of another length, WGAN-VGG's, get as many steps an epoch as `base` has."""
    unlike = {row.name for row in rows if row.config is not None and row.config.stages != base.stages}
    if not unlike or base.steps_per_epoch is not None:
        return rows
    from ASCONTrainingLib.trainer.distributed import Processes
    from ASCONTrainingLib.trainer.stages import open_stages, planned_steps

    processes = Processes(device)
    try:
        steps = planned_steps(base, open_stages(base, data, processes)[1]) // base.epochs
    finally:
        processes.leave()
    result = []
    for row in rows:
        if row.config is not None and row.name in unlike:
            row = replace(row, config=replace(row.config, steps_per_epoch=steps, crops_per_epoch=None))
        result.append(row)
    return result


def ablation_table(table: str, results: list[Done], base: TrainConfig) -> str:
    """Rows of mean ± sd like the paper's, the LDCT first; rows that were not run say why.

    Args:
        table: "1", "2", "S1", "S2" or "SYSTEMS".
        results: the rows.
        base: the training that they are made from.
    """
    from ASCONDenoiseLib.imaging.number_tables import metric_tables
    from ASCONDenoiseLib.reports.text_table import aligned

    measured = [done.trained for done in results if done.trained is not None and done.trained.comparisons]
    if not measured:
        reasons = "".join(f"\n{done.row.name}: {done.row.reason}" for done in results if done.row.reason)
        return f"Neither test nor validation patients: there is nothing to measure on.{reasons}"
    ldct = measured[0].comparisons[0]
    searched = any(done.trials for done in results)
    ((title, (header, *_)),) = metric_tables([ldct]).items()
    columns = ("steps", "minutes", *(("rate",) if searched else ()))
    rows: list[tuple[str, ...]] = [(*header, *columns), (*_numbers("LDCT", ldct), *("" for _ in columns))]
    for done in results:
        if done.trained is None:
            rows.append((done.row.name, done.row.reason))
            continue
        effort = done.trained.card.metrics["training"]
        cost = (str(effort["steps"]), f"{60 * effort['hours']:.1f}", *((_rate(done.trials),) if searched else ()))
        rows.append((*_numbers(done.row.name, done.trained.comparisons[1]), *cost))
    budget = f"{base.minutes:.3g} minutes a row" if base.minutes else "equal steps"
    lines = [
        f"Table {table} on the preset {base.preset}, {budget}; {measured[0].split} patients; {title}",
        aligned(rows, numbers=True),
    ]
    if searched:
        lines.append(
            "Learning rates: of those tried for a sixth of the minutes each, the best on validation slices; in "
            "brackets how many times the published one it is, and how many were tried. Critics keep their own."
        )
    if table in ("1", "SYSTEMS"):
        rates = "losses and betas" if searched else "losses, learning rates and betas"
        lines.append(
            f"Networks, {rates} are each method's own; images, epochs, schedule, clipping and averaged weights are "
            f"those of {base.preset} in all rows."
        )
    return "\n".join(lines)


def _rate(trials: tuple[Trial, ...]) -> str:
    """3e-4 (x3 of 3)"""
    from ASCONTrainingLib.trainer.rate_search import best

    if not trials:
        return ""
    won = best(trials)
    return f"{won.config.optimizer.learning_rate:.2g} (x{won.factor:.2g} of {len(trials)})"


def _numbers(name: str, comparison: Comparison) -> tuple[str, ...]:
    from ASCONDenoiseLib.imaging.number_tables import metric_tables

    ((_, (_, (_, *cells))),) = metric_tables([comparison]).items()
    return (name, *cells)
