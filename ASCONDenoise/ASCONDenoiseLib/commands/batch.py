"""`ascon batch`: denoise every CT below a folder."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_model,
    add_precision,
    to_path,
    to_positive,
    to_strength,
)
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import Failure, InputError
from ASCONDenoiseLib.requirements import BATCH

if TYPE_CHECKING:
    from ASCONDenoiseLib.batch.work import Row


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "batch",
        _run,
        summary="denoise every CT below a folder, on all cores, GPUs, or a cluster",
        example="ascon batch archive/ denoised/\n"
        "  ascon batch archive/ denoised/ --scheduler tcp://head:8786      a Dask cluster",
    )
    parser.add_argument("source", metavar="SRC", type=to_path, help="folder: DICOM series and volume files below it")
    parser.add_argument(
        "output", metavar="OUT", type=to_path, help="folder of results; what is done there already is not done again"
    )
    add_model(parser)
    parser.add_argument("--strength", type=to_strength, default=1.0, help="0 to 1 (default)")
    add_device(parser)
    add_precision(parser)
    parser.add_argument("--rules", metavar="FILE", type=to_path, help="TOML with [[rules]], as those of the node")
    parser.add_argument("--workers", metavar="N", type=to_positive, help="processes (default: one per GPU or 4 cores)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster (default: one on this computer)")


def _run(args: argparse.Namespace, console: Console) -> None:
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise InputError(f"The package {error.name} is missing: pip install {' '.join(map(repr, BATCH))}.") from None
    from ASCONDenoiseLib.batch.run import BatchSettings, run_batch
    from ASCONDenoiseLib.batch.table import CSV, HTML, counted
    from ASCONDenoiseLib.node.config import read_rules

    rules = None if args.rules is None else read_rules(args.rules)
    settings = BatchSettings(
        args.model, args.strength, args.device, args.precision, rules, args.workers, args.scheduler
    )
    rows = run_batch(args.source, args.output, settings, partial(console.progress, what="scan"), console.note)
    facts = {"output": str(args.output), "tables": [str(args.output / name) for name in (CSV, HTML)]}
    sentence = f"{args.output / HTML}: {counted(rows)}"
    if _bad(rows):
        raise Failure(f"{len(_bad(rows))} of {len(rows)} scans were not denoised; {args.output / HTML} says why.")
    console.done(sentence, rows=[vars(row) for row in rows], **facts)


def _bad(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.state in ("refused", "failed")]
