"""`ascon models`: list, verify, import or show model files."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict

from ASCONDenoiseLib.commands.arguments import Subparsers, add_command, to_path
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the commands."""
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
    from ASCONDenoiseLib.io.results import SHORT_SHA256
    from ASCONDenoiseLib.models.files import DEFAULT_MODEL, list_models, models_folder
    from ASCONDenoiseLib.reports.text_table import aligned

    rows, listed = [("name", "version", "trained for", "date", "sha256", "")], []
    for card, path in list_models():
        default = path.stem == DEFAULT_MODEL and path.parent == models_folder()
        mark = "default" if default else ""
        rows.append((path.stem, card.version, card.dose, card.date, card.sha256[:SHORT_SHA256], mark))
        listed.append({"name": path.stem, "path": str(path), "default": default, "card": asdict(card)})
    console.answer(aligned(rows) if listed else "There are no models.", models=listed)


def _verify_models(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.results import SHORT_SHA256
    from ASCONDenoiseLib.models.files import find_model, models_folder, user_folder, verify
    from ASCONDenoiseLib.reports.text_table import aligned

    folders = (models_folder(), user_folder())
    there = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    paths = [find_model(name) for name in args.model] or there
    rows, bad = [], []
    for path in paths:
        try:
            card = verify(path)
            rows.append((path.stem, "correct", card.sha256[:SHORT_SHA256]))
        except InputError as error:
            bad.append(str(error))
    if rows and not console.as_json:
        print(aligned(rows))
    if bad:
        raise InputError(" ".join(bad))
    console.answer("All are correct." if rows else "There are no models.", verified=[str(path) for path in paths])


def _import_model(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.models.files import import_model

    path = import_model(args.file)
    logger.info("imported %s", path)
    console.done(f"Imported as {path.stem}: {path}", name=path.stem, path=str(path))


def _show_model(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.commands.facts import fact_lines
    from ASCONDenoiseLib.messages import scope_lines
    from ASCONDenoiseLib.models.files import find_model, verify

    path = find_model(args.model)
    card = verify(path)
    facts = {"file": str(path), **asdict(card), "scope": scope_lines(card.scope)}
    console.answer(fact_lines(facts), path=str(path), card=asdict(card))
