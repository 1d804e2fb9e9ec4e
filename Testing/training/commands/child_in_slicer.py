"""Runs Scripts/train.py as Slicer does, with its streams and its way to exit; prints the exits, then what was printed.

    python child_in_slicer.py SCRIPT FAULT [ARGUMENT ...]

FAULT: what the command line raises, "SystemExit" or "KeyboardInterrupt"; "TypeError" where it cannot be called; "".
"""

from __future__ import annotations

import runpy
import sys
import types
from pathlib import Path

script, fault, *arguments = sys.argv[1:]
root = Path(script).parents[2]
sys.path[:0] = [str(root / name) for name in ("ASCONDenoise", "ASCONTraining")]


class Out:
    """What PythonQt puts in place of the streams: it writes, and little more."""

    def __init__(self):
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


def raising(*args: object, **settings: object) -> None:
    raise {"SystemExit": SystemExit(5), "KeyboardInterrupt": KeyboardInterrupt()}[fault]


if fault:
    from ASCONDenoiseLib.commands import cli

    cli.main = 3 if fault == "TypeError" else raising

exits = []
slicer = types.ModuleType("slicer")
slicer.app, slicer.util = object(), types.SimpleNamespace(exit=exits.append)
sys.modules["slicer"] = slicer
real, sys.stdout, sys.stderr = sys.stdout, Out(), Out()
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
print(exits, file=real)
print(sys.stdout.text, sys.stderr.text, file=real)
