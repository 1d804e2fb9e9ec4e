"""How `ascon` gets the commands of this package."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

from ASCONDenoiseLib.commands import cli
from ASCONTrainingLib.commands.registration import add_commands

ROOT = Path(__file__).resolve().parents[3]
PATHS = [str(ROOT / name) for name in ("ASCONDenoise", "ASCONTraining", "Testing")]


def test_commands_are_found_by_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, function = project["entry-points"]["ascon.commands"]["training"].split(":")
    assert getattr(importlib.import_module(module), function) is add_commands


def test_commands_are_added_once(capsys):
    """By name and by an entry point: no conflict, and no remark."""
    assert cli.main(["--help"], plugins=[add_commands, add_commands]) == 0
    out, err = capsys.readouterr()
    assert out.count("train a network") == 1 and err == ""


def test_listing_the_commands_loads_no_torch():
    code = (
        f"import sys; sys.path[:0] = {PATHS!r}\n"
        "from ASCONDenoiseLib.commands import cli\nfrom ASCONTrainingLib.commands.registration import add_commands\n"
        "cli.main(['train', '--help'], plugins=[add_commands])\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
