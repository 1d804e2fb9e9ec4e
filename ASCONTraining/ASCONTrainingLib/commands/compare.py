"""`ascon compare`: models and classical filters on patients that none of them has seen, in one table."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError
from ASCONTrainingLib.commands.model_arguments import add_model_arguments, load_models

if TYPE_CHECKING:
    import numpy as np

PANELS = 4
"""Pictures in one row of a PNG."""


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "compare",
        _run,
        summary="compare models and classical filters on patients that none has seen",
        example="ascon compare --models ascon-default runs/unet/ascon-unet.safetensors --data sets/test --out table1",
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add(
        "--strengths",
        metavar="PERCENT",
        type=float,
        nargs="+",
        default=[100.0],
        help="a row of each model for each strength (default: 100)",
    )
    add("--no-filters", action="store_true", help="models only")
    add("--no-bm3d", action="store_true", help="without BM3D, which takes most of the filters' time")
    add("--phantoms", metavar="N", type=int, default=4, help="phantoms for the lesions' CNR (default: 4)")
    add("--phantom-side", metavar="N", type=int, default=256, help="their slices' side in pixels (default: 256)")
    add(
        "--not-run",
        metavar="NAME=REASON",
        action="append",
        default=[],
        help='a row that says why it is empty, e.g. "WGAN-VGG=no weights file"; may be repeated',
    )


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONTrainingLib.evaluation import comparison, tables
    from ASCONTrainingLib.evaluation.volumes import at_strengths

    candidates = at_strengths(load_models(args), args.strengths)
    settings = comparison.ComparisonSettings(
        split=args.split,
        every=args.every,
        classical=not args.no_filters,
        bm3d=not args.no_bm3d,
        phantoms=args.phantoms,
        phantom_side=args.phantom_side,
        allow_seen=args.allow_seen,
    )
    pictures = _Pictures(args.out)
    result = comparison.compare(
        args.data,
        candidates,
        settings,
        not_run=dict(_name_and_reason(text) for text in args.not_run),
        say=console.note,
        see=pictures.draw,
    )
    files = tables.write(result, args.out) + pictures.files
    console.answer(tables.text(result), files=[str(path) for path in files], **result.to_dict())


def _name_and_reason(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not (name and equals and reason):
        raise InputError(f"--not-run takes NAME=REASON; got {text}.")
    return name, reason


class _Pictures:
    """The middle slice of each volume by all methods, at the abdomen's window, a few to a file."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[Path] = []

    def draw(self, volume: str, images: Mapping[str, np.ndarray], spacing_mm: tuple[float, float, float]) -> None:
        from ASCONDenoiseLib.reports.pictures import Panel, side_by_side_png

        self.folder.mkdir(parents=True, exist_ok=True)
        panels = [Panel(name, image) for name, image in images.items()]
        for number, first in enumerate(range(0, len(panels), PANELS), 1):
            path = self.folder / f"{volume}-{number}.png"
            some = panels[first : first + PANELS]
            self.files.append(side_by_side_png(some, path, spacing_mm=spacing_mm, footer=volume))
