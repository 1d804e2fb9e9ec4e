"""The command `ascon`: arguments in; sentences, tables or JSON lines out.

The commands are in `commands.py` and `model_commands.py`, their work in the other files.

Exit codes: 0 done, 1 failure, 2 bad input, 130 interrupted. Bad input is every error of ours that is a ValueError
(InputError, ModelError, DoseError, UsageError); its text is shown as it is. With --json, standard output holds one JSON
object per line: {"event": "progress", "done", "total"} and at the end {"event": "result", ...} or {"event": "error",
"message", "exit_code"}.

Another package adds a command through the entry-point group "ascon.commands": a function that takes the subparsers and
calls `add_command`. It should import what is heavy inside the command, not before.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.commands.arguments import UsageError, to_path

PLUGINS = "ascon.commands"
"""Entry-point group of commands from other packages."""

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

LOG_FORMAT = "%(asctime)s %(levelname)s ascon: %(message)s"

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None, plugins: Sequence[Callable[[Any], None]] = ()) -> int:
    """Run one command line (default: that of this process) and return its exit code.

    plugins: functions that add commands, where they are known without an installed package: in Slicer, say.
    """
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
    except Exception as error:
        return console.error(_sentence(error), _exit_code(error), error)
    return DONE


class Console:
    """What the user sees: answers on standard output; progress, warnings and errors on standard error."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self._bar = None

    def progress(self, done: int, total: int) -> None:
        """Slices done, of all: a bar on a terminal, a line of JSON, or nothing."""
        if self.as_json:
            self._emit("progress", done=done, total=total)
        elif not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is None or self._bar.total != total:
                self.close()
                self._bar = tqdm(total=total, unit="slice", file=sys.stderr, leave=False)
            self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """A remark on standard error, in passing."""
        if not self.quiet:
            self._aside(text)

    def answer(self, text: str, **fields: Any) -> None:
        """What was asked for: `text` for people, `fields` for programs."""
        self.close()
        if self.as_json:
            self._emit("result", **fields)
        else:
            print(text, flush=True)

    def done(self, text: str, **fields: Any) -> None:
        """The closing line of a command whose result is a file; not with --quiet."""
        if self.as_json or not self.quiet:
            self.answer(text, **fields)

    def error(self, message: str, exit_code: int, error: BaseException | None = None) -> int:
        """Shows what went wrong and returns the exit code."""
        self.close()
        if self.as_json:
            self._emit("error", message=message, exit_code=exit_code)
        else:
            print(f"ascon: {message}", file=sys.stderr, flush=True)
        if self.debug and error is not None:
            traceback.print_exception(error)
        return exit_code

    def close(self) -> None:
        """Takes the progress bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _aside(self, text: str) -> None:
        self.close()
        print(f"ascon: {text}", file=sys.stderr, flush=True)

    def _emit(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}, default=str), flush=True)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints go the way of all errors."""

    def error(self, message: str) -> None:
        raise UsageError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def add_command(
    subparsers: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace, Console], None],
    *,
    summary: str,
    example: str,
) -> Parser:
    """A parser for `ascon NAME`, with the options that all commands share; its own arguments are added to it.

    run: called with the parsed arguments and the console. It raises where something is wrong: an error class of an
    ASCON package that is a ValueError means bad input (exit code 2), any other failure (1).
    """
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = parser.add_argument_group("options of all commands")
    common.add_argument("--json", action="store_true", help="print JSON lines: progress, then the result or an error")
    common.add_argument("--log", metavar="FILE", type=to_path, help="append what happens, with times, to this file")
    common.add_argument("--quiet", action="store_true", help="no progress, remarks or closing line")
    common.add_argument("--debug", action="store_true", help="on an error, show where in the program it came up")
    parser.set_defaults(run=run, command=parser.prog.removeprefix("ascon "))
    return parser


def columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Rows under one another; with `numbers` all columns but the first are flushed right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    adjust = str.rjust if numbers else str.ljust
    lines = ("  ".join([row[0].ljust(widths[0]), *map(adjust, row[1:], widths[1:])]).rstrip() for row in rows)
    return "\n".join(lines)


def _parser(console: Console, plugins: Sequence[Callable[[Any], None]] = ()) -> Parser:
    from ASCONDenoiseLib.commands import models as model_commands  # which import this file
    from ASCONDenoiseLib.commands import scans as commands

    parser = Parser(
        prog="ascon",
        description="Takes the noise out of low-dose CT. For research only, not for diagnosis.",
        epilog="`ascon COMMAND --help` tells more, with an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ascon {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (commands.add_commands, model_commands.add_commands, *plugins):
        add(subparsers)
    for entry_point in metadata.entry_points(group=PLUGINS):
        try:
            entry_point.load()(subparsers)
        except (Exception, SystemExit) as error:  # somebody else's defect must not take our commands away
            console.note(f"the command {entry_point.name} is not available ({type(error).__name__}: {error})")
    return parser


# ------------------------------------------------------------------------------------------------- errors, log, output


def _run(args: argparse.Namespace, console: Console) -> None:
    """The command, with its beginning and its end in the log."""
    if not hasattr(args, "run"):
        raise UsageError("This command comes from another package and lacks its work; update that package.")
    logger.info("ascon %s %s", __version__, args.command)
    try:
        args.run(args, console)
    except KeyboardInterrupt:
        logger.error("interrupted")
        raise
    except Exception as error:
        logger.error("%s", _sentence(error))
        if _exit_code(error) == FAILED:  # frames only: messages of other libraries may quote what they read
            logger.error("came up in\n%s", "".join(traceback.format_tb(error.__traceback__)).rstrip())
        raise


def _exit_code(error: BaseException) -> int:
    """Errors of ours that are ValueErrors are bad input; whatever else comes up is a failure."""
    ours = type(error).__module__.startswith("ASCON")
    return BAD_INPUT if ours and isinstance(error, ValueError) else FAILED


def _sentence(error: BaseException) -> str:
    if type(error).__module__.startswith("ASCON"):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this volume. Close other programs, or use a machine with more."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if type(error) is RuntimeError and error.__cause__ is not None:  # ours too: "X could not be written: ..."
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"Unexpected error, {type(error).__name__}: {first} (--debug shows where it came up)."


@contextmanager
def _log(path: Path | None, console: Console) -> Iterator[None]:
    """Our own messages, those of other libraries not: warnings to the user, with --log all of them to a file."""
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
    """Warnings as remarks. Errors are shown once, by `main`."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.console.note(record.getMessage())


def _log_file(path: Path) -> logging.Handler:
    """Refuses to append to anything that is not a log of ours: `--log scan.nrrd` must cost nothing."""
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if b" ascon: " not in file.readline(200):
                    raise UsageError(f"{path} exists and is not a log of ascon: choose another file for --log.")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The log {path} cannot be written ({error.strerror}): choose another file.") from None
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    return handler


@contextmanager
def _output_for_people() -> Iterator[None]:
    """No remarks of Python or of libraries, and a name that the terminal cannot show is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield
