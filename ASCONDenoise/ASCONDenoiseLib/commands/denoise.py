"""`ascon denoise`: take the noise out of a CT volume."""

from __future__ import annotations

import argparse
import logging

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_force,
    add_input,
    add_model,
    add_precision,
    checked_device,
    to_path,
    to_positive,
    to_strength,
)
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.commands.volume_warnings import say_warnings

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "denoise",
        _run,
        summary="take the noise out of a CT volume",
        example="ascon denoise scan/ denoised/          a DICOM folder, to a derived DICOM series\n"
        "  ascon denoise scan.nrrd out.nrrd --strength 0.7",
    )
    add_input(parser)
    parser.add_argument(
        "output",
        metavar="OUT",
        type=to_path,
        help=".nrrd, .nii, .nii.gz or .mha file (a .json beside it says how it was made); any other name is a new "
        "folder for a derived DICOM series",
    )
    add_model(parser)
    parser.add_argument(
        "--strength", type=to_strength, default=1.0, help="0 (nothing is changed) to 1 (all the noise found; default)"
    )
    add_device(parser)
    add_precision(parser)
    parser.add_argument("--batch", metavar="N", type=to_positive, help="slices at once (default: what fits)")
    add_force(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import describe, destination
    from ASCONDenoiseLib.io.volume import like
    from ASCONDenoiseLib.models.files import find_model, load_network

    name, output = args.input.resolve().name, destination(args.output)
    output.check(args.input, force=args.force)
    model = find_model(args.model)
    volume = read_volume(args.input, args.series)
    output.check_volume(volume, name)
    device = checked_device(args.device)
    from ASCONDenoiseLib.models.inference import denoise
    from ASCONDenoiseLib.models.record import denoising_record

    network, card = load_network(model)
    logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)
    warnings = say_warnings(console, volume, name, card)
    result = denoise(
        volume.voxels,
        network,
        strength=args.strength,
        device=device,
        batch=args.batch,
        precision=args.precision,
        padding_hu=volume.padding_hu,
        progress=console.progress,
    )
    record = denoising_record(card, result, volume, name, warnings)
    output.write(like(volume, result.voxels), record, force=args.force)
    logger.info("wrote %s: %s", args.output, describe(record))
    console.done(f"{args.output}: {describe(record)}", output=str(args.output), **record)
