"""What `ascon compare` and `ascon safety` share: the models with the names of their rows, the data, the folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import Parser, add_device, checked_device
from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from ASCONDenoiseLib.models.card import ModelCard


def add_model_arguments(parser: Parser) -> None:
    """The arguments of both commands."""
    add = parser.add_argument
    add(
        "--models",
        metavar="MODEL",
        nargs="+",
        required=True,
        help="names or files of models; LABEL=MODEL gives one another name in the tables than its card does, e.g. "
        '"ESAU-Net=runs/esau/ascon.safetensors"',
    )
    add("--data", metavar="SET", type=Path, required=True, help="prepared set (`ascon prepare`) with unseen patients")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for tables and pictures")
    add("--split", choices=("test", "validation"), default="test", help="of the set (default: test)")
    add("--every", metavar="N", type=int, default=1, help="take each n-th slice")
    add("--allow-seen", action="store_true", help="also scans that a model was trained on: numbers too good")
    add_device(parser)


def load_models(args: argparse.Namespace) -> dict[str, tuple[nn.Module, ModelCard]]:
    """The models of `named_models`. Raises InputError also for an argument that cannot be or a folder in use."""
    if args.every < 1:
        raise InputError(f"--every takes 1 or more; got {args.every}.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise InputError(f"{args.out} exists and is not empty: name a new folder with --out.")
    checked_device(args.device)
    return named_models(args.models)


def named_models(texts: Sequence[str]) -> dict[str, tuple[nn.Module, ModelCard]]:
    """Name of the row -> network and card of each MODEL or LABEL=MODEL.

    The name is the label, or the card's, with a number where that is taken. Raises InputError where there is no such
    model, or the label is the name of another row.
    """
    from ASCONDenoiseLib.models.files import load_network

    labelled = [_labelled(text) for text in texts]
    taken = _check_labels([label for label, _ in labelled if label])
    networks: dict[str, tuple[nn.Module, ModelCard]] = {}
    for label, path in labelled:
        network, card = load_network(path)
        name, number = label or card.name, 2
        while not label and name in taken:
            name, number = f"{card.name} ({number})", number + 1
        taken.add(name)
        networks[name] = (network, card)
    return networks


def _labelled(text: str) -> tuple[str, Path]:
    """Label ("" for none) and file of MODEL or LABEL=MODEL; a model whose own name holds "=" goes before."""
    from ASCONDenoiseLib.models.files import find_model

    try:
        return "", find_model(text)
    except InputError:
        label, equals, model = text.partition("=")
        if not equals:
            raise
    if not (label.strip() and model):
        raise InputError(f"--models takes MODEL or LABEL=MODEL; got {text}.")
    return label.strip(), find_model(model)


def _check_labels(labels: Sequence[str]) -> set[str]:
    """All names that other rows have, labels among them. Raises InputError for a label that is one already."""
    from ASCONTrainingLib.evaluation.comparison import reserved_names

    taken = reserved_names()
    for label in labels:
        if label in taken:
            whose = "two models" if labels.count(label) > 1 else "a model, but another row of the table has that name"
            raise InputError(f'--models gives the label "{label}" to {whose}: choose another.')
        taken.add(label)
    return taken
