"""`ascon info`: versions, devices, threads, models."""

from __future__ import annotations

import argparse
import os
from importlib import metadata

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.commands.arguments import Subparsers, add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(subparsers, "info", _run, summary="versions, devices, threads, models", example="ascon info --json")


def _run(args: argparse.Namespace, console: Console) -> None:
    import platform

    import torch

    from ASCONDenoiseLib.commands.facts import fact_lines
    from ASCONDenoiseLib.io.results import SHORT_SHA256
    from ASCONDenoiseLib.models.card import load_card
    from ASCONDenoiseLib.models.devices import device_title
    from ASCONDenoiseLib.models.files import find_model, models_folder, user_folder

    packages = "torch numpy scipy scikit-image scikit-learn SimpleITK pydicom safetensors pillow".split()
    versions = {name: _version(name) for name in packages}
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
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "default model": default,
        "models": [str(models_folder()), str(user_folder())],
    }
    console.answer(fact_lines(facts), **facts)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
