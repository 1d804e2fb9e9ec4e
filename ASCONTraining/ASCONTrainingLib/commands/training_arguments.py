"""What `ascon train` and `ascon ablation` share: a training's arguments, its settings and data, and how it is shown."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ASCONDenoiseLib.checked_json import parse_json, shown
from ASCONDenoiseLib.commands.arguments import Parser, add_device, checked_device
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.config.presets import BASES, PEERS, PRESETS, peer
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
    "workers": (int, "threads, beside a GPU processes, that prepare batches"),
}
"""Settings that have an option of their own, with its help."""


def add_training_arguments(parser: Parser) -> None:
    """The arguments of a training, of one or of several in a row."""
    add = parser.add_argument
    add("--preset", choices=tuple(PRESETS), help="settings to begin with (default: released)")
    add(
        "--base",
        choices=BASES,
        help="for a method to compare with: the preset whose images, epochs and schedule it has (default: product)",
    )
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
    config, data, source = _preset(args.preset or "released", args.base), args.data, args.config
    if resume and (args.out / CONFIG).exists():
        if args.preset or args.base or args.config:
            raise InputError("A training goes on with its own settings: leave out --preset, --base and --config.")
        source = args.out / CONFIG
    elif args.preset and args.config:
        raise InputError("Choose one of --preset and --config.")
    if source is not None:
        config, earlier_data = _read_config(source)
        data = data or (earlier_data if source == args.out / CONFIG else None)
    changes = changes_of(args)
    config = config.changed(changes)
    if data is None:
        if not config.preset.endswith("smoke"):
            raise InputError("Name the prepared set with --data; `ascon prepare --help` tells how one is made.")
        data = args.out / DATA
        if may_make_data or not data.exists():
            _make_phantoms(data, console)
    elif source is None and config.doses and not {"doses", "noise_hu"} & changes.keys():
        config = _without_doses_where_measured(config, data, console)
    return config, data


def changes_of(args: argparse.Namespace) -> dict[str, Any]:
    """Settings that the command line changes, by their names; those of --set are texts."""
    changes: dict[str, Any] = dict(_name_and_value(text) for text in args.set)
    return changes | {name: getattr(args, name) for name in SHORT if getattr(args, name) is not None}


def _preset(name: str, base: str | None) -> TrainConfig:
    """The preset, or a peer with the images and the schedule of a base. Raises InputError."""
    if base is None:
        return PRESETS[name]
    if name not in PEERS:
        raise InputError(
            f"--base is for methods to compare with ({', '.join(PEERS)}); the preset {name} has images and a schedule "
            "of its own: leave out --base."
        )
    return peer(name, PRESETS[base])


def _without_doses_where_measured(config: TrainConfig, data: Path, console: Console) -> TrainConfig:
    """The settings of a preset for simulated sets, fit for measured pairs too."""
    from ASCONTrainingLib.data.set_index import read_index

    if read_index(data).simulated:
        return config
    console.note(
        f"{data} holds measured pairs, whose dose is what it is: doses is null, not {list(config.doses or ())}"
    )
    return replace(config, doses=None, noise_hu=None)


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
        raise InputError(f"--set takes NAME=VALUE; got {shown(text)}.")
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
