"""All commands of this package for `ascon`: its entry point in the group "ascon.commands".

A new command is a file here with a function `add`, and a line below.
"""

from __future__ import annotations

import argparse

from ASCONTrainingLib.commands import ablation, compare, prepare, safety, train


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add all, once: in Slicer they are added by name, and by the entry point where the package is installed too."""
    if "train" in subparsers.choices:
        return
    for command in (prepare, train, ablation, compare, safety):
        command.add(subparsers)
