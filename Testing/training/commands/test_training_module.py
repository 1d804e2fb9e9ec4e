"""ASCONTraining.py: the logic, and the module's own test."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
import unittest
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "ASCONTraining" / "Scripts" / "train.py"


@pytest.fixture
def a_module(monkeypatch):
    """ASCONTraining.py on stand-ins for Slicer's base classes, with a child process that is waited for."""
    started = []

    class Base:
        def __init__(self, parent=None):
            self.parent = parent

    def launch(args, **options):
        known = {"useStartupEnvironment", "updateEnvironment", "cwd", "blocking", "logCallback", "completedCallback"}
        assert options.keys() <= known
        started.append({"args": args} | options)
        ended = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in ended.stdout.splitlines():
            options["logCallback"](line)
        options["completedCallback"](ended.returncode)
        return ended

    test = type("ScriptedLoadableModuleTest", (unittest.TestCase,), {})
    names = {
        "qt": {},
        "slicer": {"util": types.SimpleNamespace(launchConsoleProcess=launch), "app": None},
        "slicer.i18n": {"tr": str, "translate": lambda context, text: text},
        "slicer.ScriptedLoadableModule": {
            "ScriptedLoadableModule": Base,
            "ScriptedLoadableModuleLogic": Base,
            "ScriptedLoadableModuleTest": test,
            "ScriptedLoadableModuleWidget": Base,
        },
    }
    for name, members in names.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "ASCONTraining", raising=False)
    yield importlib.import_module("ASCONTraining"), started
    sys.modules.pop("ASCONTraining", None)


def test_logic_trains_in_a_child_process(a_module, tmp_path):
    module, started = a_module
    lines, codes = [], []
    logic = module.ASCONTrainingLogic()
    logic.start(["--preset", "none", "--out", tmp_path / "run"], lines.append, codes.append)
    assert codes == [2] and "invalid choice" in lines[0]
    assert started[0]["args"][:2] == [sys.executable, str(SCRIPT)]
    assert started[0]["blocking"] is False  # Slicer's main thread goes on
    assert started[0]["useStartupEnvironment"] is False  # PythonSlicer needs the environment of Slicer's launcher
    assert "released" in logic.presets()


def test_the_modules_own_test_passes(a_module):
    module, _ = a_module
    test = module.ASCONTrainingTest()
    test.runTest()
