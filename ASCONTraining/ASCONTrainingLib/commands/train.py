"""`ascon train`: train a network on a prepared set."""

from __future__ import annotations

import argparse

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONTrainingLib.commands.training_arguments import (
    add_training_arguments,
    chosen_training,
    is_first_process,
    keep_others_quiet,
    run_training,
    usable_device,
)


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "train",
        _run,
        summary="train a network on a prepared set",
        example="ascon train --preset released --data sets/mayo2016 --out runs/first\n"
        "  ascon train --out runs/first --resume\n"
        "  ascon train --preset smoke --out runs/smoke        on phantoms, in minutes",
    )
    add_training_arguments(parser)
    add = parser.add_argument
    add("--name", help="of the model file (default: ascon- and the preset)")
    add("--resume", action="store_true", help="go on where the training in --out stopped, with its settings and data")
    add("--dry-run", action="store_true", help="check data, memory, disk and one step, and say how long it will take")


def _run(args: argparse.Namespace, console: Console) -> None:
    keep_others_quiet(console)
    config, data = chosen_training(args, console, resume=args.resume, may_make_data=not args.dry_run)
    if args.dry_run:
        from ASCONTrainingLib.trainer.dry_run import dry_run

        report = dry_run(config, data, args.out, device=usable_device(args.device))
        if is_first_process():
            console.answer(report.text(), **report.to_dict())
        return
    trained = run_training(args, console, config, data, args.out, resume=args.resume, name=args.name)
    if trained is not None:
        text = f"{trained.table()}\n\nModel  {trained.model} (sha256 {trained.card.sha256[:12]})"
        text += f"\nUse    ascon denoise IN OUT --model {trained.model}"
        comparisons = [comparison.to_dict() for comparison in trained.comparisons]
        console.answer(text, model=str(trained.model), split=trained.split, comparisons=comparisons)
