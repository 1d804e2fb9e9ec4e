"""`ascon simulate`: make a low-dose scan from a normal-dose one."""

from __future__ import annotations

import argparse
import logging

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_force,
    add_input,
    checked_device,
    to_number,
    to_path,
)
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.commands.volume_warnings import say_warnings
from ASCONDenoiseLib.errors import InputError

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "simulate",
        _run,
        summary="make a low-dose scan from a normal-dose one",
        example="ascon simulate scan/ quarter.nrrd --dose 0.25",
    )
    add_input(parser)
    parser.add_argument("output", metavar="OUT", type=to_path, help=".nrrd, .nii, .nii.gz or .mha file")
    add = parser.add_argument
    add("--dose", type=to_number, required=True, help="fraction of the scan's dose, above 0 and at most 1")
    add("--geometry", choices=("fan", "parallel"), default="fan", help="of the projections (default: fan)")
    add(
        "--kernel",
        choices=("scan", "soft", "standard", "sharp"),
        default="scan",
        help="reconstruction of the noise; scan (default): as the scan's own noise shows it",
    )
    add("--photons", type=to_number, help="per ray in air at normal dose (default: from the scan's own noise)")
    add(
        "--electronic-noise", metavar="SD", type=to_number, default=0.0, help="of the detector, in photons (default: 0)"
    )
    add(
        "--bowtie-edge",
        metavar="SHARE",
        type=to_number,
        default=0.2,
        help="of photons at the filter's edge; 1: no filter",
    )
    add("--current-modulation", metavar="POWER", type=to_number, default=0.0, help="0: constant tube current (default)")
    add("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    add_device(parser)
    add_force(parser)


def _run(args: argparse.Namespace, console: Console) -> None:
    from dataclasses import asdict

    from ASCONDenoiseLib.io.image_files import WRITABLE_SUFFIXES
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import VolumeFile, destination, made_by
    from ASCONDenoiseLib.io.volume import like

    name, output = args.input.resolve().name, destination(args.output)
    if not isinstance(output, VolumeFile):
        raise InputError(
            f"{args.output.name} names no file that can be written: let it end in {', '.join(WRITABLE_SUFFIXES)}."
        )
    output.check(args.input, force=args.force)
    from ASCONDenoiseLib.physics.dose import simulate
    from ASCONDenoiseLib.physics.settings import DoseSettings

    options = ("dose", "geometry", "kernel", "photons", "electronic_noise", "bowtie_edge", "current_modulation", "seed")
    settings = DoseSettings(**{option: getattr(args, option) for option in options})
    device = checked_device(args.device)
    volume = read_volume(args.input, args.series)
    output.check_volume(volume, name)
    warnings = say_warnings(console, volume, name)
    simulation = simulate(
        volume.voxels,
        volume.geometry.spacing_mm,
        settings,
        device=device,
        padding_hu=volume.padding_hu,
        progress=console.progress,
    )
    for note in simulation.notes:
        console.warn(note)
    photons = [round(float(n)) for n in simulation.photons]
    record = made_by("simulate", volume, name) | {
        "settings": asdict(settings),
        "photons": photons,
        "kernel": asdict(simulation.kernel),
        "notes": [*volume.notes, *simulation.notes],
        "warnings": warnings,
    }
    output.write(like(volume, simulation.voxels), record, force=args.force)
    kernel = simulation.kernel
    said = "as given" if settings.photons else "from the scan's own noise"
    slices = f"{len(photons)} slice{'s' if len(photons) != 1 else ''}"
    line = (
        f"{args.output}: {slices} at {100 * settings.dose:g} % of the dose, "
        f"{min(photons):,} to {max(photons):,} photons per ray at normal dose ({said}), "
        f"kernel cut-off {kernel.cutoff_per_mm:.2f} per mm, order {kernel.order:.1f}"
    )
    logger.info("wrote %s", line)
    console.done(line, output=str(args.output), **record)
