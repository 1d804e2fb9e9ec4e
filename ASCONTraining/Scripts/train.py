"""`ascon train` (or another command) for Slicer's Python, and for any other. It always ends its process.

    Slicer --no-splash --no-main-window --python-script Scripts/train.py -- --preset smoke --out runs/smoke
    PythonSlicer Scripts/train.py --preset released --data sets/mayo2016 --out runs/first
    torchrun --nproc-per-node 4 Scripts/train.py --preset released --data sets/mayo2016 --out runs/first

Arguments are those of `ascon train`, which --help lists, or a command of `ascon` with its own. `--print-to FILE` before
them sends all that would be printed to a file: Slicer has no console on Windows. Exit codes: 0 done, 1 failure, 2 bad
input, 130 interrupted (all is saved).
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "skimage", "safetensors", "pydicom", "SimpleITK", "PIL", "tqdm")

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
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing and not {"-h", "--help"} & set(arguments):
        print(
            f"ascon: This Python lacks {', '.join(missing)}. In Slicer, the extension PyTorch installs torch and ASCON "
            "Denoise the rest; elsewhere, install the package of ASCON with pip.",
            file=sys.stderr,
            flush=True,
        )
        return FAILED
    from ASCONDenoiseLib.commands import cli
    from ASCONTrainingLib.commands.registration import add_commands

    if not arguments or arguments[0].startswith("-"):
        arguments = ["train", *arguments]
    return cli.main(arguments, plugins=[add_commands])


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
