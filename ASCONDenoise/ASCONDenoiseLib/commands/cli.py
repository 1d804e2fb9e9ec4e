"""The command `ascon`: arguments in; sentences, tables or JSON lines out.

Each command is a file of this folder with a function `add`. Exit codes: 0 done, 1 failure, 2 bad input, 130
interrupted; an AsconError knows its own, and its text is shown as it is.

Another package adds a command through the entry-point group "ascon.commands": a function that takes the subparsers and
calls `arguments.add_command`. It should import what is heavy inside the command, not before.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.commands import batch, cluster, demo, denoise, evaluate, info, models, node, quality, simulate
from ASCONDenoiseLib.commands.arguments import Parser, Subparsers
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import AsconError, Cancelled, InputError, is_out_of_memory
from ASCONDenoiseLib.models.torch_environment import prepare_torch

COMMANDS = (denoise, batch, node, simulate, evaluate, quality, cluster, demo, models, info)

PLUGINS = "ascon.commands"
"""Entry-point group of commands from other packages."""

DONE, FAILED, INTERRUPTED = 0, AsconError.exit_code, Cancelled.exit_code

LOG_FORMAT = "%(asctime)s %(levelname)s ascon: %(message)s"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, plugins: Sequence[Callable[[Subparsers], None]] = ()) -> int:
    """Run one command line and return its exit code.

    Args:
        argv: the command line; None is that of this process.
        plugins: functions that add commands, where they are known without an installed package: in Slicer, say.
    """
    prepare_torch()
    argv = sys.argv[1:] if argv is None else list(argv)
    console = Console(as_json="--json" in argv, quiet="--quiet" in argv, debug="--debug" in argv)
    try:
        with _output_for_people():
            args = _parser(console, plugins).parse_args(argv)
            with _log(getattr(args, "log", None), console):
                _run(args, console)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return console.error("Interrupted; no output was left half-written.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except AsconError as error:
        return console.error(str(error), error.exit_code, error)
    except Exception as error:
        return console.error(_sentence(error), FAILED, error)
    return DONE


def _parser(console: Console, plugins: Sequence[Callable[[Subparsers], None]] = ()) -> Parser:
    parser = Parser(
        prog="ascon",
        description="Takes the noise out of low-dose CT. For research only, not for diagnosis.",
        epilog="`ascon COMMAND --help` tells more, with an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ascon {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (*(command.add for command in COMMANDS), *plugins):
        add(subparsers)
    for entry_point in metadata.entry_points(group=PLUGINS):
        try:
            entry_point.load()(subparsers)
        except (Exception, SystemExit) as error:  # somebody else's defect must not take our commands away
            console.note(f"the command {entry_point.name} is not available ({type(error).__name__}: {error})")
    return parser


# ------------------------------------------------------------------------------------------------- errors, log, output


def _run(args: argparse.Namespace, console: Console) -> None:
    """Run the command, with its beginning and its end in the log."""
    if not hasattr(args, "run"):
        raise InputError("This command comes from another package and lacks its work; update that package.")
    logger.info("ascon %s %s", __version__, args.command)
    try:
        args.run(args, console)
    except KeyboardInterrupt:
        logger.error("interrupted")
        raise
    except Exception as error:
        logger.error("%s", _sentence(error))
        if not isinstance(error, InputError):  # frames only: messages of other libraries may quote what they read
            logger.error("came up in\n%s", "".join(traceback.format_tb(error.__traceback__)).rstrip())
        raise


def _sentence(error: BaseException) -> str:
    """Say in a sentence what went wrong."""
    if isinstance(error, AsconError):
        return str(error)
    if is_out_of_memory(error):
        return "There is not enough memory for this volume. Close other programs, or use a machine with more."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    first = (str(error).splitlines() or [""])[0]
    return f"Unexpected error, {type(error).__name__}: {first} (--debug shows where it came up)."


@contextmanager
def _log(path: Path | None, console: Console) -> Iterator[None]:
    """Show our own warnings to the user, and append all our messages to a file with --log; none of other libraries."""
    handlers: list[logging.Handler] = [_ConsoleHandler(console)]
    if path is not None:
        handlers.append(_log_file(path))
    root = logging.getLogger()
    level = root.level
    for handler in handlers:
        handler.addFilter(lambda record: record.name.startswith("ASCON"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _ConsoleHandler(logging.Handler):
    """Shows warnings as remarks. Errors are shown once, by `main`."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.console.warn(record.getMessage())


def _log_file(path: Path) -> logging.Handler:
    """Open the log. Anything that is not a log of ours is refused: `--log scan.nrrd` must cost nothing."""
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if b" ascon: " not in file.readline(200):
                    raise InputError(f"{path} exists and is not a log of ascon: choose another file for --log.")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise InputError(f"The log {path} cannot be written ({error.strerror}): choose another file.") from None
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    return handler


@contextmanager
def _output_for_people() -> Iterator[None]:
    """Silence remarks of Python and of libraries, and show names that the terminal cannot write."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
