"""Methods of somebody else's: what they are given, what they may return, and what is said when they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from ASCONDenoiseLib.errors import Failure, InputError
from ASCONTrainingLib.evaluation.foreign import foreign, is_foreign

SPACING_MM = (0.7, 0.8, 2.5)


@pytest.fixture
def ldct() -> np.ndarray:
    return np.random.default_rng(0).normal(40, 200, (3, 12, 16)).astype(np.int16)


@pytest.fixture
def a_module(tmp_path, monkeypatch) -> Path:
    """A module beside the user, as `mine:run`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(
        "seen = []\n"
        "def run(hu, spacing_mm):\n"
        "    seen.append((hu.shape, spacing_mm))\n"
        "    hu += 0\n"
        "    return hu * 0.5 + 0.26\n"
        "def smaller(hu, spacing_mm):\n    return hu[:1]\n"
        "def undefined(hu, spacing_mm):\n    return hu * float('nan')\n"
        "number = 3\n"
    )
    return tmp_path / "mine.py"


COMMAND = """
import sys
import SimpleITK as sitk
image = sitk.ReadImage(sys.argv[1])
assert [round(s, 4) for s in image.GetSpacing()] == [0.7, 0.8, 2.5], image.GetSpacing()
sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32) * 0.5 + 0.26, sys.argv[2])
"""


def test_a_function_gets_hu_and_spacing_and_its_output_is_rounded(a_module, ldct):
    assert is_foreign("mine:run") and is_foreign("a.b:c") and not is_foreign("a/b:c") and not is_foreign("mine")
    kept = ldct.copy()
    found = foreign("mine:run").run(ldct, SPACING_MM)
    assert found.dtype == np.int16 and np.array_equal(found, np.rint(kept * 0.5 + 0.26))
    assert np.array_equal(ldct, kept)  # what a function does to its argument stays with it
    assert sys.modules["mine"].seen == [((3, 12, 16), SPACING_MM)]
    floats = foreign("mine:run").run(ldct.astype(np.float32), SPACING_MM)
    assert floats == pytest.approx(kept * 0.5 + 0.26, abs=1e-3)


@pytest.mark.parametrize("name", ["smaller", "undefined"])
def test_outputs_that_cannot_be_are_refused(a_module, ldct, name):
    with pytest.raises(Failure, match=r"mine:\w+ must return finite HU of shape \(3, 12, 16\)"):
        foreign(f"mine:{name}").run(ldct, SPACING_MM)


@pytest.mark.parametrize(
    ("text", "sentence"), [("nowhere:run", "No module"), ("mine:absent", "absent"), ("mine:number", "no function")]
)
def test_functions_that_are_not_there_are_said(a_module, text, sentence):
    with pytest.raises(InputError, match=sentence):
        foreign(text)


def test_a_command_reads_and_writes_files(tmp_path, ldct):
    script = tmp_path / "their method.py"
    script.write_text(COMMAND)
    text = f'{sys.executable} "{script}" {{in}} {{out}}'
    assert is_foreign(text) and not is_foreign(f"{sys.executable} {{in}}")
    found = foreign(text).run(ldct, SPACING_MM)
    assert found.dtype == np.int16 and np.array_equal(found, np.rint(ldct * 0.5 + 0.26))


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys; sys.exit('out of paper')", "exit code 1.*out of paper"),
        ("pass", "wrote no file to {out}.*it said nothing"),
        ("import sys, shutil; shutil.copy(__file__, sys.argv[2])", "cannot be read|not a|NIfTI"),
    ],
)
def test_a_command_that_fails_is_said_with_its_last_words(tmp_path, ldct, code, sentence):
    script = tmp_path / "bad.py"
    script.write_text(code)
    with pytest.raises((Failure, InputError), match=sentence):
        foreign(f"{sys.executable} {script} {{in}} {{out}}").run(ldct, SPACING_MM)
    with pytest.raises(InputError, match="no-such-program cannot be run"):
        foreign("no-such-program {in} {out}").run(ldct, SPACING_MM)
