"""The command `ascon`: arguments in; sentences, tables or JSON lines out. The work is done in the other files.

Exit codes: 0 done, 1 failure, 2 bad input, 130 interrupted. Bad input is every error of ours that is a ValueError
(InputError, ModelError, DoseError, UsageError); its text is shown as it is. With --json, standard output holds one JSON
object per line: {"event": "progress", "done", "total"} and at the end {"event": "result", ...} or {"event": "error",
"message", "exit_code"}.

Another package adds a command through the entry-point group "ascon.commands": a function that takes the subparsers and
calls `add_command`. It should import what is heavy inside the command, not before.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__

PLUGINS = "ascon.commands"
"""Entry-point group of commands from other packages."""

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

LOG_FORMAT = "%(asctime)s %(levelname)s ascon: %(message)s"

logger = logging.getLogger(__name__)


class UsageError(ValueError):
    """The command line asks for something that cannot be; the text says what."""


def main(argv: Sequence[str] | None = None, plugins: Sequence[Callable[[Any], None]] = ()) -> int:
    """Run one command line (default: that of this process) and return its exit code.

    plugins: functions that add commands, where they are known without an installed package: in Slicer, say.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    console = Console(as_json="--json" in argv, quiet="--quiet" in argv, debug="--debug" in argv)
    try:
        with _output_for_people():
            args = _parser(console, plugins).parse_args(argv)
            with _log(getattr(args, "log", None), console):
                _run(args, console)
    except SystemExit as stop:  # --help and --version
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return console.error("Interrupted; no output was left half-written.", INTERRUPTED)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return console.error(_sentence(error), _exit_code(error), error)
    return DONE


