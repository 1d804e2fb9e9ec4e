"""`ascon safety`: what a model must not do to an image, measured."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ASCONDenoiseLib.commands.arguments import add_command
from ASCONDenoiseLib.commands.console import Console
from ASCONTrainingLib.commands.model_arguments import add_model_arguments, load_models


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "safety",
        _run,
        summary="measure what a model must not do: shift HU, widen edges, lose lesions, invent structure",
        example="ascon safety --models ascon-default --data sets/test --every 8 --out safety",
    )
    add_model_arguments(parser)
    add = parser.add_argument
    add("--realisations", metavar="N", type=int, help="of the noise for each kind of lesion (default: 50; quick: 10)")
    add("--doses", metavar="D", type=float, nargs="+", help="of the lesions (default: 0.1 0.25 0.5; quick: 0.25)")
    add("--diameters", metavar="MM", type=float, nargs="+", help="of the lesions (default: 5 10 15 20; quick: 5 15)")
    add("--edges-dose", metavar="D", type=float, help="of the cylinder whose edges are measured (default: 0.25)")
    add("--quick", action="store_true", help="few lesions and realisations: minutes instead of hours")


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONTrainingLib.data.training_set import EvaluationSet
    from ASCONTrainingLib.evaluation import safety, safety_report, safety_settings
    from ASCONTrainingLib.evaluation.volumes import check_unseen, volume_pairs

    candidates = load_models(args)
    asked = {
        "realisations": args.realisations,
        "doses": args.doses and tuple(args.doses),
        "diameters_mm": args.diameters and tuple(args.diameters),
        "cylinder_dose": args.edges_dose,
    }
    settings = replace(
        safety_settings.QUICK if args.quick else safety_settings.EVERYTHING,
        **{name: value for name, value in asked.items() if value is not None},
    )
    slices = EvaluationSet(args.data, args.split, every=args.every)
    for warning in check_unseen(candidates, slices, args.allow_seen):
        console.note(warning)
    volumes = list(volume_pairs(slices))
    results = [
        safety.measure(name, candidate.run, volumes, settings, console.note) for name, candidate in candidates.items()
    ]
    safety_report.write(results, args.out)
    console.answer(safety_report.text(results), safety=[result.to_dict() for result in results])
