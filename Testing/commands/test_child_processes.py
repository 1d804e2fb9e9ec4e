"""`ascon` as a process of its own: what it loads, how quick it is, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from command_fixtures import child_environment, start
from folder_contents import files_in

import ASCONDenoiseLib
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume


def test_help_list_and_evaluate_know_no_torch(a_pair):
    a, b = a_pair
    command = [sys.executable, Path(__file__).parent / "child_light_commands.py", a, b]
    environment = child_environment()
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert "usage: ascon denoise" in loaded and "PSNR" in loaded
    names = loaded.splitlines()[-1].split()
    assert "ASCONDenoiseLib.imaging.metrics" in names and "torch" not in names


def test_the_package_is_the_command(tmp_path):
    """`python -m ASCONDenoiseLib`, for Slicer's Python."""
    command = [sys.executable, "-m", "ASCONDenoiseLib"]
    environment = child_environment()
    for arguments, code in (["--version"], 0), (["denoise", "nowhere"], 2):
        child = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert child.returncode == code
        assert (f"ascon {ASCONDenoiseLib.__version__}" if code == 0 else "OUT. See `ascon denoise --help`") in (
            child.stdout + child.stderr
        )


def test_help_is_quick(tmp_path):
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        child = start("--help", cwd=tmp_path)
        assert "denoise" in child.communicate()[0] and child.returncode == 0
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 0.5


def test_sigint_stops_the_work_and_leaves_nothing(an_identity_esau_net, tmp_path):
    voxels = np.zeros((3000, 64, 64), np.int16)
    voxels[:, :32] = -1000  # what is no CT is remarked upon
    write_image(Volume(voxels, Geometry()), tmp_path / "long.nrrd")
    (tmp_path / "out.nrrd").write_text("precious")
    before = files_in(tmp_path)
    child = start(
        "denoise", "long.nrrd", "out.nrrd", "--force", "--json", "--model", an_identity_esau_net, cwd=tmp_path
    )
    try:
        first = json.loads(child.stdout.readline())
        assert first == {"event": "progress", "done": 1, "total": 3000}
        child.send_signal(signal.SIGINT)
        rest, err = child.communicate(timeout=30)
    finally:
        child.kill()
    lines = [json.loads(line) for line in rest.splitlines()]
    assert child.returncode == 130 and err == ""
    assert lines[-1]["event"] == "error" and lines[-1]["exit_code"] == 130
    assert all(line["done"] < 3000 for line in lines[:-1])
    assert files_in(tmp_path) == before


def test_a_child_denoises_and_says_so(an_identity_esau_net, a_file, a_volume, tmp_path):
    child = start("denoise", "scan.nrrd", "out.nrrd", "--model", an_identity_esau_net, cwd=tmp_path)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")  # no progress bar: standard error is no terminal
    assert "A test model 0.1" in out
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nrrd").voxels, a_volume.voxels)


def test_a_reader_that_leaves_early_is_no_error(a_pair, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        child = start("models", "list", cwd=tmp_path, stdout=closed)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 1 and err == ""
