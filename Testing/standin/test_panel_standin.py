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
QT_FILES = [ROOT / "ASCONDenoise/ASCONDenoise.py", *sorted((ROOT / "ASCONDenoise/ASCONDenoiseLib/panel").rglob("*.py"))]

skip_without_standin()

CHILDREN = Path(__file__).with_name("children")
MODULE_FILE = ROOT / "ASCONDenoise" / "ASCONDenoise.py"


def run_child(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of CHILDREN, which sees Testing and the panel's tests."""
    paths = [str(ROOT / "Testing"), str(ROOT / "Testing" / "panel")]
    command = [sys.executable, str(CHILDREN / name), str(MODULE_FILE), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_without_main_window_and_without_torch_in_slicers_process():
    done = run_child("without_main_window.py")
    assert done.returncode == 0, done.stderr
    denoised, compared, last = done.stdout.splitlines()[-3:]
    assert denoised.startswith("Done: ") and denoised.endswith(" s, strength 100\N{NO-BREAK SPACE}%")
    assert "without its main window" in compared
    assert last == "False []"


@pytest.mark.parametrize("how", ["quits", "killed"])
def test_no_process_is_left_when_slicer(how):
    done = run_child("ends_while_denoising.py", how)
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
    """The bounds of the benchmark, with a network of a few weights: 1 s warm, cold 3 s and torch, 0.2 s at a time."""
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
