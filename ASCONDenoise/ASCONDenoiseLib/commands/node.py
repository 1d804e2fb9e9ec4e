"""`ascon node`: a DICOM node that takes series, denoises them and sends them on."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import Subparsers, add_command, to_path
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import Failure, InputError
from ASCONDenoiseLib.requirements import NODE

if TYPE_CHECKING:
    from ASCONDenoiseLib.node.config import NodeConfig

LOG_FORMAT = "%(levelname)s %(message)s"
"""Without time, which the system's journal adds."""


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = add_command(
        subparsers,
        "node",
        _run,
        summary="a DICOM node: series come in, and go on denoised",
        example="ascon node init node.toml\n  ascon node check --config node.toml\n  ascon node --config node.toml",
    )
    _add_config(parser, required=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=False)
    init = add_command(
        commands, "init", _init, summary="write a configuration to fill in", example="ascon node init node.toml"
    )
    init.add_argument("file", metavar="FILE", type=to_path, help="a new file, node.toml say")
    check = add_command(
        commands,
        "check",
        _check,
        summary="try the whole road: storage, model, destinations",
        example="ascon node check --config node.toml",
    )
    _add_config(check)
    retry = add_command(
        commands,
        "retry",
        _retry,
        summary="take up series again that have failed; while no node runs",
        example="ascon node retry --config node.toml",
    )
    _add_config(retry)
    retry.add_argument("--series", metavar="UID", help="this one (default: all that have failed)")


def _add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument("--config", metavar="FILE", type=to_path, required=required, help="of the node, TOML")


def _run(args: argparse.Namespace, console: Console) -> None:
    if args.config is None:
        raise InputError("The node needs --config FILE: `ascon node init FILE` writes one to fill in.")
    config = _read(args.config)
    from ASCONDenoiseLib.node.page import StatusPage
    from ASCONDenoiseLib.node.service import Node

    _set_up_logging(console)
    ended: list[int] = []  # no Event, which may be locked when the signal comes
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: ended.append(number))
    node = Node(config)
    page = StatusPage(node)
    try:
        if config.page.port:
            page.start()
        node.start()
        console.note("Ctrl-C ends it")
        while not ended:  # awake now and then: a signal that another thread got wakes nobody here
            time.sleep(0.2)
    finally:
        page.stop()
        node.stop()
    console.done("The node has ended; what is unfinished goes on after the next start.")


def _init(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.atomic import atomic_file, check_parent
    from ASCONDenoiseLib.node.config import TEMPLATE

    file = args.file.resolve()
    check_parent(file)
    if os.path.lexists(file):
        raise InputError(f"{file} is there already, and stays as it is: choose another name.")
    with atomic_file(file, replace=False) as partial:
        partial.write_text(TEMPLATE, encoding="utf-8")
    console.done(f"{args.file}: fill it in, then `ascon node check --config {args.file}`", file=str(file))


def _check(args: argparse.Namespace, console: Console) -> None:
    config = _read(args.config)
    from ASCONDenoiseLib.node.check import check
    from ASCONDenoiseLib.node.worker_process import WorkerProcess

    steps = []
    for step in check(config, WorkerProcess(log=None if console.debug else subprocess.DEVNULL)):
        steps.append(step)
        if not console.as_json:  # each as it comes: some take seconds
            print(f"{step.name:<20}  {'good' if step.good else 'FAILS':<5}  {step.told}", flush=True)
    if bad := [step for step in steps if not step.good]:
        which = [f"{step.name}: {step.told}" if console.as_json else step.name for step in bad]
        raise Failure(f"{len(bad)} of {len(steps)} steps fail: {', '.join(which)}{'' if console.as_json else '.'}")
    console.done(f"All {len(steps)} steps are good.", steps=[vars(step) for step in steps])


def _retry(args: argparse.Namespace, console: Console) -> None:
    config = _read(args.config)
    from ASCONDenoiseLib.node.service import Node

    node = Node(config)
    try:
        taken = node.ledger.retry(args.series)
    finally:
        node.stop()
    if args.series and not taken:
        raise InputError(f"No series {args.series} has failed and has its originals here: send it again to the node.")
    console.answer(f"{len(taken)} series are taken up again when the node starts.", series=taken)


def _read(path: Path) -> NodeConfig:
    try:
        import prometheus_client  # noqa: F401
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise InputError(f"The package {error.name} is missing: pip install {' '.join(map(repr, NODE))}.") from None
    from ASCONDenoiseLib.node.config import read_config

    return read_config(path)


def _set_up_logging(console: Console) -> None:
    """What happens goes to standard error, as a service does; libraries, which may quote patient data, are silent."""
    warnings.simplefilter("ignore")
    for library in ("pydicom", "pynetdicom"):
        logging.getLogger(library).disabled = True
        logging.getLogger(library).propagate = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    for shown in logging.getLogger().handlers:
        if getattr(shown, "console", None) is console:  # would keep all remarks, for the result of a command that ends
            shown.setLevel(logging.CRITICAL)
    if console.quiet:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(lambda record: record.name.startswith("ASCONDenoiseLib.node"))
    logging.getLogger().addHandler(handler)
