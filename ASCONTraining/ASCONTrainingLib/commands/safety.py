"""`ascon safety`: what a model must not do to an image, measured."""

from __future__ import annotations

import argparse

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
    add("--realisations", metavar="N", type=int, default=50, help="of the noise for each kind of lesion (default: 50)")
    add("--doses", metavar="D", type=float, nargs="+", default=[0.10, 0.25, 0.50], help="of the lesions")
    add("--diameters", metavar="MM", type=float, nargs="+", default=[5.0, 10.0, 15.0, 20.0], help="of the lesions")
    add("--edges-dose", metavar="D", type=float, default=0.25, help="of the cylinder whose edges are measured (0.25)")
    add("--quick", action="store_true", help="few lesions and realisations: minutes instead of hours")


def _run(args: argparse.Namespace, console: Console) -> None:
    from ASCONTrainingLib.data.training_set import EvaluationSet
    from ASCONTrainingLib.evaluation import safety, safety_report, safety_settings
    from ASCONTrainingLib.evaluation.volumes import check_unseen, volume_pairs

    candidates = load_models(args)
    settings = safety_settings.SafetySettings(
        realisations=args.realisations,
        doses=tuple(args.doses),
        diameters_mm=tuple(args.diameters),
        cylinder_dose=args.edges_dose,
    )
    settings = safety_settings.quick(settings) if args.quick else settings
    slices = EvaluationSet(args.data, args.split, every=args.every)
    for warning in check_unseen(candidates, slices, args.allow_seen):
        console.note(warning)
    volumes = list(volume_pairs(slices))
    results = [
        safety.measure(name, candidate.run, volumes, settings, console.note) for name, candidate in candidates.items()
    ]
    safety_report.write(results, args.out)
    console.answer(safety_report.text(results), safety=[result.to_dict() for result in results])
