"""`ascon cluster`: show the anatomy in a network's features."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_input,
    add_model,
    add_precision,
    checked_device,
    to_path,
    to_positive,
)
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.commands.volume_warnings import say_warnings
from ASCONDenoiseLib.errors import InputError

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "cluster",
        _run,
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


def _run(args: argparse.Namespace, console: Console) -> None:
    import numpy as np

    from ASCONDenoiseLib.imaging.clustering import ClusterSettings
    from ASCONDenoiseLib.io.reading import read_volume
    from ASCONDenoiseLib.io.results import VolumeFile, check_results_folder
    from ASCONDenoiseLib.io.volume import like
    from ASCONDenoiseLib.models.files import find_model, load_network

    settings = ClusterSettings(args.clusters, args.points, args.seed)
    folder = check_results_folder(args.output, "cluster")
    chosen = [find_model(name) for name in args.compare or [args.model]]
    volume = read_volume(args.input, args.series)
    total = len(volume.voxels)
    if args.slice is not None and args.slice > total:
        raise InputError(f"The scan has {total} slices: choose --slice from 1 to {total}.")
    name = args.input.resolve().name
    labels = VolumeFile(folder.with_name(f"labels.{args.format}"))  # beside the folder, which is made at the end
    labels.check_volume(like(volume, np.zeros_like(volume.voxels, np.uint8)), name)
    device = checked_device(args.device)
    networks = [load_network(path) for path in chosen]
    for network, card in networks:
        if not hasattr(network, "features"):
            raise InputError(f"{card.name} ({card.architecture}) has no features to look at: choose another model.")
    import sklearn  # noqa: F401 - better missed now than after the network's work

    from ASCONDenoiseLib.messages import cluster_rows
    from ASCONDenoiseLib.models.feature_clusters import cluster_volume
    from ASCONDenoiseLib.reports.anatomy import REPORT, ModelAnatomy, separation_table, write_anatomy
    from ASCONDenoiseLib.reports.text_table import aligned

    warnings = say_warnings(console, volume, name, *(card for _, card in networks))
    models: list[ModelAnatomy] = []
    for number, ((network, card), path) in enumerate(zip(networks, chosen, strict=True)):
        logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)

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
        own_name = path.stem if path.stem not in [one.name for one in models] else f"{path.stem}-2"
        models.append(ModelAnatomy(own_name, card, anatomy, denoised_hu))
    shown = total // 2 if args.slice is None else args.slice - 1
    results = write_anatomy(args.output, volume, name, models, shown=shown, suffix=f".{args.format}", warnings=warnings)
    parts = [aligned(cluster_rows([asdict(cluster) for cluster in one.anatomy.clusters])) for one in models]
    if len(models) > 1:
        parts = [f"{one.name}\n{part}" for one, part in zip(models, parts, strict=True)]
    parts.append(aligned(separation_table(models).rows, numbers=True))
    page = args.output / REPORT
    logger.info("wrote %s", page)
    console.answer("\n\n".join([*parts, f"Page  {page}"]), output=str(args.output), report=str(page), **results)