class Console:
    """What the user sees: answers on standard output; progress, warnings and errors on standard error."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False):
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self._bar = None

    def progress(self, done: int, total: int) -> None:
        """Slices done, of all: a bar on a terminal, a line of JSON, or nothing."""
        if self.as_json:
            self._emit("progress", done=done, total=total)
        elif not self.quiet and sys.stderr.isatty():
            from tqdm import tqdm

            if self._bar is None or self._bar.total != total:
                self.close()
                self._bar = tqdm(total=total, unit="slice", file=sys.stderr, leave=False)
            self._bar.update(done - self._bar.n)

    def note(self, text: str) -> None:
        """A remark on standard error, in passing."""
        if not self.quiet:
            self._aside(text)

    def answer(self, text: str, **fields: Any) -> None:
        """What was asked for: `text` for people, `fields` for programs."""
        self.close()
        if self.as_json:
            self._emit("result", **fields)
        else:
            print(text, flush=True)

    def done(self, text: str, **fields: Any) -> None:
        """The closing line of a command whose result is a file; not with --quiet."""
        if self.as_json or not self.quiet:
            self.answer(text, **fields)

    def error(self, message: str, exit_code: int, error: BaseException | None = None) -> int:
        """Shows what went wrong and returns the exit code."""
        self.close()
        if self.as_json:
            self._emit("error", message=message, exit_code=exit_code)
        else:
            print(f"ascon: {message}", file=sys.stderr, flush=True)
        if self.debug and error is not None:
            traceback.print_exception(error)
        return exit_code

    def close(self) -> None:
        """Takes the progress bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _aside(self, text: str) -> None:
        self.close()
        print(f"ascon: {text}", file=sys.stderr, flush=True)

    def _emit(self, event: str, **fields: Any) -> None:
        print(json.dumps({"event": event, **fields}, default=str), flush=True)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints go the way of all errors."""

    def error(self, message: str) -> None:
        raise UsageError(f"{message[0].upper()}{message[1:]}. See `{self.prog} --help`.")


def add_command(
    subparsers: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace, Console], None],
    *,
    summary: str,
    example: str,
) -> Parser:
    """A parser for `ascon NAME`, with the options that all commands share; its own arguments are added to it.

    run: called with the parsed arguments and the console. It raises where something is wrong: an error class of an
    ASCON package that is a ValueError means bad input (exit code 2), any other failure (1).
    """
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = parser.add_argument_group("options of all commands")
    common.add_argument("--json", action="store_true", help="print JSON lines: progress, then the result or an error")
    common.add_argument("--log", metavar="FILE", type=_path, help="append what happens, with times, to this file")
    common.add_argument("--quiet", action="store_true", help="no progress, remarks or closing line")
    common.add_argument("--debug", action="store_true", help="on an error, show where in the program it came up")
    parser.set_defaults(run=run, command=parser.prog.removeprefix("ascon "))
    return parser


# ------------------------------------------------------------------------------------------------------- the commands


def _add_denoise(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "denoise",
        _denoise,
        summary="take the noise out of a CT volume",
        example="ascon denoise scan/ denoised/          a DICOM folder, to a derived DICOM series\n"
        "  ascon denoise scan.nrrd out.nrrd --strength 0.7",
    )
    _add_input(parser)
    parser.add_argument(
        "output",
        metavar="OUT",
        type=_path,
        help=".nrrd, .nii, .nii.gz or .mha file (a .json beside it says how it was made); any other name is a new "
        "folder for a derived DICOM series",
    )
    _add_model(parser)
    parser.add_argument(
        "--strength", type=_strength, default=1.0, help="0 (nothing is changed) to 1 (all the noise found; default)"
    )
    _add_device(parser)
    parser.add_argument("--batch", metavar="N", type=_positive, help="slices at once (default: what fits)")
    _add_force(parser)


def _denoise(args: argparse.Namespace, console: Console) -> None:
    from . import models, output
    from .volume import like, read_volume

    output.check_output(args.output, args.input, force=args.force)
    model = models.find_model(args.model)
    volume = read_volume(args.input, args.series)
    to_file = output.is_file_name(args.output)
    if not to_file:
        output.require_dicom(volume, args.input.resolve().name, args.output)
    device = _checked_device(args.device)
    from .inference import denoise

    network, card = models.load_network(model)
    _log_model(card)
    result = denoise(
        volume.voxels,
        network,
        strength=args.strength,
        device=device,
        batch=args.batch,
        padding_hu=volume.padding_hu,
        progress=console.progress,
    )
    record = output.denoising_record(card, result, volume, args.input.resolve().name)
    write = output.write_file if to_file else output.write_series
    write(like(volume, result.voxels), args.output, record)
    logger.info("wrote %s: %s", args.output, output.describe(record))
    console.done(f"{args.output}: {output.describe(record)}", output=str(args.output), **record)


def _add_simulate(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "simulate",
        _simulate,
        summary="make a low-dose scan from a normal-dose one",
        example="ascon simulate scan/ quarter.nrrd --dose 0.25",
    )
    _add_input(parser)
    parser.add_argument("output", metavar="OUT", type=_path, help=".nrrd, .nii, .nii.gz or .mha file")
    add = parser.add_argument
    add("--dose", type=_number, required=True, help="fraction of the scan's dose, above 0 and at most 1")
    add("--geometry", choices=("fan", "parallel"), default="fan", help="of the projections (default: fan)")
    add(
        "--kernel",
        choices=("scan", "soft", "standard", "sharp"),
        default="scan",
        help="reconstruction of the noise; scan (default): as the scan's own noise shows it",
    )
    add("--photons", type=_number, help="per ray in air at normal dose (default: from the scan's own noise)")
    add("--electronic-noise", metavar="SD", type=_number, default=0.0, help="of the detector, in photons (default: 0)")
    add(
        "--bowtie-edge",
        metavar="SHARE",
        type=_number,
        default=0.2,
        help="of photons at the filter's edge; 1: no filter",
    )
    add("--current-modulation", metavar="POWER", type=_number, default=0.0, help="0: constant tube current (default)")
    add("--seed", type=int, default=0, help="of the random numbers (default: 0)")
    _add_device(parser)
    _add_force(parser)


def _simulate(args: argparse.Namespace, console: Console) -> None:
    from dataclasses import asdict

    from . import output
    from .volume import WRITABLE_SUFFIXES, like, read_volume

    if not output.is_file_name(args.output):
        raise UsageError(
            f"{args.output.name} names no file that can be written: let it end in {', '.join(WRITABLE_SUFFIXES)}."
        )
    output.check_output(args.output, args.input, force=args.force)
    from . import dose

    options = ("dose", "geometry", "kernel", "photons", "electronic_noise", "bowtie_edge", "current_modulation", "seed")
    settings = dose.DoseSettings(**{name: getattr(args, name) for name in options})
    device = _checked_device(args.device)
    volume = read_volume(args.input, args.series)
    simulation = dose.simulate(
        volume.voxels,
        volume.geometry.spacing_mm,
        settings,
        device=device,
        padding_hu=volume.padding_hu,
        progress=console.progress,
    )
    photons = [round(float(n)) for n in simulation.photons]
    record = output.made_by("simulate", volume, args.input.resolve().name) | {
        "settings": asdict(settings),
        "photons": photons,
        "kernel": asdict(simulation.kernel),
    }
    output.write_file(like(volume, simulation.voxels), args.output, record)
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
    add("--reference", metavar="A", type=_path, required=True, help="normal-dose volume, file or DICOM folder")
    add("--test", metavar="B", type=_path, required=True, action="append", help="volume to judge; may be repeated")
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
    from . import metrics
    from .hounsfield import DISPLAY_WINDOWS_HU
    from .volume import read_volume

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


def _add_models(subparsers: argparse._SubParsersAction) -> None:
    group = subparsers.add_parser(
        "models",
        help="list, verify, import or show model files",
        description="List, verify, import or show model files.",
        allow_abbrev=False,
    )
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_command(commands, "list", _list_models, summary="the models that are there", example="ascon models list")
    verify = add_command(
        commands,
        "verify",
        _verify_models,
        summary="check model files: format, card, SHA-256",
        example="ascon models verify                    all that are there",
    )
    verify.add_argument("model", metavar="MODEL", nargs="*", help="name or file (default: all)")
    importing = add_command(
        commands,
        "import",
        _import_model,
        summary="copy a model, checked, to the user's models",
        example="ascon models import my-model.safetensors",
    )
    importing.add_argument("file", metavar="FILE", type=_path, help="NAME.safetensors, with NAME.json beside it")
    show = add_command(
        commands,
        "show",
        _show_model,
        summary="what a model is, what it was trained on and what it is for",
        example="ascon models show ascon-default",
    )
    show.add_argument("model", metavar="MODEL", nargs="?", help="name or file (default: the default model)")


def _list_models(args: argparse.Namespace, console: Console) -> None:
    from . import models

    rows, found = [("name", "version", "trained for", "date", "sha256", "")], []
    for card, path in models.list_models():
        default = path.stem == models.DEFAULT_MODEL and path.parent == models.models_folder()
        rows.append((path.stem, card.version, card.dose, card.date, _short(card.sha256), "default" if default else ""))
        found.append({"name": path.stem, "path": str(path), "default": default, "card": _fields(card)})
    console.answer(_columns(rows) if found else "There are no models.", models=found)


def _verify_models(args: argparse.Namespace, console: Console) -> None:
    from . import models

    folders = (models.models_folder(), models.user_folder())
    there = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    paths = [models.find_model(name) for name in args.model] or there
    rows, bad = [], []
    for path in paths:
        try:
            card = models.verify(path)
            rows.append((path.stem, "correct", _short(card.sha256)))
        except models.ModelError as error:
            bad.append(str(error))
    if rows and not console.as_json:
        print(_columns(rows))
    if bad:
        raise models.ModelError(" ".join(bad))
    console.answer("All are correct." if rows else "There are no models.", verified=[str(path) for path in paths])


def _import_model(args: argparse.Namespace, console: Console) -> None:
    from . import models

    path = models.import_model(args.file)
    logger.info("imported %s", path)
    console.done(f"Imported as {path.stem}: {path}", name=path.stem, path=str(path))


def _show_model(args: argparse.Namespace, console: Console) -> None:
    from . import models

    path = models.find_model(args.model)
    card = models.verify(path)
    facts = {"file": str(path), **_fields(card)}
    rows = [(name.replace("_", " "), line) for name, value in facts.items() for line in _lines(value)]
    console.answer(_columns(rows), path=str(path), card=_fields(card))


def _add_info(subparsers: argparse._SubParsersAction) -> None:
    add_command(subparsers, "info", _info, summary="versions, devices, threads, models", example="ascon info --json")


def _info(args: argparse.Namespace, console: Console) -> None:
    import platform

    import torch

    from . import models

    packages = ("torch", "numpy", "scipy", "scikit-image", "SimpleITK", "pydicom", "safetensors", "pillow")
    versions = {name: _version(name) for name in packages}
    gpus = [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    devices = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    try:
        card = models.load_card(models.find_model())
        default = f"{card.name} {card.version} (sha256 {_short(card.sha256)})"
    except models.ModelError as error:
        default = f"none: {error}"
    facts = {
        "ascon": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions,
        "devices": devices,
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "default model": default,
        "models": [str(models.models_folder()), str(models.user_folder())],
    }
    console.answer(_columns([(name, line) for name, value in facts.items() for line in _lines(value)]), **facts)


def _add_demo(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "demo",
        _demo,
        summary="simulate a low dose, denoise, measure; pictures and a report",
        example="ascon demo\n  ascon demo --input scan/ --out my-demo",
    )
    add = parser.add_argument
    add("--input", type=_path, help="your own scan, file or DICOM folder (default: samples and phantoms)")
    add("--series", metavar="UID", help="of a DICOM folder that holds several series")
    add("--out", type=_path, default=Path("demo-output"), help="folder (default: demo-output)")
    add("--dose", type=_number, default=0.25, help="fraction of the scan's dose (default: 0.25)")
    _add_model(parser)
    _add_device(parser)


def _demo(args: argparse.Namespace, console: Console) -> None:
    from . import demo, models

    demo.check_folder(args.out)
    network_file = models.find_model(args.model)
    device = _checked_device(args.device)
    demo.check_dose(args.dose)
    network, card = models.load_network(network_file)
    _log_model(card)
    if args.input is None:
        console.note("preparing two real slices and two phantoms ...")
    scans = demo.default_scans() if args.input is None else [demo.own_scan(args.input, args.series)]
    shown = demo.run(args.out, network, card, scans, dose=args.dose, device=device, progress=console.progress)
    logger.info("wrote %s", shown.report)
    text = (
        f"{shown.summary.title}\n{_columns(shown.summary.rows, numbers=True)}\n{shown.summary.note}\n\n"
        f"Report    {shown.report}\nVolumes   {shown.folder}"
    )
    console.answer(text, report=str(shown.report), folder=str(shown.folder), **shown.results)


# ---------------------------------------------------------------------------------------------------------- arguments


def _parser(console: Console, plugins: Sequence[Callable[[Any], None]] = ()) -> Parser:
    parser = Parser(
        prog="ascon",
        description="Takes the noise out of low-dose CT. For research only, not for diagnosis.",
        epilog="`ascon COMMAND --help` tells more, with an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ascon {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_denoise, _add_simulate, _add_evaluate, _add_models, _add_info, _add_demo):
        add(subparsers)
    for add in plugins:
        add(subparsers)
    for entry_point in metadata.entry_points(group=PLUGINS):
        try:
            entry_point.load()(subparsers)
        except (Exception, SystemExit) as error:  # somebody else's defect must not take our commands away
            console.note(f"the command {entry_point.name} is not available ({type(error).__name__}: {error})")
    return parser


def _add_input(parser: Parser) -> None:
    parser.add_argument(
        "input", metavar="IN", type=_path, help="DICOM folder or file, .nrrd, .nhdr, .nii, .nii.gz, .mha or .mhd"
    )
    parser.add_argument("--series", metavar="UID", help="of a DICOM folder that holds several series")


def _add_model(parser: Parser) -> None:
    parser.add_argument("--model", metavar="NAME|FILE", help="see `ascon models list` (default: the default model)")


def _add_device(parser: Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:0 or mps")


def _add_force(parser: Parser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite an existing file (never a folder)")


def _path(text: str) -> Path:
    """A path that SimpleITK survives: on a name that is not Unicode it ends the whole process."""
    with _argument_error("this file name is not valid Unicode; rename the file"):
        text.encode()
        return Path(text)


def _strength(text: str) -> float:
    with _argument_error(f"strength is a number from 0 to 1; got {text}"):
        value = float(text)
        if not 0 <= value <= 1:
            raise ValueError
        return value


def _number(text: str) -> float:
    with _argument_error(f"a number is needed; got {text}"):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError
        return value


def _positive(text: str) -> int:
    with _argument_error(f"a whole number of 1 or more is needed; got {text}"):
        value = int(text)
        if value < 1:
            raise ValueError
        return value


@contextmanager
def _argument_error(sentence: str) -> Iterator[None]:
    try:
        yield
    except ValueError:
        raise argparse.ArgumentTypeError(sentence) from None


def _checked_device(name: str) -> str:
    """The device, tried out, as torch writes it."""
    from .inference import pick_device

    try:
        return str(pick_device(name))
    except ValueError as error:
        raise UsageError(str(error)) from None


# ------------------------------------------------------------------------------------------------- errors, log, output


def _run(args: argparse.Namespace, console: Console) -> None:
    """The command, with its beginning and its end in the log."""
    if not hasattr(args, "run"):
        raise UsageError("This command comes from another package and lacks its work; update that package.")
    logger.info("ascon %s %s", __version__, args.command)
    try:
        args.run(args, console)
    except KeyboardInterrupt:
        logger.error("interrupted")
        raise
    except Exception as error:
        logger.error("%s", _sentence(error))
        if _exit_code(error) == FAILED:  # frames only: messages of other libraries may quote what they read
            logger.error("came up in\n%s", "".join(traceback.format_tb(error.__traceback__)).rstrip())
        raise


def _exit_code(error: BaseException) -> int:
    """Errors of ours that are ValueErrors are bad input; whatever else comes up is a failure."""
    ours = type(error).__module__.startswith("ASCON")
    return BAD_INPUT if ours and isinstance(error, ValueError) else FAILED


def _sentence(error: BaseException) -> str:
    if type(error).__module__.startswith("ASCON"):
        return str(error)
    if isinstance(error, MemoryError):
        return "There is not enough memory for this volume. Close other programs, or use a machine with more."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    if type(error) is RuntimeError and error.__cause__ is not None:  # ours too: "X could not be written: ..."
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"Unexpected error, {type(error).__name__}: {first} (--debug shows where it came up)."


@contextmanager
def _log(path: Path | None, console: Console) -> Iterator[None]:
    """Our own messages, those of other libraries not: warnings to the user, with --log all of them to a file."""
    handlers: list[logging.Handler] = [_ConsoleHandler(console)]
    if path is not None:
        handlers.append(_log_file(path))
    root = logging.getLogger()
    level = root.level
    for handler in handlers:
        handler.addFilter(lambda record: record.name.startswith("ASCON"))
        root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


class _ConsoleHandler(logging.Handler):
    """Warnings as remarks. Errors are shown once, by `main`."""

    def __init__(self, console: Console):
        super().__init__(logging.WARNING)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR:
            self.console.note(record.getMessage())


def _log_file(path: Path) -> logging.Handler:
    """Refuses to append to anything that is not a log of ours: `--log scan.nrrd` must cost nothing."""
    try:
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                if b" ascon: " not in file.readline(200):
                    raise UsageError(f"{path} exists and is not a log of ascon: choose another file for --log.")
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"The log {path} cannot be written ({error.strerror}): choose another file.") from None
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    return handler


@contextmanager
def _output_for_people() -> Iterator[None]:
    """No remarks of Python or of libraries, and a name that the terminal cannot show is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def _log_model(card: Any) -> None:
    logger.info("model %s %s, sha256 %s", card.name, card.version, card.sha256)


def _fields(card: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


def _lines(value: Any) -> list[str]:
    """A value on one line; texts in a list and items of an object each on its own."""
    if isinstance(value, dict):
        return [f"{name}: {item}" for name, item in value.items()] or ["-"]
    if isinstance(value, list):
        return value or ["-"]
    return [", ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)]


def _columns(rows: Sequence[Sequence[str]], *, numbers: bool = False) -> str:
    """Rows under one another; with `numbers` all columns but the first are flushed right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    adjust = str.rjust if numbers else str.ljust
    lines = ("  ".join([row[0].ljust(widths[0]), *map(adjust, row[1:], widths[1:])]).rstrip() for row in rows)
    return "\n".join(lines)


def _short(sha256: str) -> str:
    from .output import SHORT_SHA256

    return sha256[:SHORT_SHA256]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _same_place(a: Any, b: Any) -> bool:
    """Two geometries, alike to a thousandth of a mm: files round."""
    import numpy as np

    pairs = ((a.spacing_mm, b.spacing_mm), (a.origin_mm, b.origin_mm), (a.direction, b.direction))
    return all(np.allclose(x, y, atol=1e-3) for x, y in pairs)
