"""`ascon prepare`, `ascon train` and `ascon ablation`: the entry points of this package in the group "ascon.commands".

Arguments in, sentences and tables out; the work is done in the other files, which are imported where it begins.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.commands.cli import Console, Parser, UsageError, add_command
from ASCONTrainingLib.config import ablations
from ASCONTrainingLib.config.ablations import AblationRow
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import TrainConfig

if TYPE_CHECKING:
    from ASCONTrainingLib.trainer.trainer import Progress, Trained

SMOKE_PHANTOMS = {"phantoms": 6, "phantom_shape": (6, 128, 128), "dose": 0.05, "seed": 0}
"""What `ascon train --preset smoke` makes where no data are named."""

DATA, CONFIG, LAST = "data", "config.json", "last.pt"

REFRESH_S = 0.2
"""Seconds between two updates of the progress bar."""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """All three, once: in Slicer they are added by name, and by the entry point where the package is installed too."""
    if "train" in subparsers.choices:
        return
    _add_prepare(subparsers)
    _add_train(subparsers)
    _add_ablation(subparsers)


# ------------------------------------------------------------------------------------------------------------- prepare


def _add_prepare(subparsers: argparse._SubParsersAction) -> None:
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
        parser = add_command(commands, name, _prepare, summary=summary, example=example)
        parser.set_defaults(kind=name)
        if name == "simulate":
            parser.add_argument("src", metavar="SRC", nargs="?", type=Path, help="folder (none: phantoms only)")
        else:
            parser.add_argument("src", metavar="SRC", type=Path, help="folder")
        parser.add_argument("out", metavar="OUT", type=Path, help="folder of the set; one that was begun goes on")
        parser.add_argument("--split", metavar="FILE", type=Path, help="JSON: patients of train, validation and test")
        if name == "mayo2016":
            parser.add_argument("--thickness", metavar="MM", type=float, choices=(1.0, 3.0), help="1 or 3 mm slices")
            parser.add_argument("--kernel", choices=("B30", "D45"), help="of the reconstruction")
        if name in ("paired", "simulate"):
            parser.add_argument("--seed", type=int, default=0, help="of the random numbers (default: 0)")
        if name == "simulate":
            parser.add_argument(
                "--dose",
                type=float,
                nargs="+",
                default=[0.25],
                metavar="D",
                help="fraction of the normal dose, or the lowest and the highest of a random one (default: 0.25)",
            )
            parser.add_argument("--phantoms", metavar="N", type=int, default=0, help="phantoms besides (default: 0)")
            parser.add_argument(
                "--phantom-size", metavar="N", type=int, default=512, help="side in pixels (default: 512)"
            )
            _add_device(parser)


def _prepare(args: argparse.Namespace, console: Console) -> None:
    from ASCONTrainingLib.data import prepare

    shared = {"split": args.split, "log": console.note, "progress": console.progress}
    if args.kind == "mayo2016":
        index = prepare.prepare_mayo2016(args.src, args.out, thickness_mm=args.thickness, kernel=args.kernel, **shared)
    elif args.kind == "mayo2020":
        index = prepare.prepare_mayo2020(args.src, args.out, **shared)
    elif args.kind == "paired":
        index = prepare.prepare_paired(args.src, args.out, seed=args.seed, **shared)
    else:
        index = prepare.prepare_simulated(
            args.src,
            args.out,
            dose=args.dose[0] if len(args.dose) == 1 else tuple(args.dose),
            phantoms=args.phantoms,
            phantom_shape=(8, args.phantom_size, args.phantom_size),
            seed=args.seed,
            device=_device(args.device),
            **shared,
        )
    console.done(f"{args.out}: {index}", output=str(args.out), volumes=len(index.volumes))


# --------------------------------------------------------------------------------------------------------------- train


def _add_train(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "train",
        _train,
        summary="train a network on a prepared set",
        example="ascon train --preset released --data sets/mayo2016 --out runs/first\n"
        "  ascon train --out runs/first --resume\n"
        "  ascon train --preset smoke --out runs/smoke        on phantoms, in minutes",
    )
    _add_training(parser, "smoke")
    add = parser.add_argument
    add("--name", help="of the model file (default: ascon- and the preset)")
    add("--resume", action="store_true", help="go on where the training in --out stopped, with its settings and data")
    add("--dry-run", action="store_true", help="check data, memory, disk and one step, and say how long it will take")


def _add_training(parser: Parser, example: str) -> None:
    """The arguments of a training, of one or of several in a row."""
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), help="settings to begin with (default: released)")
    add("--config", metavar="FILE", type=Path, help="settings of an earlier training (its config.json) instead")
    add("--data", metavar="SET", type=Path, help=f"prepared set (none: the preset {example} makes phantoms)")
    add("--out", metavar="RUN", type=Path, required=True, help="folder of the results")
    add(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="any other setting, e.g. mac.use_local=false, mac=null, optimizer.learning_rate=1e-4; may be repeated",
    )
    for name, (kind, meaning) in SHORT.items():
        add(f"--{name}", metavar="N" if kind is not str else "NAME", type=kind, help=meaning)
    _add_device(parser)


SHORT = {
    "epochs": (int, "how often the set is gone through"),
    "batch": (int, "images per step, of all processes together"),
    "patch": (int, "side of the training images in pixels (--set patch=null: whole slices)"),
    "minutes": (float, "a budget that ends the training early"),
    "seed": (int, "of the random numbers"),
    "precision": (str, "fp32, bf16 or fp16"),
    "initial": (str, "model to begin with, name or file (default: random weights)"),
    "workers": (int, "threads that read the data"),
}
"""Settings that have an option of their own, with its help."""


def _train(args: argparse.Namespace, console: Console) -> None:
    quiet = _first_process_speaks(console)
    config, data = _chosen(args, console)
    if args.dry_run:
        from ASCONTrainingLib.trainer.dry_run import dry_run

        found = dry_run(config, data, args.out, device=_device(args.device))
        return None if quiet else console.answer(found.text(), **found.to_dict())
    trained = _fit(args, console, config, data, args.out, resume=args.resume, name=args.name)
    if trained is not None:
        text = f"{trained.table()}\n\nModel  {trained.model} (sha256 {trained.card.sha256[:12]})"
        text += f"\nUse    ascon denoise IN OUT --model {trained.model}"
        comparisons = [comparison.to_dict() for comparison in trained.comparisons]
        console.answer(text, model=str(trained.model), split=trained.split, comparisons=comparisons)
    return None


def _fit(
    args: argparse.Namespace, console: Console, config: TrainConfig, data: Path, out: Path, **options: Any
) -> Trained | None:
    from ASCONTrainingLib.trainer.trainer import fit

    with _progress(console) as (progress, say):
        return fit(config, data, out, device=_device(args.device), progress=progress, say=say, **options)


def _chosen(args: argparse.Namespace, console: Console) -> tuple[TrainConfig, Path]:
    """Settings and data: those of the training that goes on, else of the preset; then what the command line changes."""
    config, data = PRESETS[args.preset or "released"], args.data
    source = args.config
    if getattr(args, "resume", False) and (args.out / CONFIG).exists():
        if args.preset or args.config:
            raise UsageError("A training goes on with its own settings: leave out --preset and --config.")
        source = args.out / CONFIG
    elif args.preset and args.config:
        raise UsageError("Choose one of --preset and --config.")
    if source is not None:
        config, earlier_data = _read_config(source)
        data = data or (earlier_data if source == args.out / CONFIG else None)
    changes = dict(_pair(text) for text in args.set)
    changes |= {name: getattr(args, name) for name in SHORT if getattr(args, name) is not None}
    config = config.changed(changes)
    if data is None:
        if config.preset != "smoke":
            raise UsageError("Name the prepared set with --data; `ascon prepare --help` tells how one is made.")
        data = args.out / DATA
        if not getattr(args, "dry_run", False) or not data.exists():
            _make_phantoms(data, console)
    return config, data


def _make_phantoms(folder: Path, console: Console) -> None:
    """The smoke preset's set. Of several processes the first makes it; the others wait for it."""
    from ASCONTrainingLib.data.prepare import prepare_simulated
    from ASCONTrainingLib.data.training_set import DataError, read_index

    if int(os.environ.get("RANK", "0")) == 0:
        prepare_simulated(None, folder, **SMOKE_PHANTOMS, log=console.note, progress=console.progress)
        console.close()
        return
    while True:
        try:
            index = read_index(folder)
            if len(index.volumes) == index.planned == SMOKE_PHANTOMS["phantoms"]:
                return
        except DataError:
            pass
        time.sleep(1)


