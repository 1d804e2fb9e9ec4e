"""Denoisers of somebody else's, so that they stand in the same tables: a Python function, or a command line.

docs/compare.md has an example of each.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ASCONDenoiseLib.errors import Failure, InputError
from ASCONDenoiseLib.imaging.noise import Spacing
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.results import VolumeFile
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONTrainingLib.evaluation.volumes import Candidate

FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
PLACES = "{in}", "{out}"
"""Where a command line takes the names of its files."""


def is_foreign(text: str) -> bool:
    """Whether a text is module:function or a command line with {in} and {out}."""
    return FUNCTION.fullmatch(text) is not None or all(place in text for place in PLACES)


def foreign(text: str) -> Candidate:
    """Return the denoiser of module:function or of a command line. Raises InputError where there is none."""
    if FUNCTION.fullmatch(text):
        function = _function(text)
        return Candidate(lambda ldct, spacing_mm: _checked(function(ldct.copy(), spacing_mm), ldct, text), note=text)
    words = shlex.split(text)
    return Candidate(lambda ldct, spacing_mm: _by_command(words, ldct, spacing_mm), note=text)


def _function(text: str) -> Callable[[np.ndarray, Spacing], Any]:
    name, _, attribute = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` has it; a command's own path lacks it
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"--models {text}: {error}. Give module:function of a module that Python finds, in {here} or installed."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise InputError(f"--models {text}: {attribute} is no function.")
    function: Callable[[np.ndarray, Spacing], Any] = found
    return function


def _by_command(words: list[str], ldct: np.ndarray, spacing_mm: Spacing) -> np.ndarray:
    geometry = Geometry(spacing_mm)
    with tempfile.TemporaryDirectory(prefix="ascon-compare-") as folder:
        files = dict(zip(PLACES, (Path(folder) / "ldct.nii.gz", Path(folder) / "denoised.nii.gz"), strict=True))
        VolumeFile(files["{in}"]).write(Volume(ldct, geometry), {})
        command = [word.replace("{in}", str(files["{in}"])).replace("{out}", str(files["{out}"])) for word in words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise InputError(f"--models: {words[0]} cannot be run ({error.strerror}): name a program.") from error
        if done.returncode or not files["{out}"].exists():
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            reason = f"exit code {done.returncode}" if done.returncode else "it wrote no file to {out}"
            raise Failure(f"The command {shlex.join(words)} failed ({reason}): {said}")
        result = read_volume(files["{out}"])
    if not np.allclose(result.geometry.direction, geometry.direction, atol=1e-3):
        raise Failure(f"The command {shlex.join(words)} turned the volume round: its voxels lie in another order.")
    return _checked(result.voxels, ldct, words[0])


def _checked(output: Any, ldct: np.ndarray, name: str) -> np.ndarray:
    """The output in the LDCT's dtype. Raises Failure unless it is finite HU of the same shape."""
    hu = np.asarray(output)
    if hu.shape != ldct.shape or hu.dtype.kind not in "iuf" or not np.isfinite(hu).all():
        raise Failure(
            f"{name} must return finite HU of shape {ldct.shape} (slices, rows, columns); "
            f"it returned {hu.dtype} of shape {hu.shape}."
        )
    if ldct.dtype.kind == "f" or hu.dtype == ldct.dtype:
        return hu.astype(ldct.dtype)
    limits = np.iinfo(ldct.dtype)
    return np.rint(hu).clip(limits.min, limits.max).astype(ldct.dtype)
