"""How a command joins `ascon`, the arguments that several commands share, and what their values may be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError

Subparsers = Any
"""What `argparse.ArgumentParser.add_subparsers` returns; its class is private."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaints go the way of all errors."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        for text in args or ():
            if text.startswith("--") and text.endswith("=--"):  # which some Pythons take for an empty list
                self.error(f"the argument {text.removesuffix('=--')} has no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def add_command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace, Console], None],
    *,
    summary: str,
    example: str,
) -> Parser:
    """Add `ascon NAME`, with the options that all commands share; its own arguments are added to what is returned.

    Args:
        subparsers: of `ascon`, or of a group of commands.
        name: of the command.
        run: called with the parsed arguments and the console. Where something is wrong, it raises an AsconError, which
            knows the exit code; any other exception is a defect, exit code 1.
        summary: what the command does, in the list of commands; it begins with a small letter.
        example: a command line.
    """
    parser: Parser = subparsers.add_parser(
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


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add IN and --series."""
    parser.add_argument(
        "input", metavar="IN", type=to_path, help="DICOM folder or file, .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd"
    )
    parser.add_argument("--series", metavar="UID", help="of a DICOM folder that holds several series")


def add_model(parser: argparse._ActionsContainer, default: str = "best") -> None:
    """Add --model; `default` says in its help which one is taken without it."""
    help_text = f"fast, best, a name of `ascon models list`, or a file (default: {default})"
    parser.add_argument("--model", metavar="NAME|FILE", help=help_text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:0 or mps")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add --precision, `mixed_precision.PRECISIONS`."""
    help_text = "of the network: auto (default) takes TF32 on CUDA, on a CPU bf16 where fast and faithful, else fp32"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=help_text)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Add --force."""
    parser.add_argument("--force", action="store_true", help="overwrite an existing file (never a folder)")


def to_path(text: str) -> Path:
    """Convert to a path that SimpleITK survives: on a name that is not Unicode it ends the whole process."""
    with _argument_error("this file name is not valid Unicode; rename the file"):
        text.encode()
        return Path(text)


def to_page(text: str) -> Path:
    """Convert to the path of a page."""
    with _argument_error(f"a page is a file that ends in .html; got {text}"):
        if Path(text).suffix.lower() not in (".html", ".htm"):
            raise ValueError
        return to_path(text)


def check_page(path: Path, *, force: bool) -> None:
    """Raise InputError where no page can be written, or one is there and `force` is not asked for. Ask early."""
    from ASCONDenoiseLib.io.image_files import check_place

    check_place(path)
    if path.exists() and not force:
        raise InputError(f"{path} exists already: choose another page, or overwrite it with --force.")


def to_strength(text: str) -> float:
    """Convert to a number from 0 to 1."""
    with _argument_error(f"strength is a number from 0 to 1; got {text}"):
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
        return value


def to_strength_or_target(text: str) -> float | str:
    """Convert to a number from 0 to 1, or to one of `strength.TARGETS`."""
    from ASCONDenoiseLib.imaging.strength import TARGETS

    if text in TARGETS:
        return text
    with _argument_error(f"strength is {', '.join(TARGETS)}, or a number from 0 to 1; got {text}"):
        return to_strength(text)


def to_dose(text: str) -> float:
    """Convert to a fraction of the normal dose, above 0 and up to 1."""
    with _argument_error(f"the dose is a fraction of the normal dose, above 0 and up to 1; got {text}"):
        value = float(text)
        if not 0 < value <= 1:
            raise ValueError
        return value


def to_number(text: str) -> float:
    """Convert to a finite number."""
    with _argument_error(f"a number is needed; got {text}"):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value


def to_positive(text: str) -> int:
    """Convert to a whole number of 1 or more."""
    with _argument_error(f"a whole number of 1 or more is needed; got {text}"):
        value = int(text)
        if value < 1:
            raise ValueError
        return value


def checked_device(name: str) -> str:
    """Try the device out and return its name as torch writes it. Raises InputError where it cannot be used."""
    from ASCONDenoiseLib.models.devices import pick_device

    return str(pick_device(name))


@contextmanager
def _argument_error(sentence: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise argparse.ArgumentTypeError(sentence) from None