def _read_config(path: Path) -> tuple[TrainConfig, Path | None]:
    """A config.json that a training wrote, or one with settings only."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = content.get("config", content)
        data = content.get("data") if "config" in content else None
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} holds no settings of a training ({error}).") from None
    return TrainConfig.from_dict(values), None if data is None else Path(data)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--set takes NAME=VALUE; got {text}.")
    return name, value


# ------------------------------------------------------------------------------------------------------------ ablation


def _add_ablation(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "ablation",
        _ablation,
        summary="train and measure the rows of an ablation table of the paper",
        example="ascon ablation --table 2 --preset smoke --out runs/ablation",
    )
    add = parser.add_argument
    add("--table", choices=("2", "S1", "S2"), default="2", help="2: losses (default), S1: networks, S2: strategies")
    add("--vgg-weights", metavar="FILE", help="VGG-19 weights, for the row of table 2 with the perceptual loss")
    _add_training(parser, "smoke")


def _ablation(args: argparse.Namespace, console: Console) -> None:
    _first_process_speaks(console)
    config, data = _chosen(args, console)
    rows = _rows(args, config)
    found: list[tuple[AblationRow, Trained | None]] = []
    for number, row in enumerate(rows, 1):
        if row.config is None:
            found.append((row, None))
            continue
        console.note(f"row {number} of {len(rows)}: {row.name}")
        folder = args.out / f"{args.table}-{re.sub('[^a-z0-9]+', '-', row.name.lower())}"
        begun = (folder / LAST).exists()
        found.append((row, _fit(args, console, row.config, data, folder, resume=begun, name=row.name.replace(" ", ""))))
    if any(trained is None for row, trained in found if row.config is not None):
        return  # not the first process
    results = {row.name: row.reason or [c.to_dict() for c in trained.comparisons] for row, trained in found}
    console.answer(ablation_table(args.table, found), table=args.table, rows=results)


def _rows(args: argparse.Namespace, base: TrainConfig) -> list[AblationRow]:
    if args.table == "2":
        return ablations.table_2(base, args.vgg_weights)
    if args.table == "S2":
        return ablations.table_s2(base)
    from ASCONDenoiseLib.models.files import ARCHITECTURES

    return ablations.table_s1(base, ARCHITECTURES)


def ablation_table(table: str, found: list[tuple[AblationRow, Trained | None]]) -> str:
    """Rows of mean ± sd like the paper's, the LDCT first; rows that were not run say why."""
    from ASCONDenoiseLib.imaging import metrics

    measured = [trained for _, trained in found if trained is not None and trained.comparisons]
    if not measured:
        return "Neither test nor validation patients: there is nothing to measure on."
    ldct = measured[0].comparisons[0]
    named = {row.name: trained.comparisons[1] for row, trained in found if trained is not None}
    ((title, (header, *_)),) = metrics.text_tables([ldct]).items()
    rows = [header, *_cells("LDCT", ldct)]
    for row, _ in found:
        rows += _cells(row.name, named[row.name]) if row.name in named else [(row.name, row.reason)]
    widths = [max(len(row[i]) for row in rows if len(row) == len(header)) for i in range(len(header))]
    widths[0] = max(len(row[0]) for row in rows)
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        if len(row) > 2
        else f"{row[0].ljust(widths[0])}  {row[1]}"
        for row in rows
    ]
    return "\n".join([f"Table {table}; {measured[0].split} patients; {title}", *lines])


