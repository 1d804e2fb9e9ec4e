"""What `ascon compare` and `ascon safety` share: the models with the names of their rows, the data, the folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import Parser, add_device, checked_device
from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    from ASCONTrainingLib.evaluation.volumes import Candidate


def add_model_arguments(parser: Parser) -> None:
    """The arguments of both commands."""
    add = parser.add_argument
    add(
        "--models",
        metavar="MODEL",
        nargs="+",
        required=True,
        help="names or files of models; LABEL=MODEL gives one another name in the tables than its card does, e.g. "
        '"ESAU-Net=runs/esau/ascon.safetensors". Also a method of your own: module:function, from HU (S, H, W) and '
        'spacing to HU, or LABEL=COMMAND with {in} and {out} for NIfTI files, e.g. "Mine=python mine.py {in} {out}"',
    )
    add("--data", metavar="SET", type=Path, required=True, help="prepared set (`ascon prepare`) with unseen patients")
    add("--out", metavar="DIR", type=Path, required=True, help="folder for tables and pictures")
    add("--split", choices=("test", "validation"), default="test", help="of the set (default: test)")
    add("--every", metavar="N", type=int, default=1, help="take each n-th slice")
    add("--allow-seen", action="store_true", help="also scans that a model was trained on: numbers too good")
    add_device(parser)


def load_models(args: argparse.Namespace) -> dict[str, Candidate]:
    """The models of `named_models`. Raises InputError also for an argument that cannot be or a folder in use."""
    if args.every < 1:
        raise InputError(f"--every takes 1 or more; got {args.every}.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise InputError(f"{args.out} exists and is not empty: name a new folder with --out.")
    checked_device(args.device)
    return named_models(args.models, args.device)


def named_models(texts: Sequence[str], device: str = "auto") -> dict[str, Candidate]:
    """Name of the row -> denoiser of each MODEL or LABEL=MODEL, where MODEL may be a foreign one.

    The name is the label, or the card's, with a number where that is taken. Raises InputError where there is no such
    model, or the label is the name of another row.
    """
    from ASCONDenoiseLib.models.files import load_network
    from ASCONTrainingLib.evaluation.foreign import foreign
    from ASCONTrainingLib.evaluation.volumes import of_network

    labelled = [_labelled(text) for text in texts]
    taken = _check_labels([label for label, _ in labelled if label])
    candidates: dict[str, Candidate] = {}
    for label, model in labelled:
        candidate = foreign(model) if isinstance(model, str) else of_network(*load_network(model), device)
        name, number = label or candidate.note, 2
        while not label and name in taken:
            name, number = f"{candidate.note} ({number})", number + 1
        taken.add(name)
        candidates[name] = candidate
    return candidates


def _labelled(text: str) -> tuple[str, Path | str]:
    """Label ("" for none) and file, or text of a foreign denoiser; a model whose own name holds "=" goes before."""
    from ASCONDenoiseLib.models.files import find_model
    from ASCONTrainingLib.evaluation.foreign import FUNCTION, is_foreign

    try:
        return "", find_model(text)
    except InputError:
        label, equals, model = text.partition("=")
        if FUNCTION.fullmatch(text):
            return "", text
        if not equals:
            raise
    if not (label.strip() and model):
        raise InputError(f"--models takes MODEL or LABEL=MODEL; got {text}.")
    return label.strip(), model if is_foreign(model) else find_model(model)


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
