"""The panel, as far as only the stand-in can show it: what its process imports, its words, and pictures of it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from system_packages import skip_without_standin

ROOT = Path(__file__).resolve().parents[2]
QT_FILES = [ROOT / "ASCONDenoise/ASCONDenoise.py", *sorted((ROOT / "ASCONDenoise/ASCONDenoiseLib/panel").glob("*.py"))]

skip_without_standin()

WITHOUT_MAIN_WINDOW = """
import sys
sys.path[:0] = [{testing!r}, {testing!r} + "/panel"]
import standin

standin.install()
import slicer

slicer.app._o._layout = None
slicer.util.mainWindow = lambda: None
assert slicer.app.layoutManager() is None
standin.load_module({module!r})
slicer.modules.ascondenoise.widgetRepresentation()
import test_panel

test_panel.setUpModule()
panel = slicer.modules.ASCONDenoiseWidget
volume = test_panel.makeVolume("CT", test_panel.someVoxels(3))
panel._parameterNode.inputVolume = volume
panel.ui.denoiseButton.click()
panel.logic.wait()
print(panel.ui.statusLabel.text)
panel.ui.compareButton.click()
print(panel.ui.statusLabel.text)
panel.cleanup()
test_panel.tearDownModule()
print("torch" in sys.modules, standin.UNCAUGHT)
"""


def test_without_main_window_and_without_torch_in_slicers_process():
    code = WITHOUT_MAIN_WINDOW.format(testing=str(ROOT / "Testing"), module=str(QT_FILES[0]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    denoised, compared, last = done.stdout.splitlines()[-3:]
    assert denoised.startswith("Done: ") and denoised.endswith(" s, strength 75\N{NO-BREAK SPACE}%")
    assert "without its main window" in compared
    assert last == "False []"


ENDS = """
import os, sys, time
sys.path[:0] = [{testing!r}, {testing!r} + "/panel"]
import standin

standin.install()
import slicer

standin.load_module({module!r})
layouts = slicer.app.layoutManager().layoutLogic().GetLayoutNode()
assert all(map(layouts.IsLayoutDescription, range(7460, 7464))), "a scene saved with them would show nothing"
slicer.modules.ascondenoise.widgetRepresentation()
import test_panel

test_panel.setUpModule()
panel = slicer.modules.ASCONDenoiseWidget
panel._parameterNode.inputVolume = test_panel.makeVolume("CT", test_panel.someVoxels(200))
panel._parameterNode.anatomy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
panel.ui.denoiseButton.click()
while "slice" not in panel.ui.progressBar.format:
    slicer.app.processEvents()
print(panel.logic.tasks.worker.pid, *(path for path in os.scandir(slicer.app.temporaryPath) if "ASCON" in path.name))
sys.stdout.flush()
if {how!r} == "killed":
    os._exit(1)
slicer.app.aboutToQuit.emit()
assert not standin.UNCAUGHT, standin.UNCAUGHT
print(*(path.name for path in os.scandir(slicer.app.temporaryPath) if "ASCON" in path.name), "left")
"""


@pytest.mark.parametrize("how", ["quits", "killed"])
def test_no_process_is_left_when_slicer(how):
    code = ENDS.format(testing=str(ROOT / "Testing"), module=str(QT_FILES[0]), how=how)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    pid, folder = int(lines[0].split()[0]), lines[0].split(maxsplit=1)[1]
    assert "ASCON" in folder
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert how == "killed" or lines[-1] == "left", done.stderr  # no folder before the word


SPEAKS = {"_", "translate"}
"""Functions that translate."""

NOT_FOR_USERS = {"info", "error", "warning", "getLogger", "search", "RuntimeError", "extend"}
"""Functions whose texts are for logs, or were translated before."""


def untranslated(path: Path) -> list[str]:
    """Texts of a file with a blank between letters that no translating function gets."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in SPEAKS | NOT_FOR_USERS:
                skipped |= {part for part in ast.walk(node) if isinstance(part, ast.Constant)}
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # docstrings
            skipped.add(node.value)
        if isinstance(node, ast.JoinedStr):
            skipped |= {
                part for part in node.values if isinstance(part, ast.Constant) and " " not in part.value.strip()
            }
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [f"{node.lineno}: {node.value}" for node in texts if node not in skipped and " " in node.value.strip()]


@pytest.mark.parametrize("path", QT_FILES, ids=lambda path: path.name)
def test_every_text_can_be_translated(path):
    allowed = ("The developers of ASCON for 3D Slicer", "ASCON Denoise", "User declined package installation")
    assert not [text for text in untranslated(path) if not text.endswith(allowed)]


def test_untranslated_texts_are_seen(tmp_path):
    """The reader of texts itself."""
    file = tmp_path / "sample.py"
    file.write_text('"""A docstring here."""\nlabel.text = "Not translated"\nlabel.toolTip = _("Is translated")\n')
    assert untranslated(file) == ["2: Not translated"]


def test_the_fields_of_forms_grow_in_every_style():
    """Qt leaves it to the style where the file does not say it, and macOS's keeps selectors and sliders small."""
    ui = ElementTree.parse(ROOT / "ASCONDenoise/Resources/UI/ASCONDenoise.ui")
    forms = [layout for layout in ui.iter("layout") if layout.get("class") == "QFormLayout"]
    said = [form.findtext("property[@name='fieldGrowthPolicy']/enum") for form in forms]
    assert said and set(said) == {"QFormLayout::AllNonFixedFieldsGrow"}


@pytest.mark.slow
def test_all_but_the_network_is_quick_for_300_slices_and_never_holds_the_main_thread():
    """The benchmark's bounds, where the worker copies: 1 s warm, 3 s and torch's import cold, 0.2 s at a time."""
    script = ROOT / "Testing" / "benchmarks" / "bench_panel.py"
    command = [sys.executable, str(script), "--without-network", "--slices", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "| 300 | warm |" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_pictures(tmp_path):
    """Draws the pictures of Resources/Screenshots into ASCON_SCREENSHOTS, or to see that they can be drawn."""
    folder = Path(os.environ.get("ASCON_SCREENSHOTS") or tmp_path)
    script = ROOT / "Testing" / "draw_panel.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=900)
    assert len(list(folder.glob("panel-*.png"))) >= 4
