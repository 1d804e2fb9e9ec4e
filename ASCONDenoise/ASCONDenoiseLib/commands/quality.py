"""`ascon quality`: what did denoising do to this image?"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import Subparsers, add_command, to_path
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from ASCONDenoiseLib.io.volume import Volume

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "quality",
        _run,
        summary="what did denoising do to this image? noise, texture, HU, regions, what was removed that is no noise",
        example="ascon quality ldct.nrrd denoised.nrrd\n"
        "  ascon quality ldct/ denoised/ --reference ndct/ --roi lesion.nrrd --out quality",
    )
    add = parser.add_argument
    add("before", metavar="BEFORE", type=to_path, help="the volume that was denoised, file or DICOM folder")
    add("after", metavar="AFTER", type=to_path, help="the denoised volume")
    add("--reference", metavar="NDCT", type=to_path, help="the same at normal dose, where there is one")
    add("--roi", metavar="FILE", type=to_path, help="label volume: 1 a lesion, 2 its background, others as you like")
    add(
        "--out", metavar="FOLDER", type=to_path, help="for the report, curves (PNG, SVG), tables (CSV) and results.json"
    )


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.imaging.findings import find
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import check_results_folder
    from ASCONDenoiseLib.reports import quality_report
    from ASCONDenoiseLib.reports.text_table import aligned

    if args.out is not None:
        check_results_folder(args.out, quality_report.COMMAND)
    before = read_volume(args.before)
    for note in before.notes:
        console.warn(note)
    images = {"LDCT": before.voxels, "denoised": _in_order(args.after, args.before, before, console)}
    if args.reference is not None:
        images["NDCT"] = _in_order(args.reference, args.before, before, console)
    labels = None if args.roi is None else _in_order(args.roi, args.before, before, console)
    findings = find(images, before.geometry.spacing_mm, labels, console.progress)
    tables = quality_report.tables(findings)
    text = "\n\n".join(f"{table.title}\n{aligned(table.rows, numbers=True)}" for table in tables)
    fields = findings.to_dict()
    if args.out is not None:
        facts = _facts(args, before)
        scan = quality_report.Scan(args.after.name, images, before.geometry.spacing_mm, findings, facts)
        quality_report.write_folder(args.out, scan)
        logger.info("wrote %s", args.out)
        text += f"\n\nReport  {args.out / quality_report.REPORT}"
        fields |= {"folder": str(args.out), "report": str(args.out / quality_report.REPORT)}
    console.answer(text, **fields)


def _in_order(path: Path, first: Path, before: Volume, console: Console) -> np.ndarray:
    """The voxels of another volume of the same scan, in the order of the first's."""
    from ASCONDenoiseLib.io.alignment import in_order_of
    from ASCONDenoiseLib.io.reading import read_volume

    volume = read_volume(path)
    for note in volume.notes:
        console.warn(note)
    try:
        return in_order_of(volume, before)
    except InputError as error:
        raise InputError(f"{path} cannot be compared with {first}: they {error} Give volumes of one scan.") from None


def _facts(args: argparse.Namespace, before: Volume) -> dict[str, str]:
    x, y, z = before.geometry.spacing_mm
    slices, rows, columns = before.voxels.shape
    return {
        "LDCT": args.before.name,
        "Denoised": args.after.name,
        **({"NDCT": args.reference.name} if args.reference else {}),
        **({"Regions": args.roi.name} if args.roi else {}),
        "Size": f"{slices} slices of {rows} x {columns} pixels, {x:.3g} x {y:.3g} x {z:.3g} mm",
        **_record(args.after),
    }


def _record(after: Path) -> dict[str, str]:
    """How the denoised volume was made, where a record of ours lies beside it."""
    from ASCONDenoiseLib.reports.quality_report import made

    try:
        return made(json.loads(after.with_name(after.name + ".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}
