"""`ascon evaluate`: compare volumes with a reference."""

from __future__ import annotations

import argparse
from typing import Any

from ASCONDenoiseLib.commands.arguments import Subparsers, add_command, to_path
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError


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
    add("--unclipped", action="store_true", help="clip only the reference, as in the paper's tables")


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.imaging import metrics
    from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.reports.text_table import metrics_text

    reference = read_volume(args.reference, args.reference_series)
    scales = (metrics.PAPER, metrics.Scale(args.window, DISPLAY_WINDOWS_HU[args.window]))
    comparisons: list[metrics.Comparison] = []
    for path in args.test:
        test = read_volume(path, args.test_series)
        if not _same_place(reference.geometry, test.geometry):
            console.note(f"{path} lies elsewhere in space than {args.reference}; voxels are compared by their order.")
        for scale in scales:
            try:
                compared = metrics.compare(
                    reference.voxels, test.voxels, scale, name=path.name, clip_test=not args.unclipped
                )
            except InputError as error:
                raise InputError(f"{path} cannot be compared with {args.reference}. {error}") from error
            comparisons.append(compared)
            console.progress(len(comparisons), len(scales) * len(args.test))
    table = metrics_text(sorted(comparisons, key=lambda c: scales.index(c.scale)), per_slice=args.per_slice)
    console.answer(table, reference=str(args.reference), comparisons=[c.to_dict() for c in comparisons])


def _same_place(a: Any, b: Any) -> bool:
    """Compare two geometries to a thousandth of a mm: files round."""
    import numpy as np

    pairs = ((a.spacing_mm, b.spacing_mm), (a.origin_mm, b.origin_mm), (a.direction, b.direction))
    return all(np.allclose(x, y, atol=1e-3) for x, y in pairs)
