"""The commands on scans: denoise, simulate, evaluate, cluster, demo."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from ASCONDenoiseLib.commands.arguments import (
    UsageError,
    add_device,
    add_force,
    add_input,
    add_model,
    add_precision,
    checked_device,
    to_number,
    to_path,
    to_positive,
    to_strength,
)
from ASCONDenoiseLib.commands.cli import Console, add_command, columns

logger = logging.getLogger(__name__)


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """All of this file."""
    for add in (_add_denoise, _add_simulate, _add_evaluate, _add_cluster, _add_demo):
        add(subparsers)


def _add_denoise(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "denoise",
        _denoise,
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


def _denoise(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import describe, destination
    from ASCONDenoiseLib.io.volume import like
    from ASCONDenoiseLib.models import suitability
    from ASCONDenoiseLib.models.files import find_model, load_network

    output = destination(args.output)
    output.check(args.input, force=args.force)
    model = find_model(args.model)
    volume = read_volume(args.input, args.series)
    output.check_volume(volume, args.input.resolve().name)
    device = checked_device(args.device)
    from ASCONDenoiseLib.models.inference import denoise
    from ASCONDenoiseLib.models.record import denoising_record

    network, card = load_network(model)
    _log_model(card)
    known = volume.description | {"name": args.input.resolve().name}
    sample = suitability.sample(volume.voxels)
    for sentence in suitability.warnings(sample, volume.geometry.spacing_mm, known, card):
        console.note(sentence)
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
    record = denoising_record(card, result, volume, args.input.resolve().name)
    output.write(like(volume, result.voxels), record)
    logger.info("wrote %s: %s", args.output, describe(record))
    console.done(f"{args.output}: {describe(record)}", output=str(args.output), **record)


def _add_simulate(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "simulate",
        _simulate,
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


def _simulate(args: argparse.Namespace, console: Console) -> None:
    from dataclasses import asdict

    from ASCONDenoiseLib.io.image_files import WRITABLE_SUFFIXES
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import VolumeFile, destination, made_by
    from ASCONDenoiseLib.io.volume import like

    output = destination(args.output)
    if not isinstance(output, VolumeFile):
        raise UsageError(
            f"{args.output.name} names no file that can be written: let it end in {', '.join(WRITABLE_SUFFIXES)}."
        )
    output.check(args.input, force=args.force)
    from ASCONDenoiseLib.physics.dose import simulate
    from ASCONDenoiseLib.physics.settings import DoseSettings

    options = ("dose", "geometry", "kernel", "photons", "electronic_noise", "bowtie_edge", "current_modulation", "seed")
    settings = DoseSettings(**{name: getattr(args, name) for name in options})
    device = checked_device(args.device)
    volume = read_volume(args.input, args.series)
    simulation = simulate(
        volume.voxels,
        volume.geometry.spacing_mm,
        settings,
        device=device,
        padding_hu=volume.padding_hu,
        progress=console.progress,
    )
    photons = [round(float(n)) for n in simulation.photons]
    record = made_by("simulate", volume, args.input.resolve().name) | {
        "settings": asdict(settings),
        "photons": photons,
        "kernel": asdict(simulation.kernel),
    }
    output.write(like(volume, simulation.voxels), record)
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


def _add_evaluate(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "evaluate",
        _evaluate,
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


def _evaluate(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.imaging import metrics
    from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
    from ASCONDenoiseLib.io.reading import read_volume

    reference = read_volume(args.reference, args.reference_series)
    scales = (metrics.PAPER, metrics.Scale(args.window, DISPLAY_WINDOWS_HU[args.window]))
    found = []
    for path in args.test:
        test = read_volume(path, args.test_series)
        if not _same_place(reference.geometry, test.geometry):
            console.note(f"{path} lies elsewhere in space than {args.reference}; voxels are compared by their order.")
        for scale in scales:
            try:
                compared = metrics.compare(
                    reference.voxels, test.voxels, scale, name=path.name, clip_test=not args.unclipped
                )
            except ValueError as error:
                raise UsageError(f"{path} cannot be compared with {args.reference}. {error}") from error
            found.append(compared)
            console.progress(len(found), len(scales) * len(args.test))
    table = metrics.table(sorted(found, key=lambda c: scales.index(c.scale)), per_slice=args.per_slice)
    console.answer(table, reference=str(args.reference), comparisons=[c.to_dict() for c in found])


def _add_cluster(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "cluster",
        _cluster,
        summary="show the anatomy that a network found: its features, clustered",
        example="ascon cluster scan/ anatomy/\n  ascon cluster scan.nrrd figure/ --compare model-a model-b",
    )
    add_input(parser)
    parser.add_argument(
        "output", metavar="OUT", type=to_path, help="folder for label map, tables, t-SNE plot and a page with them"
    )
    models = parser.add_mutually_exclusive_group()
    add_model(models)
    models.add_argument(
        "--compare", metavar=("A", "B"), nargs=2, help="two models, each a name or file: both on one page, side by side"
    )
    add = parser.add_argument
    add("--clusters", type=int, default=8, help="of K-means (default: 8)")
    add("--points", type=int, default=2000, help="voxels in the t-SNE plot (default: 2000)")
    add("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    add("--slice", metavar="N", type=to_positive, help="shown on the page, counted from 1 (default: the middle one)")
    add("--format", choices=("nrrd", "nii.gz", "mha"), default="nrrd", help="of the label map (default: nrrd)")
    add_device(parser)
    add_precision(parser)
    add("--batch", metavar="N", type=to_positive, help="slices at once (default: what fits)")


def _cluster(args: argparse.Namespace, console: Console) -> None:
    import numpy as np

    from ASCONDenoiseLib.imaging.clustering import ClusterSettings
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import check_results_folder
    from ASCONDenoiseLib.models.files import find_model, load_network

    settings = ClusterSettings(args.clusters, args.points, args.seed)
    check_results_folder(args.output, "cluster")
    chosen = [find_model(name) for name in args.compare or [args.model]]
    volume = read_volume(args.input, args.series)
    total = len(volume.voxels)
    if args.slice is not None and args.slice > total:
        raise UsageError(f"The scan has {total} slices: choose --slice from 1 to {total}.")
    device = checked_device(args.device)
    networks = [load_network(path) for path in chosen]
    for network, card in networks:
        if not hasattr(network, "features"):
            raise UsageError(f"{card.name} ({card.architecture}) has no features to look at: choose another model.")
    from ASCONDenoiseLib.models.feature_clusters import cluster_volume
    from ASCONDenoiseLib.reports.anatomy import REPORT, Found, cluster_rows, separation_table, write_anatomy

    found = []
    for number, ((network, card), path) in enumerate(zip(networks, chosen, strict=True)):
        _log_model(card)

        def progress(done: int, in_all: int, before: int = number) -> None:
            console.progress(before * in_all + done, len(chosen) * in_all)

        denoised_hu = np.empty_like(volume.voxels)
        anatomy = cluster_volume(
            volume.voxels,
            network,
            settings,
            spacing_mm=volume.geometry.spacing_mm,
            device=device,
            batch=args.batch,
            precision=args.precision,
            padding_hu=volume.padding_hu,
            progress=progress,
            denoised_hu=denoised_hu,
        )
        name = path.stem if path.stem not in [one.name for one in found] else f"{path.stem}-2"
        found.append(Found(name, card, anatomy, denoised_hu))
    shown = total // 2 if args.slice is None else args.slice - 1
    source = args.input.resolve().name
    results = write_anatomy(args.output, volume, source, found, shown=shown, suffix=f".{args.format}")
    parts = [columns(cluster_rows(one.anatomy.clusters)) for one in found]
    if len(found) > 1:
        parts = [f"{one.name}\n{part}" for one, part in zip(found, parts, strict=True)]
    parts.append(columns(separation_table(found).rows, numbers=True))
    page = args.output / REPORT
    logger.info("wrote %s", page)
    console.answer("\n\n".join([*parts, f"Page  {page}"]), output=str(args.output), report=str(page), **results)


def _add_demo(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "demo",
        _demo,
        summary="simulate a low dose, denoise, measure; pictures and a report",
        example="ascon demo\n  ascon demo --input scan/ --out my-demo",
    )
    add = parser.add_argument
    add("--input", type=to_path, help="your own scan, file or DICOM folder (default: samples and phantoms)")
    add("--series", metavar="UID", help="of a DICOM folder that holds several series")
    add("--out", type=to_path, default=Path("demo-output"), help="folder (default: demo-output)")
    add("--dose", type=to_number, default=0.25, help="fraction of the scan's dose (default: 0.25)")
    add_model(parser)
    add_device(parser)


def _demo(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.results import check_results_folder
    from ASCONDenoiseLib.models.files import find_model, load_network
    from ASCONDenoiseLib.reports import demo

    check_results_folder(args.out, demo.COMMAND)
    network_file = find_model(args.model)
    device = checked_device(args.device)
    demo.check_dose(args.dose)
    network, card = load_network(network_file)
    _log_model(card)
    if args.input is None:
        console.note("preparing two real slices and two phantoms ...")
    scans = demo.default_scans() if args.input is None else [demo.own_scan(args.input, args.series)]
    shown = demo.run(args.out, network, card, scans, dose=args.dose, device=device, progress=console.progress)
    logger.info("wrote %s", shown.report)
    text = (
        f"{shown.summary.title}\n{columns(shown.summary.rows, numbers=True)}\n{shown.summary.note}\n\n"
        f"Report    {shown.report}\nVolumes   {shown.folder}"
    )
    console.answer(text, report=str(shown.report), folder=str(shown.folder), **shown.results)


def _log_model(card: Any) -> None:
    logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)


def _same_place(a: Any, b: Any) -> bool:
    """Two geometries, alike to a thousandth of a mm: files round."""
    import numpy as np

    pairs = ((a.spacing_mm, b.spacing_mm), (a.origin_mm, b.origin_mm), (a.direction, b.direction))
    return all(np.allclose(x, y, atol=1e-3) for x, y in pairs)
