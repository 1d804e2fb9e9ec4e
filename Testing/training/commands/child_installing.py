"""Runs Scripts/train.py --install-packages as Slicer does, where pip and the extension PyTorch go a given way.

    python child_installing.py SCRIPT WAY

Prints the codes that Slicer was ended with, then, as JSON, what was asked of pip and the extension, then what was said.
"""

from __future__ import annotations

import io
import json
import runpy
import subprocess
import sys
import types

script, way = sys.argv[1:]
calls: list[list[object]] = []
missing = set() if way == "complete" else {"torch", "safetensors", "nibabel"}
exits: list[int] = []


def pip_check(requirement: str) -> bool:
    return not any(requirement.startswith(name) for name in missing)


def pip_ensure(packages: list[str], **options: object) -> None:
    calls.append(["pip_ensure", packages, options])
    if way == "offline":
        print("NewConnectionError: Temporary failure in name resolution")
        raise subprocess.CalledProcessError(1, "pip install")
    if way != "testing":
        missing.intersection_update({"torch"})


class PyTorchUtilsLogic:
    def installTorch(self, **options: object) -> object:  # noqa: N802
        calls.append(["installTorch", options])
        if way == "torch fails":
            raise OSError(28, "No space left on device")
        missing.clear()
        return object()


def module(name: str, **members: object) -> types.ModuleType:
    made = sys.modules[name] = types.ModuleType(name)
    vars(made).update(members)
    return made


packaging = module(
    "slicer.packaging", pip_check=pip_check, pip_ensure=pip_ensure, isPipInstallInProgress=lambda: way == "busy"
)
i18n = module("slicer.i18n", tr=lambda text: text)
slicer = module("slicer", __path__=[], packaging=packaging, i18n=i18n, util=types.SimpleNamespace(exit=exits.append))
if way == "python slicer":  # no application, and the file of the extension finds no qt
    sys.modules["PyTorchUtils"] = None
else:
    slicer.app = types.SimpleNamespace(testingEnabled=lambda: way == "testing")
    if way == "without the extension":
        sys.modules["PyTorchUtils"] = None
    else:
        module("PyTorchUtils", PyTorchUtilsLogic=PyTorchUtilsLogic)
real, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
sys.argv = [script, "--install-packages"]
code = 0
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    code = end.code
print(exits, json.dumps(calls), sys.stdout.getvalue(), sys.stderr.getvalue(), sep="\n", file=real)
sys.exit(code)
