"""A model whose output is known exactly, and ways to run `ascon`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from dicom_fixtures import oblique_direction
from torch import nn

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.volume import Geometry

LIBS = [str(Path(__file__).resolve().parents[1] / module) for module in ("ASCONDenoise", "ASCONTraining")]
CHILD = Path(__file__).parent / "commands" / "child_ascon.py"
GEOMETRY = Geometry((0.7, 0.8, 2.5), (-100.0, -90.5, 30.25), oblique_direction())


class Shift(nn.Module):
    """Adds a stored number of HU to the image: the output of `denoise` is known exactly."""

    def __init__(self):
        super().__init__()
        self.hu = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.hu / 3000


def shifted(voxels: np.ndarray, hu: int) -> np.ndarray:
    """What the model "shift-30" makes of it, by the output rule."""
    clipped = voxels.clip(-1000, 2000)
    difference = np.where((voxels <= -1024) | (voxels >= 2000), 0, hu)
    assert (clipped == voxels)[difference != 0].all() or voxels.min() < -1000
    return voxels + difference.astype(np.int16)


def run_json(capsys, *arguments) -> tuple[int, list[dict]]:
    code = cli.main([*map(str, arguments), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    return code, [json.loads(line) for line in out.splitlines()]


def child_environment() -> dict[str, str]:
    """Of a child process that finds both packages."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(LIBS)}


def start(*arguments, cwd: Path, **options) -> subprocess.Popen:
    """`ascon ...` in a child that heeds SIGINT even where its parents ignore it."""
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, cwd=cwd, text=True, env=child_environment(), **streams)
