"""`ascon train` (or another command) for Slicer's Python, and for any other. It always ends its process.

    Slicer --no-splash --no-main-window --python-script Scripts/train.py -- --preset smoke --out runs/smoke
    PythonSlicer Scripts/train.py --preset released --data sets/mayo2016 --out runs/first
    torchrun --nproc-per-node 4 Scripts/train.py --preset released --data sets/mayo2016 --out runs/first

Arguments are those of `ascon train`, which --help lists, or a command of `ascon` with its own. `--print-to FILE` before
them sends all that would be printed to a file: Slicer has no console on Windows. `--install-packages`, without others,
installs what a training needs into Slicer's Python. Exit codes: 0 done, 1 failure, 2 bad input, 130 interrupted (all
is saved).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

INSTALL = "--install-packages"

FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code, whatever happens."""
    try:
        if arguments[:1] == ["--"]:
            arguments = arguments[1:]
        target = None
        if arguments[:1] == ["--print-to"]:
            target, arguments = arguments[1:2], arguments[2:]
        with _printing_to(target):
            return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:  # also SystemExit: inside Slicer nothing may leave the process behind
        traceback.print_exc()
        return FAILED


def _run(arguments: list[str]) -> int:
    for folder in _lib_folders(Path(__file__).resolve()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    if arguments == [INSTALL]:
        return _install_packages()
    missing = _missing_packages()
    if missing and not {"-h", "--help"} & set(arguments):
        return _failed(
            f"This Python lacks {', '.join(missing)}. Run this script with {INSTALL} and no other argument: it "
            "installs them in Slicer, and elsewhere says how to."
        )
    from ASCONDenoiseLib.commands import cli
    from ASCONTrainingLib.commands.registration import add_commands

    if not arguments or arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    return cli.main(arguments, plugins=[add_commands])


def _missing_packages() -> list[str]:
    """Requirements of which nothing can be imported."""
    from ASCONDenoiseLib.requirements import TORCH, TRAINING, WITH_SLICER, import_name

    needed = (TORCH, *WITH_SLICER, *TRAINING)
    return [requirement for requirement in needed if importlib.util.find_spec(import_name(requirement)) is None]


def _install_packages() -> int:
    """Installs what is missing by Slicer's own means, without questions; elsewhere says what to install."""
    try:
        import slicer.packaging
    except ImportError:
        missing = _missing_packages()
        if not missing:
            return _installed()
        command = " ".join([sys.executable, "-m", "pip", "install", *(f'"{requirement}"' for requirement in missing)])
        return _failed(f"This is not the Python of Slicer 5.12 or newer. Install what is missing with: {command}")
    from ASCONDenoiseLib.errors import Failure
    from ASCONDenoiseLib.panel.installation import ensurePackages, torchInstalled
    from ASCONDenoiseLib.requirements import TRAINING

    try:
        ensurePackages(TRAINING, ask=False)
    except Failure as error:
        aside = " PythonSlicer knows no extensions: install torch with Slicer --no-main-window --python-script instead."
        return _failed(f"{error}{'' if hasattr(slicer, 'app') or torchInstalled() else aside}")
    return _installed()


def _installed() -> int:
    print("All packages that a training needs are installed.", flush=True)
    return 0


def _failed(sentence: str) -> int:
    print(f"ascon: {sentence}", file=sys.stderr, flush=True)
    return FAILED


def _lib_folders(script: Path) -> list[Path]:
    """Where the two Lib packages lie: side by side in an installed extension, in their modules in a checkout."""
    module = script.parent.parent
    return [folder for folder in (module, module.parent / "ASCONDenoise") if any(folder.glob("ASCON*Lib"))]


@contextlib.contextmanager
def _printing_to(target: list[str] | None) -> Iterator[None]:
    if target is None:
        yield
        return
    with (
        open(target[0], "a", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        yield


def end(code: int) -> None:
    """Ends this process with `code`: Slicer itself, where this runs inside it."""
    slicer = sys.modules.get("slicer")
    if hasattr(slicer, "app"):
        slicer.util.exit(code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    end(main(sys.argv[1:]))
