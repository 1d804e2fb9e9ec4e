"""Arguments that several commands share, and what their values may be."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UsageError(ValueError):
    """The command line asks for something that cannot be; the text says what."""


def add_input(parser: argparse.ArgumentParser) -> None:
    """IN and --series."""
    parser.add_argument(
        "input", metavar="IN", type=to_path, help="DICOM folder or file, .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd"
    )
    parser.add_argument("--series", metavar="UID", help="of a DICOM folder that holds several series")


def add_model(parser: argparse.ArgumentParser) -> None:
    """--model."""
    parser.add_argument("--model", metavar="NAME|FILE", help="see `ascon models list` (default: the default model)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:0 or mps")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision, `inference.PRECISIONS`."""
    help_text = "of the network: auto (default) takes bf16 where it is fast and faithful, else fp32"
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help=help_text)


def add_force(parser: argparse.ArgumentParser) -> None:
    """--force."""
    parser.add_argument("--force", action="store_true", help="overwrite an existing file (never a folder)")


def to_path(text: str) -> Path:
    """A path that SimpleITK survives: on a name that is not Unicode it ends the whole process."""
    with _argument_error("this file name is not valid Unicode; rename the file"):
        text.encode()
        return Path(text)


def to_strength(text: str) -> float:
    """A number from 0 to 1."""
    with _argument_error(f"strength is a number from 0 to 1; got {text}"):
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
        return value


def to_number(text: str) -> float:
    """A finite number."""
    with _argument_error(f"a number is needed; got {text}"):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value


def to_positive(text: str) -> int:
    """A whole number of 1 or more."""
    with _argument_error(f"a whole number of 1 or more is needed; got {text}"):
        value = int(text)
        if value < 1:
            raise ValueError
        return value


def checked_device(name: str) -> str:
    """The device, tried out, as torch writes it."""
    from ASCONDenoiseLib.models.inference import pick_device

    try:
        return str(pick_device(name))
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextmanager
def _argument_error(sentence: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise argparse.ArgumentTypeError(sentence) from None
