"""Testing/panel/run.py, the script that runs the panel's tests inside Slicer, ends it with their result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from standin.started import CHILDREN

TEST = """
import unittest
import qt
class OneTest(unittest.TestCase):
    def test_it(self):
        button = qt.QPushButton()
        button.clicked.connect(lambda: {in_slot})
        button.click()
        self.assertEqual(1, {number})
"""


@pytest.mark.parametrize(
    ("in_slot", "number", "code"), [("1", "1", 0), ("1", "2", 1), ("1 / 0", "1", 1), ("1", "(", 1)]
)
def test_the_script_that_runs_the_tests_in_slicer_ends_it_with_their_result(
    tmp_path: Path, in_slot: str, number: str, code: int
) -> None:
    here = Path(__file__).resolve().parents[1]
    folder = tmp_path / "Testing" / "panel"
    folder.mkdir(parents=True)
    script = folder / "run.py"
    script.write_text((here / "panel" / "run.py").read_text())
    (folder / "test_one.py").write_text(TEST.format(in_slot=in_slot, number=number))
    for name in ("ASCONDenoise", "ASCONTraining"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text((CHILDREN / "Small.py").read_text().replace("Small", name))
    command = [sys.executable, str(CHILDREN / "run_script.py"), str(script)]
    environment = os.environ | {"PYTHONPATH": str(here)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
