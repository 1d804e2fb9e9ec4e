"""`ascon prepare`: training sets from CT as it is delivered."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.commands.arguments import add_command, add_device
from ASCONDenoiseLib.commands.console import Console
from ASCONTrainingLib.commands.training_arguments import usable_device


def add(subparsers: argparse._SubParsersAction) -> None:
    group = subparsers.add_parser(
        "prepare",
        help="make a training set from CT as it is delivered",
        description="Make a training set from CT as it is delivered.",
        allow_abbrev=False,
    )
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary, src in (
        ("mayo2016", "pairs of the AAPM Low Dose CT Grand Challenge", "mayo2016"),
        ("mayo2020", "pairs of LDCT-and-Projection-data", "mayo2020"),
        ("paired", "any pairs: full/A.nii and low/A.nii, or series that say so", "pairs"),
        ("simulate", "pairs from normal-dose volumes, whose low dose is simulated", "scans"),
    ):
        example = f"ascon prepare {name} {src}/ sets/{src}"
        parser = add_command(commands, name, _run, summary=summary, example=example)
        parser.set_defaults(kind=name)
        add = parser.add_argument
        if name == "simulate":
            add("src", metavar="SRC", nargs="?", type=Path, help="folder (none: phantoms only)")
        else:
            add("src", metavar="SRC", type=Path, help="folder")
        add("out", metavar="OUT", type=Path, help="folder of the set; one that was begun goes on")
        add("--split", metavar="FILE", type=Path, help="JSON: patients of train, validation and test")
        if name == "mayo2016":
            add("--thickness", metavar="MM", type=float, choices=(1.0, 3.0), help="1 or 3 mm slices")
            add("--kernel", choices=("B30", "D45"), help="of the reconstruction")
        if name in ("paired", "simulate"):
            add("--seed", type=int, default=0, help="of the random numbers (default: 0)")
        if name == "simulate":
            add(
                "--dose",
                type=float,
                nargs="+",
                default=[0.25],
                metavar="D",
                help="fraction of the normal dose, or the lowest and the highest of a random one (default: 0.25)",
            )
            add(
                "--noises",
                metavar="N",
                type=int,
                default=1,
                help="times that a training scan is in the set, with other noise (default: 1)",
            )
            add(
                "--levels",
                metavar="MODEL",
                help="training scans at four other levels of noise besides: what of them is noise, this model tells",
            )
            add("--phantoms", metavar="N", type=int, default=0, help="abdomens, chests and heads besides (default: 0)")
            add("--phantom-size", metavar="N", type=int, default=512, help="side in pixels (default: 512)")
            add("--leave-out", metavar="NAME", nargs="+", default=[], help="volumes or patients that are too noisy")
            add_device(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONTrainingLib.data.prepare import prepare_mayo2016, prepare_mayo2020, prepare_paired
    from ASCONTrainingLib.data.simulated import prepare_simulated

    shared: dict[str, Any] = {"split": args.split, "log": console.note, "progress": console.progress}
    if args.kind == "mayo2016":
        index = prepare_mayo2016(args.src, args.out, thickness_mm=args.thickness, kernel=args.kernel, **shared)
    elif args.kind == "mayo2020":
        index = prepare_mayo2020(args.src, args.out, **shared)
    elif args.kind == "paired":
        index = prepare_paired(args.src, args.out, seed=args.seed, **shared)
    else:
        index = prepare_simulated(
            args.src,
            args.out,
            dose=args.dose[0] if len(args.dose) == 1 else tuple(args.dose),
            noises=args.noises,
            levels_by=args.levels,
            phantoms=args.phantoms,
            phantom_shape=(8, args.phantom_size, args.phantom_size),
            leave_out=args.leave_out,
            seed=args.seed,
            device=usable_device(args.device),
            **shared,
        )
    console.done(f"{args.out}: {index}", output=str(args.out), volumes=len(index.volumes))
