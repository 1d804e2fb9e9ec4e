"""The commands on models and on the installation: models list, verify, import, show; info."""

from __future__ import annotations

import argparse
import logging
import os
from importlib import metadata
from typing import Any

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.commands.arguments import to_path
from ASCONDenoiseLib.commands.cli import Console, add_command, columns

logger = logging.getLogger(__name__)


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """All of this file."""
    _add_models(subparsers)
    _add_info(subparsers)


def _add_models(subparsers: argparse._SubParsersAction) -> None:
    group = subparsers.add_parser(
        "models",
        help="list, verify, import or show model files",
        description="List, verify, import or show model files.",
        allow_abbrev=False,
    )
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(commands, "list", _list_models, summary="the models that are there", example="ascon models list")
    verify = add_command(
        commands,
        "verify",
        _verify_models,
        summary="check model files: format, card, SHA-256",
        example="ascon models verify                    all that are there",
    )
    verify.add_argument("model", metavar="MODEL", nargs="*", help="name or file (default: all)")
    importing = add_command(
        commands,
        "import",
        _import_model,
        summary="copy a model, checked, to the user's models",
        example="ascon models import my-model.safetensors",
    )
    importing.add_argument("file", metavar="FILE", type=to_path, help="NAME.safetensors, with NAME.json beside it")
    show = add_command(
        commands,
        "show",
        _show_model,
        summary="what a model is, what it was trained on and what it is for",
        example="ascon models show ascon-default",
    )
    show.add_argument("model", metavar="MODEL", nargs="?", help="name or file (default: the default model)")


def _list_models(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.models.files import DEFAULT_MODEL, list_models, models_folder

    rows, found = [("name", "version", "trained for", "date", "sha256", "")], []
    for card, path in list_models():
        default = path.stem == DEFAULT_MODEL and path.parent == models_folder()
        rows.append((path.stem, card.version, card.dose, card.date, _short(card.sha256), "default" if default else ""))
        found.append({"name": path.stem, "path": str(path), "default": default, "card": _fields(card)})
    console.answer(columns(rows) if found else "There are no models.", models=found)


def _verify_models(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.errors import InputError
    from ASCONDenoiseLib.models.files import find_model, models_folder, user_folder, verify

    folders = (models_folder(), user_folder())
    there = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    paths = [find_model(name) for name in args.model] or there
    rows, bad = [], []
    for path in paths:
        try:
            card = verify(path)
            rows.append((path.stem, "correct", _short(card.sha256)))
        except InputError as error:
            bad.append(str(error))
    if rows and not console.as_json:
        print(columns(rows))
    if bad:
        raise InputError(" ".join(bad))
    console.answer("All are correct." if rows else "There are no models.", verified=[str(path) for path in paths])


def _import_model(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.models.files import import_model

    path = import_model(args.file)
    logger.info("imported %s", path)
    console.done(f"Imported as {path.stem}: {path}", name=path.stem, path=str(path))


def _show_model(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.messages import scope_lines
    from ASCONDenoiseLib.models.files import find_model, verify

    path = find_model(args.model)
    card = verify(path)
    facts = {"file": str(path), **_fields(card), "scope": scope_lines(card.scope)}
    rows = [(name.replace("_", " "), line) for name, value in facts.items() for line in _lines(value)]
    console.answer(columns(rows), path=str(path), card=_fields(card))


def _add_info(subparsers: argparse._SubParsersAction) -> None:
    add_command(subparsers, "info", _info, summary="versions, devices, threads, models", example="ascon info --json")


def _info(args: argparse.Namespace, console: Console) -> None:
    import platform

    import torch

    from ASCONDenoiseLib.errors import InputError
    from ASCONDenoiseLib.models.card import load_card
    from ASCONDenoiseLib.models.files import find_model, models_folder, user_folder

    packages = "torch numpy scipy scikit-image scikit-learn SimpleITK pydicom safetensors pillow".split()
    versions = {name: _version(name) for name in packages}
    gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    devices = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    try:
        card = load_card(find_model())
        default = f"{card.name} {card.version} (sha256 {_short(card.sha256)})"
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
    console.answer(columns([(name, line) for name, value in facts.items() for line in _lines(value)]), **facts)


def _fields(card: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


def _lines(value: Any) -> list[str]:
    """A value on one line; texts in a list and items of an object each on its own."""
    if isinstance(value, dict):
        return [f"{name}: {item}" for name, item in value.items()] or ["-"]
    if isinstance(value, list):
        return value or ["-"]
    return [", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)]


def _short(sha256: str) -> str:
    from ASCONDenoiseLib.io.results import SHORT_SHA256

    return sha256[:SHORT_SHA256]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
