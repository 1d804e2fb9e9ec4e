"""`ascon denoise`: take the noise out of a CT volume."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_force,
    add_input,
    add_model,
    add_precision,
    check_page,
    to_dose,
    to_page,
    to_path,
    to_positive,
    to_strength_or_target,
)
from ASCONDenoiseLib.commands.console import Console

if TYPE_CHECKING:
    from torch import nn

    from ASCONDenoiseLib.models.card import ModelCard
    from ASCONDenoiseLib.models.scan import DenoisedScan

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "denoise",
        _run,
        summary="take the noise out of a CT volume",
        example="ascon denoise scan/ denoised/          a DICOM folder, to a derived DICOM series\n"
        "  ascon denoise scan.nrrd out.nrrd --strength 0.7\n"
        "  ascon denoise scan.nrrd out.nrrd --strength normal-dose --dose 0.25",
    )
    add_input(parser)
    parser.add_argument(
        "output",
        metavar="OUT",
        type=to_path,
        help=".nrrd, .nii, .nii.gz or .mha file (a .json beside it says how it was made); any other name is a new "
        "folder for a derived DICOM series",
    )
    add_model(parser, "best; for 60 slices and more without a GPU fast")
    parser.add_argument(
        "--strength",
        metavar="S",
        type=to_strength_or_target,
        help="0 (nothing is changed) to 1 (all the noise found; default), or what it is for: all, half-noise, or "
        "normal-dose (as much noise as the normal dose would have; needs --dose)",
    )
    parser.add_argument(
        "--dose", metavar="FRACTION", type=to_dose, help="of this scan, of the normal dose, e.g. 0.25; no file says it"
    )
    add_device(parser)
    add_precision(parser)
    parser.add_argument("--batch", metavar="N", type=to_positive, help="slices at once (default: what fits)")
    parser.add_argument(
        "--report", metavar="PAGE", type=to_page, help="write a page (.html) that shows and measures what was done, too"
    )
    add_force(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.imaging.strength import DEFAULT_STRENGTH, Target
    from ASCONDenoiseLib.io.results import describe, destination
    from ASCONDenoiseLib.models.files import choose_model, find_model, load_network
    from ASCONDenoiseLib.models.scan import ScanSettings, denoise_scan

    if args.report is not None:
        check_page(args.report, force=args.force)
    strength = DEFAULT_STRENGTH if args.strength is None else args.strength
    if isinstance(strength, str):
        strength = Target(strength, args.dose)
    output = destination(args.output)
    output.check(args.input, force=args.force)
    find_model(args.model)  # before anything is read

    def load(slices: int, device: str) -> tuple[nn.Module, ModelCard, str]:
        path, note = choose_model(args.model, slices, lambda: device != "cpu")
        return *load_network(path), note

    done = denoise_scan(
        args.input,
        output,
        load,
        ScanSettings(strength, args.device, args.precision, args.batch),
        series_uid=args.series,
        force=args.force,
        warn=console.warn,
        progress=console.progress,
    )
    record, report = done.record, {}
    if args.report is not None:
        _report(args.report, done, console)
        report = {"report": str(args.report)}
    console.done(f"{args.output}: {describe(record)}", output=str(args.output), **record, **report)


def _report(path: Path, done: DenoisedScan, console: Console) -> None:
    from ASCONDenoiseLib.imaging.findings import find
    from ASCONDenoiseLib.reports.quality_report import Scan, made, write_page

    volume, name = done.volume, done.record["source"]
    if volume.phases > 1:
        name = f"{name}, phase 1 of {volume.phases}"
    images = {"LDCT": volume.voxels[: volume.slices], "denoised": done.voxels[: volume.slices]}
    spacing_mm = volume.geometry.spacing_mm
    findings = find(images, spacing_mm, progress=console.progress)
    warning = " ".join(done.record["warnings"])
    write_page(path, Scan(name, images, spacing_mm, findings, made(done.record), warning))
    logger.info("wrote %s", path)
