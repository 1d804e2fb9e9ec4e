"""A small, strict stand-in for the Qt side of 3D Slicer, so that a panel's tests run without the application.

README.md says what it offers, what it refuses, and how to use it. Importing this package needs neither Qt nor Slicer;
`install` raises ImportError without them.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")

from .traps import UNCAUGHT, PythonQtTrap  # noqa: E402

__all__ = ["UNCAUGHT", "PythonQtTrap", "install", "load_module"]


def install() -> None:
    """Put `qt`, `ctk` and the Qt side of `slicer` in place and start the application. Does nothing a second time."""
    import slicer

    if hasattr(slicer, "app"):
        return
    from . import app, differences, inventory, node_selector, parameter_node, pythonqt, scripted, ui_files  # noqa: F401

    del slicer.util.LazyImport  # 5.13 only

    for name in ("qt", "ctk"):
        sys.modules[name] = pythonqt.module(name, f"the stand-in's module {name}")
    for name, facts in inventory.API.items():
        if facts["module"] == "slicer":
            setattr(slicer, name, pythonqt.class_for(name))
    modules = {
        "ScriptedLoadableModule": [f"ScriptedLoadableModule{part}" for part in ("", "Widget", "Logic", "Test")],
        "i18n": ["tr", "translate", "getContext"],
        "packaging": ["pip_check", "isPipInstallInProgress", "pip_ensure", "pip_install"],
    }
    for name, names in modules.items():
        made = scripted.as_module(f"slicer.{name}", names, f"the stand-in's slicer.{name}")
        sys.modules[f"slicer.{name}"] = made
        setattr(slicer, name, made)
    sys.modules["SampleData"] = scripted.as_module("SampleData", ["SampleDataLogic"], "the stand-in's SampleData")
    sys.modules["slicer.parameterNodeWrapper"] = slicer.parameterNodeWrapper = parameter_node

    def uncaught(kind, error, trace):  # exceptions in slots and in VTK's observers end here
        UNCAUGHT.append(error)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = uncaught
    application = app.qSlicerApplication()
    slicer.app = pythonqt.wrap(application)
    application.start()
    os.environ["PATH"] = app.python_slicer() + os.pathsep + os.environ.get("PATH", "")


def load_module(path: Path | str) -> None:
    """Load a scripted module's file: `slicer.modules.<name>` is there afterwards, its panel is made at first use."""
    import qt
    import slicer

    factory = slicer.app.moduleManager().factoryManager()
    factory.registerModule(qt.QFileInfo(str(path)))
    factory.loadModules([Path(path).stem])
    slicer.app.startupCompleted.emit()
