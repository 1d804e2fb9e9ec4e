"""Runs the panel's tests in a real Slicer: `Slicer --testing --python-script Testing/panel/run.py [-- test_style ...]`.

Runs every test_*.py beside this file, or those named, and ends Slicer with 0 when all passed. An exception that Slicer
only prints, because it was raised in a slot or an observer, counts as a failure. Without Slicer, pytest runs the files.
"""

import sys
import traceback
import unittest
from pathlib import Path

import qt
import slicer

MODULES = ("ASCONDenoise", "ASCONTraining")


def load_modules(root: Path) -> None:
    """The modules of this checkout, where the command line or the settings did not bring them already."""
    factory = slicer.app.moduleManager().factoryManager()
    for name in MODULES:
        sys.path.insert(0, str(root / name))
        if not hasattr(slicer.modules, name.lower()):
            factory.registerModule(qt.QFileInfo(str(root / name / f"{name}.py")))
            factory.loadModules([name])
            if hasattr(sys.modules[name], "onStartupCompleted"):  # too late for Slicer's signal
                sys.modules[name].onStartupCompleted()


def main(names: list[str]) -> int:
    here = Path(__file__).resolve().parent
    load_modules(here.parents[1])
    sys.path.insert(0, str(here))
    swallowed = []
    before = sys.excepthook

    def note(kind, error, trace):
        swallowed.append(error)
        before(kind, error, trace)

    sys.excepthook = note
    try:
        loader = unittest.defaultTestLoader
        suite = loader.loadTestsFromNames(names or sorted(path.stem for path in here.glob("test_*.py")))
        result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    finally:
        sys.excepthook = before
    if swallowed:
        print(f"FAILED: {len(swallowed)} exceptions were raised in slots or observers: {swallowed!r}")
    return 0 if result.testsRun and result.wasSuccessful() and not swallowed else 1


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except BaseException:  # whatever it is, Slicer must end
        traceback.print_exc()
        code = 1
    slicer.util.exit(code)