def _cells(name: str, comparison: Any) -> list[tuple[str, ...]]:
    from ASCONDenoiseLib.imaging import metrics

    ((_, (_, row)),) = metrics.text_tables([comparison]).items()
    return [(name, *row[1:])]


# -------------------------------------------------------------------------------------------------------------- output


def _first_process_speaks(console: Console) -> bool:
    """Under torchrun all processes but the first keep quiet; True for those."""
    if int(os.environ.get("RANK", "0")) > 0:
        console.quiet, console.as_json = True, False
        return True
    return False


@contextmanager
def _progress(console: Console) -> Iterator[tuple[Callable[[Progress], None] | None, Callable[[str], None]]]:
    """What shows progress (a bar on a terminal, lines of JSON, or nothing), and what takes remarks."""
    if console.as_json:
        yield lambda now: console.progress(now.step, now.steps), console.note
        return
    if console.quiet or not sys.stderr.isatty():
        yield None, console.note
        return
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {postfix}"
    with tqdm(total=1.0, desc="training", file=sys.stderr, bar_format=form, mininterval=REFRESH_S) as bar:

        def show(now: Progress) -> None:
            bar.set_postfix_str(describe(now), refresh=False)
            bar.update(now.share - bar.n)

        def say(text: str) -> None:
            bar.clear()
            console.note(text)

        yield show, say


def describe(now: Progress) -> str:
    """step 120/4800, loss 0.213, lr 1.9e-04, 23.1 images/s, 1:23:45 left"""
    hours, seconds = divmod(round(now.left_s), 3600)
    left = f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
    return (
        f"step {now.step}/{now.steps}, loss {now.loss:.4g}, lr {now.learning_rate:.1e}, "
        f"{now.images_per_s:.1f} images/s, {left} left"
    )


def _add_device(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:0 or mps")


def _device(name: str) -> str:
    """The device, tried out; under torchrun each process finds its own."""
    from ASCONDenoiseLib.models.inference import pick_device

    if "RANK" in os.environ:
        return name
    try:
        return str(pick_device(name))
    except ValueError as error:
        raise UsageError(str(error)) from None
