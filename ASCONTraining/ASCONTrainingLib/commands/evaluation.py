"""`ascon compare` and `ascon safety`: models against their peers, and against what must not happen to an image.

Arguments in, tables and files out; `comparison.py` and ASCONDenoiseLib's `safety.py` do the work.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.cli import Console, Parser, UsageError, add_command

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from ASCONDenoiseLib.models.files import ModelCard

PANELS = 4
"""Pictures in one row of a PNG."""


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Both, once."""
    if "compare" in subparsers.choices:
        return
    _add_compare(subparsers)
    _add_safety(subparsers)


def _add_shared(parser: Parser) -> None:
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
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def _add_compare(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "compare",
        _compare,
        summary="compare models and classical filters on patients that none has seen",
        example="ascon compare --models ascon-default runs/unet/ascon-unet.safetensors --data sets/test --out table1",
    )
    _add_shared(parser)
    add = parser.add_argument
    add("--no-filters", action="store_true", help="models only")
    add("--phantoms", metavar="N", type=int, default=4, help="phantoms for the lesions' CNR (default: 4)")
    add("--phantom-side", metavar="N", type=int, default=256, help="their slices' side in pixels (default: 256)")
    add(
        "--not-run",
        metavar="NAME=REASON",
        action="append",
        default=[],
        help='a row that says why it is empty, e.g. "WGAN-VGG=no weights file"; may be repeated',
    )


def _compare(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.models import inference
    from ASCONTrainingLib.evaluation import comparison

    _check(args)
    inference.pick_device(args.device)
    networks = _networks(args.models)
    settings = comparison.Settings(
        split=args.split,
        every=args.every,
        classical=not args.no_filters,
        phantoms=args.phantoms,
        phantom_side=args.phantom_side,
        allow_seen=args.allow_seen,
    )
    pictures = _Pictures(args.out)
    found = comparison.compare(
        args.data,
        networks,
        settings,
        device=args.device,
        not_run=dict(_reason(text) for text in args.not_run),
        say=console.note,
        see=pictures.draw,
    )
    files = comparison.write(found, args.out) + pictures.files
    console.answer(comparison.text(found), files=[str(path) for path in files], **found.to_dict())


def _reason(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not (name and equals and reason):
        raise UsageError(f"--not-run takes NAME=REASON; got {text}.")
    return name, reason


class _Pictures:
    """The middle slice of each volume by all methods, at the abdomen's window, a few to a file."""

    def __init__(self, folder: Path):
        self.folder, self.files = folder, []

    def draw(self, volume: str, images: Mapping[str, np.ndarray], spacing_mm: tuple[float, ...]) -> None:
        from ASCONDenoiseLib.reports.page import Panel, side_by_side_png

        self.folder.mkdir(parents=True, exist_ok=True)
        panels = [Panel(name, image) for name, image in images.items()]
        for number, first in enumerate(range(0, len(panels), PANELS), 1):
            path = self.folder / f"{volume}-{number}.png"
            some = panels[first : first + PANELS]
            self.files.append(side_by_side_png(some, path, spacing_mm=spacing_mm, footer=volume))


# -------------------------------------------------------------------------------------------------------------- safety


def _add_safety(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "safety",
        _safety,
        summary="measure what a model must not do: shift HU, widen edges, lose lesions, invent structure",
        example="ascon safety --models ascon-default --data sets/test --every 8 --out safety",
    )
    _add_shared(parser)
    add = parser.add_argument
    add("--realisations", metavar="N", type=int, default=50, help="of the noise for each kind of lesion (default: 50)")
    add("--doses", metavar="D", type=float, nargs="+", default=[0.10, 0.25, 0.50], help="of the lesions")
    add("--quick", action="store_true", help="few lesions and realisations: minutes instead of hours")


def _safety(args: argparse.Namespace, console: Console) -> None:
    from dataclasses import replace

    from ASCONDenoiseLib.models import inference
    from ASCONTrainingLib.evaluation import comparison, safety

    _check(args)
    inference.pick_device(args.device)
    settings = replace(safety.SafetySettings(), realisations=args.realisations, doses=tuple(args.doses))
    settings = safety.quick(settings) if args.quick else settings
    networks = _networks(args.models)
    pairs, scans = comparison.pairs(args.data, args.split, args.every)
    cards = {name: card for name, (_, card) in networks.items()}
    for warning in comparison.check_unseen(cards, scans, args.allow_seen):
        console.note(warning)
    found = []
    for name, (network, _) in networks.items():
        denoise = comparison.denoiser(network, args.device)
        found.append(safety.measure(name, denoise, pairs, settings, console.note))
    args.out.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(safety.text(one) for one in found)
    results = [one.to_dict() for one in found]
    for name, content in (
        ("safety.txt", text + "\n"),
        ("safety.json", json.dumps(results, indent=1) + "\n"),
        ("lesions.csv", safety.lesions_csv(found)),
    ):
        (args.out / name).write_text(content, encoding="utf-8")
    safety.lesions_png(found, args.out / "lesions.png")
    console.answer(text, safety=results)


def _check(args: argparse.Namespace) -> None:
    if args.every < 1:
        raise UsageError(f"--every takes 1 or more; got {args.every}.")
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise UsageError(f"{args.out} exists and is not empty: name a new folder with --out.")


def _networks(texts: Sequence[str]) -> dict[str, tuple[nn.Module, ModelCard]]:
    """Name of the row -> network and card. The name is the label, or the card's, with a number where that is taken."""
    from ASCONDenoiseLib.models.files import load_network

    labelled = [_labelled(text) for text in texts]
    taken = _check_labels([label for label, _ in labelled if label])
    found: dict[str, tuple[nn.Module, ModelCard]] = {}
    for label, path in labelled:
        network, card = load_network(path)
        name, number = label or card.name, 2
        while not label and name in taken:
            name, number = f"{card.name} ({number})", number + 1
        taken.add(name)
        found[name] = (network, card)
    return found


def _labelled(text: str) -> tuple[str, Path]:
    """Label ("" for none) and file of MODEL or LABEL=MODEL; a model whose own name holds "=" goes before."""
    from ASCONDenoiseLib.models.files import ModelError, find_model

    try:
        return "", find_model(text)
    except ModelError:
        label, equals, model = text.partition("=")
        if not equals:
            raise
    if not (label.strip() and model):
        raise UsageError(f"--models takes MODEL or LABEL=MODEL; got {text}.")
    return label.strip(), find_model(model)


def _check_labels(labels: Sequence[str]) -> set[str]:
    """All names that other rows have, labels among them. Raises UsageError for a label that is one already."""
    from ASCONTrainingLib.evaluation.comparison import reserved_names

    taken = reserved_names()
    for label in labels:
        if label in taken:
            whose = "two models" if labels.count(label) > 1 else "a model, but another row of the table has that name"
            raise UsageError(f'--models gives the label "{label}" to {whose}: choose another.')
        taken.add(label)
    return taken
