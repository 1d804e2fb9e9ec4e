"""`ascon info`: versions, devices, what the CPU computes with, models."""

from __future__ import annotations

import argparse
from importlib import metadata

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.commands.arguments import Subparsers, add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.requirements import COMMAND, TORCH, WITH_SLICER, name


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "info", _run, summary="versions, devices, threads, models", example="ascon info --json")


def _run(args: argparse.Namespace, console: Console) -> None:
    import platform

    import torch

    from ASCONDenoiseLib.commands.facts import fact_lines
    from ASCONDenoiseLib.io.results import SHORT_SHA256
    from ASCONDenoiseLib.models import cpu
    from ASCONDenoiseLib.models.card import load_card
    from ASCONDenoiseLib.models.devices import device_title
    from ASCONDenoiseLib.models.files import find_model, models_folder, user_folder

    packages = [name(requirement) for requirement in (TORCH, *WITH_SLICER, *COMMAND)]
    versions = {package: _version(package) for package in packages}
    gpus = [device_title(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    devices = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    try:
        card = load_card(find_model())
        default = f"{card.name} {card.version} (sha256 {card.sha256[:SHORT_SHA256]})"
    except InputError as error:
        default = f"none: {error}"
    facts = {
        "ascon": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions,
        "devices": devices,
        **cpu.cpu_facts(),
        "default model": default,
        "models": [str(models_folder()), str(user_folder())],
    }
    if slow := cpu.slow_blas():
        console.warn(slow)
    console.answer(fact_lines(facts), **facts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
