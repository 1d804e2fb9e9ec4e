"""What `ascon train` and `ascon ablation` share: a training's arguments, its settings and data, and how it is shown."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.checked_json import parse_json
from ASCONDenoiseLib.commands.arguments import Parser, add_device, checked_device
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.config.settings import TrainConfig

if TYPE_CHECKING:
    from ASCONTrainingLib.trainer.progress import Progress
    from ASCONTrainingLib.trainer.trainer import Trained

SMOKE_PHANTOMS: dict[str, Any] = {"phantoms": 6, "phantom_shape": (6, 128, 128), "dose": 0.05, "seed": 0}
"""What the preset smoke makes where no data are named."""

DATA, CONFIG = "data", "config.json"

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


def add_training_arguments(parser: Parser) -> None:
    """The arguments of a training, of one or of several in a row."""
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), help="settings to begin with (default: released)")
    add("--config", metavar="FILE", type=Path, help="settings of an earlier training (its config.json) instead")
    add("--data", metavar="SET", type=Path, help="prepared set (none: the preset smoke makes phantoms)")
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
    add_device(parser)


def chosen_training(
    args: argparse.Namespace, console: Console, *, resume: bool = False, may_make_data: bool = True
) -> tuple[TrainConfig, Path]:
    """Choose settings and data: those of an earlier training or of the preset, then what the command line changes.

    Args:
        args: of `add_training_arguments`.
        console: for remarks.
        resume: take settings and data of the training in --out, where there is one.
        may_make_data: the phantoms of the preset smoke may be made now.

    Raises:
        InputError: arguments that do not go together, settings that cannot be, no data.
    """
    config, data, source = PRESETS[args.preset or "released"], args.data, args.config
    if resume and (args.out / CONFIG).exists():
        if args.preset or args.config:
            raise InputError("A training goes on with its own settings: leave out --preset and --config.")
        source = args.out / CONFIG
    elif args.preset and args.config:
        raise InputError("Choose one of --preset and --config.")
    if source is not None:
        config, earlier_data = _read_config(source)
        data = data or (earlier_data if source == args.out / CONFIG else None)
    changes: dict[str, Any] = dict(_name_and_value(text) for text in args.set)
    changes |= {name: getattr(args, name) for name in SHORT if getattr(args, name) is not None}
    config = config.changed(changes)
    if data is None:
        if config.preset != "smoke":
            raise InputError("Name the prepared set with --data; `ascon prepare --help` tells how one is made.")
        data = args.out / DATA
        if may_make_data or not data.exists():
            _make_phantoms(data, console)
    return config, data


def _make_phantoms(folder: Path, console: Console) -> None:
    """Make the preset smoke's set. Of several processes the first makes it; the others wait for it."""
    from ASCONTrainingLib.data.set_index import read_index
    from ASCONTrainingLib.data.simulated import prepare_simulated

    if is_first_process():
        prepare_simulated(None, folder, **SMOKE_PHANTOMS, log=console.note, progress=console.progress)
        console.close()
        return
    while True:
        try:
            index = read_index(folder)
            if len(index.volumes) == index.planned == SMOKE_PHANTOMS["phantoms"]:
                return
        except InputError:
            pass
        time.sleep(1)


def _read_config(path: Path) -> tuple[TrainConfig, Path | None]:
    """A config.json that a training wrote, or one with settings only."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        values = content.get("config", content)
        data = content.get("data") if "config" in content else None
        data = None if data is None else Path(data)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} holds no settings of a training ({error}).") from None
    return TrainConfig.from_dict(values), data


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set takes NAME=VALUE; got {text}.")
    return name, value


def run_training(
    args: argparse.Namespace, console: Console, config: TrainConfig, data: Path, out: Path, **options: Any
) -> Trained | None:
    """`trainer.fit` with its progress shown; None in all processes but the first.

    Args:
        args: for the device.
        console: for progress and remarks.
        config: settings.
        data: prepared set.
        out: folder of the results.
        **options: of `fit`.
    """
    from ASCONTrainingLib.trainer.trainer import fit

    progress, device = shown_progress(console), usable_device(args.device)
    return fit(config, data, out, device=device, progress=progress, say=console.note, **options)


def is_first_process() -> bool:
    """Whether this is the process that speaks and writes: the only one, or the first under torchrun."""
    return int(os.environ.get("RANK", "0")) == 0


def keep_others_quiet(console: Console) -> None:
    """Under torchrun all processes but the first say nothing."""
    if not is_first_process():
        console.quiet, console.as_json = True, False


def usable_device(name: str) -> str:
    """The device, tried out; under torchrun each process finds its own."""
    return name if "RANK" in os.environ else checked_device(name)


def shown_progress(console: Console) -> Callable[[Progress], None] | None:
    """What shows progress: by lines of JSON, or a bar on a terminal; None where nothing is to be shown."""
    if console.as_json:
        return lambda now: console.progress(now.step, now.steps)
    if console.quiet or not sys.stderr.isatty():
        return None
    return lambda now: console.bar.show(now.fraction, describe(now), with_time_left=False)


def describe(now: Progress) -> str:
    """step 120/4800, loss 0.213, lr 1.9e-04, 23.1 images/s, 1:23:45 left"""
    hours, seconds = divmod(round(now.left_s), 3600)
    left = f"{hours}:{seconds // 60:02}:{seconds % 60:02}"
    return (
        f"step {now.step}/{now.steps}, loss {now.loss:.4g}, lr {now.learning_rate:.1e}, "
        f"{now.images_per_s:.1f} images/s, {left} left"
    )
