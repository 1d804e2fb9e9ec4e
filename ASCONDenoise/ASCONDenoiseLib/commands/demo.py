"""`ascon demo`: simulate a low dose, denoise, measure, and write a report."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from ASCONDenoiseLib.commands.arguments import (
    Subparsers,
    add_command,
    add_device,
    add_model,
    checked_device,
    to_number,
    to_path,
)
from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.commands.volume_warnings import say_warnings

logger = logging.getLogger(__name__)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "demo",
        _run,
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


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONDenoiseLib.io.results import check_results_folder
    from ASCONDenoiseLib.models.files import find_model, load_network
    from ASCONDenoiseLib.reports import demo, demo_scans
    from ASCONDenoiseLib.reports.text_table import aligned

    check_results_folder(args.out, demo.COMMAND)
    network_file = find_model(args.model)
    device = checked_device(args.device)
    demo.check_dose(args.dose)
    network, card = load_network(network_file)
    logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)
    if args.input is None:
        console.note("preparing two real slices and three phantoms ...")
    scans = demo_scans.default_scans() if args.input is None else [demo_scans.own_scan(args.input, args.series)]
    if args.input is not None:
        say_warnings(console, scans[0].ndct, scans[0].title, card)
    shown = demo.run(args.out, network, card, scans, dose=args.dose, device=device, progress=console.progress)
    logger.info("wrote %s", shown.report)
    text = (
        f"{shown.summary.title}\n{aligned(shown.summary.rows, numbers=True)}\n{shown.summary.note}\n\n"
        f"Report    {shown.report}\nVolumes   {shown.folder}"
    )
    console.answer(text, report=str(shown.report), folder=str(shown.folder), **shown.results)
