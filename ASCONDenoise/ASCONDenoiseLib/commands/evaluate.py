"""`ascon evaluate`: compare volumes with a reference."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import Subparsers, add_command, to_path
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ASCONDenoiseLib.io.volume import Volume


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "evaluate",
        _run,
        summary="compare volumes with a reference: PSNR, SSIM, RMSE",
        example="ascon evaluate --reference ndct.nrrd --test ldct.nrrd --test denoised.nrrd",
    )
    add = parser.add_argument
    add("--reference", metavar="A", type=to_path, required=True, help="normal-dose volume, file or DICOM folder")
    add("--test", metavar="B", type=to_path, required=True, action="append", help="volume to judge; may be repeated")
    add("--reference-series", metavar="UID", help="of a DICOM folder that holds several series")
    add("--test-series", metavar="UID", help="the same for the volumes to judge")
    add(
        "--window",
        choices=("abdomen", "lung", "bone", "brain"),
        default="abdomen",
        help="display window, measured besides the paper's units (default: abdomen)",
    )
    add("--per-slice", action="store_true", help="a row for each slice")
    add("--by-order", action="store_true", help="compare voxels by their order where the files say they lie elsewhere")
    add("--unclipped", action="store_true", help="clip only the reference, as in the paper's tables")


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.imaging import metrics
    from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.reports.text_table import metrics_text

    reference = read_volume(args.reference, args.reference_series)
    for note in reference.notes:
        console.warn(note)
    tests = [(path, _in_order(args, path, reference, console)) for path in args.test]
    scales = (metrics.PAPER, metrics.Scale(args.window, DISPLAY_WINDOWS_HU[args.window]))
    comparisons: list[metrics.Comparison] = []
    for path, voxels in tests:
        for scale in scales:
            try:
                compared = metrics.compare(
                    reference.voxels, voxels, scale, name=path.name, clip_test=not args.unclipped
                )
            except InputError as error:
                raise InputError(f"{path} cannot be compared with {args.reference}. {error}") from error
            comparisons.append(compared)
            console.progress(len(comparisons), len(scales) * len(args.test))
    table = metrics_text(sorted(comparisons, key=lambda c: scales.index(c.scale)), per_slice=args.per_slice)
    console.answer(table, reference=str(args.reference), comparisons=[c.to_dict() for c in comparisons])


def _in_order(args: argparse.Namespace, path: Path, reference: Volume, console: Console) -> np.ndarray:
    """The voxels of a volume to judge, in the order of the reference's."""
    from ASCONDenoiseLib.imaging.registration import misfit
    from ASCONDenoiseLib.io.alignment import in_order_of
    from ASCONDenoiseLib.io.reading import read_volume

    test = read_volume(path, args.test_series)
    for note in test.notes:
        console.warn(note)
    try:
        voxels = in_order_of(test, reference)
    except InputError as error:
        if not args.by_order:
            raise InputError(
                f"{path} cannot be compared with {args.reference}: they {error} Give volumes of one scan; --by-order "
                "compares voxels by their order, wherever they lie."
            ) from None
        console.warn(f"{args.reference} and {path} {error} Voxels are compared by their order.")
        voxels = test.voxels
    if voxels.shape == reference.voxels.shape and (found := misfit(reference.voxels, voxels)):
        console.warn(f"{args.reference} and {path} {found.text}.")
    return voxels
