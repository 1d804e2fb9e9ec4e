"""`ascon ablation`: train and measure the rows of an ablation table of the paper."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONTrainingLib.commands.training_arguments import (
    add_training_arguments,
    chosen_training,
    is_first_process,
    keep_others_quiet,
    run_training,
)
from ASCONTrainingLib.config import ablations
from ASCONTrainingLib.config.ablations import AblationRow
from ASCONTrainingLib.config.settings import TrainConfig

if TYPE_CHECKING:
    from ASCONDenoiseLib.imaging.metrics import Comparison
    from ASCONTrainingLib.trainer.trainer import Trained

LAST = "last.pt"


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "ablation",
        _run,
        summary="train and measure the rows of an ablation table of the paper",
        example="ascon ablation --table 2 --preset smoke --out runs/ablation",
    )
    add = parser.add_argument
    add("--table", choices=("2", "S1", "S2"), default="2", help="2: losses (default), S1: networks, S2: strategies")
    add("--vgg-weights", metavar="FILE", help="VGG-19 weights, for the row of table 2 with the perceptual loss")
    add_training_arguments(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    keep_others_quiet(console)
    config, data = chosen_training(args, console)
    rows = _rows(args, config)
    results: list[tuple[AblationRow, Trained | None]] = []
    for number, row in enumerate(rows, 1):
        if row.config is None:
            results.append((row, None))
            continue
        console.note(f"row {number} of {len(rows)}: {row.name}")
        folder = args.out / f"{args.table}-{re.sub('[^a-z0-9]+', '-', row.name.lower())}"
        options = {"resume": (folder / LAST).exists(), "name": row.name.replace(" ", "")}
        results.append((row, run_training(args, console, row.config, data, folder, **options)))
    if is_first_process():
        by_row = {row.name: [c.to_dict() for c in done.comparisons] if done else row.reason for row, done in results}
        console.answer(ablation_table(args.table, results), table=args.table, rows=by_row)


def _rows(args: argparse.Namespace, base: TrainConfig) -> list[AblationRow]:
    if args.table == "2":
        return ablations.table_2(base, args.vgg_weights)
    if args.table == "S2":
        return ablations.table_s2(base)
    from ASCONDenoiseLib.models.networks import ARCHITECTURES

    return ablations.table_s1(base, ARCHITECTURES)


def ablation_table(table: str, results: list[tuple[AblationRow, Trained | None]]) -> str:
    """Rows of mean ± sd like the paper's, the LDCT first; rows that were not run say why.

    Args:
        table: "2", "S1" or "S2".
        results: each row with what came of its training; None where it was not run.
    """
    from ASCONDenoiseLib.imaging.number_tables import metric_tables
    from ASCONDenoiseLib.reports.text_table import aligned

    measured = [trained for _, trained in results if trained is not None and trained.comparisons]
    if not measured:
        return "Neither test nor validation patients: there is nothing to measure on."
    ldct = measured[0].comparisons[0]
    ((title, (header, *_)),) = metric_tables([ldct]).items()
    rows = [header, _numbers("LDCT", ldct)]
    for row, trained in results:
        rows.append(_numbers(row.name, trained.comparisons[1]) if trained is not None else (row.name, row.reason))
    return f"Table {table}; {measured[0].split} patients; {title}\n{aligned(rows, numbers=True)}"


def _numbers(name: str, comparison: Comparison) -> tuple[str, ...]:
    from ASCONDenoiseLib.imaging.number_tables import metric_tables

    ((_, (_, (_, *cells))),) = metric_tables([comparison]).items()
    return (name, *cells)
