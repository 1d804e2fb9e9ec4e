"""`ascon ablation`: train and measure the rows of a table of the paper."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import AsconError, Cancelled
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
    from ASCONTrainingLib.trainer.trainer import Trained

    Results = list[tuple[AblationRow, Trained | None]]
    """Each row with what came of its training; None where it was not run."""

LAST = "last.pt"
EPOCHS_WITHOUT_END = 10_000
"""Where minutes are to end a training, and nothing else."""

FILES = {"vgg_weights": "VGG-19", "resnet_weights": "ResNet-50", "vit_weights": "DINOv2"}
"""Settings of the losses that name a file of weights, with an option of their own."""


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
        "All rows take the same steps, or the same minutes where --minutes gives each so many",
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
    by_minutes = base.minutes is not None and (args.config is not None or "minutes" in changes_of(args))
    base = replace(base, epochs=EPOCHS_WITHOUT_END) if by_minutes else replace(base, minutes=None)
    rows = _rows(args.table, base)
    if not by_minutes:
        rows = _with_equal_steps(rows, base, data, usable_device(args.device))
    results = _trained(args, console, rows, data)
    if is_first_process():
        by_row = {row.name: [c.to_dict() for c in done.comparisons] if done else row.reason for row, done in results}
        console.answer(ablation_table(args.table, results, base), table=args.table, rows=by_row)


def _trained(args: argparse.Namespace, console: Console, rows: list[AblationRow], data: Path) -> Results:
    """Each row's training, begun or gone on with. One that fails says why in the table; if all do, that is raised."""
    results: Results = []
    failures: list[AsconError] = []
    for number, row in enumerate(rows, 1):
        if row.config is None:
            results.append((row, None))
            continue
        console.note(f"row {number} of {len(rows)}: {row.name}")
        folder = args.out / f"{args.table}-{re.sub('[^a-z0-9]+', '-', row.name.lower())}"
        name = re.sub(r"[^\w.+-]+", "-", row.name.replace(" + ", "+"))
        options = {"resume": (folder / LAST).exists(), "name": name}
        try:
            results.append((row, run_training(args, console, row.config, data, folder, **options)))
        except Cancelled:
            raise
        except AsconError as error:  # the other rows may do better
            console.warn(f"{row.name}: {error}")
            failures.append(error)
            results.append((replace(row, reason=f"failed: {error}"), None))
    if failures and len(failures) == sum(row.config is not None for row in rows):
        raise failures[0]
    return results


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


def ablation_table(table: str, results: Results, base: TrainConfig) -> str:
    """Rows of mean ± sd like the paper's, the LDCT first; rows that were not run say why.

    Args:
        table: "1", "2", "S1", "S2" or "SYSTEMS".
        results: the rows.
        base: the training that they are made from.
    """
    from ASCONDenoiseLib.imaging.number_tables import metric_tables
    from ASCONDenoiseLib.reports.text_table import aligned

    measured = [trained for _, trained in results if trained is not None and trained.comparisons]
    if not measured:
        reasons = "".join(f"\n{row.name}: {row.reason}" for row, _ in results if row.reason)
        return f"Neither test nor validation patients: there is nothing to measure on.{reasons}"
    ldct = measured[0].comparisons[0]
    ((title, (header, *_)),) = metric_tables([ldct]).items()
    rows: list[tuple[str, ...]] = [(*header, "steps", "minutes"), (*_numbers("LDCT", ldct), "", "")]
    for row, trained in results:
        if trained is None:
            rows.append((row.name, row.reason))
            continue
        effort = trained.card.metrics["training"]
        cost = (str(effort["steps"]), f"{60 * effort['hours']:.1f}")
        rows.append((*_numbers(row.name, trained.comparisons[1]), *cost))
    budget = f"{base.minutes:g} minutes a row" if base.minutes else "equal steps"
    lines = [
        f"Table {table} on the preset {base.preset}, {budget}; {measured[0].split} patients; {title}",
        aligned(rows, numbers=True),
    ]
    if table in ("1", "SYSTEMS"):
        lines.append(
            f"Networks, losses, learning rates and betas are each method's own; images, epochs, schedule, clipping and "
            f"averaged weights are those of {base.preset} in all rows."
        )
    return "\n".join(lines)


def _numbers(name: str, comparison: Comparison) -> tuple[str, ...]:
    from ASCONDenoiseLib.imaging.number_tables import metric_tables

    ((_, (_, (_, *cells))),) = metric_tables([comparison]).items()
    return (name, *cells)
