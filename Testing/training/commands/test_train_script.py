"""Scripts/train.py: exit codes, the end in Slicer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ASCONDenoiseLib.models.files import verify
from ASCONDenoiseLib.requirements import TORCH, TRAINING
from ASCONTrainingLib.trainer import run_folder

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "ASCONTraining" / "Scripts" / "train.py"
PATHS = [str(ROOT / name) for name in ("ASCONDenoise", "ASCONTraining", "Testing")]
IN_SLICER = Path(__file__).with_name("child_in_slicer.py")


def run_script(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_script_ends_with_the_exit_code_and_needs_no_installation(a_set, tmp_path):
    """-S: no site-packages, so neither an installed ASCON nor torch: the Lib folders are found, help is shown."""
    alone = [sys.executable, "-S", str(SCRIPT)]
    shown = subprocess.run([*alone, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0 and "--preset" in shown.stdout
    refused = subprocess.run([*alone, "--out", "run"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 1 and "lacks torch>=2.2, numpy" in refused.stderr
    assert "--install-packages" in refused.stderr
    wrong = run_script("--", "--preset", "none", "--out", "run", cwd=tmp_path)
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_outside_of_slicer_it_says_what_to_install(tmp_path):
    bare = subprocess.run([sys.executable, "-S", str(SCRIPT), "--install-packages"], capture_output=True, text=True)
    assert bare.returncode == 1 and f'{sys.executable} -m pip install "{TORCH}" "numpy>=' in bare.stderr
    complete = run_script("--install-packages", cwd=tmp_path)
    assert complete.returncode == 0 and "All packages that a training needs are installed." in complete.stdout


@pytest.mark.parametrize(
    ("way", "exits", "text"),
    [
        ("works", "[0]", "All packages that a training needs are installed."),
        ("complete", "[0]", "All packages that a training needs are installed."),
        ("offline", "[1]", "ascon: The installation failed because the package server was not reached. Go online"),
        ("without the extension", "[1]", "Install the extension PyTorch with Slicer's Extensions Manager"),
        ("torch fails", "[1]", "ascon: The installation failed because the disk is full."),
        ("testing", "[1]", "ascon: These Python packages are missing: safetensors>=0.4.3"),
        ("busy", "[1]", "ascon: Another module is installing packages."),
        ("python slicer", "[]", "PythonSlicer knows no extensions: install torch with Slicer --no-main-window"),
    ],
)
def test_packages_are_installed_by_slicers_own_means(way, exits, text):
    """Without a question, as nobody could answer, and without a window; see child_installing.py."""
    command = [sys.executable, str(Path(__file__).with_name("child_installing.py")), str(SCRIPT), way]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = ended.stdout.splitlines()
    assert lines[0] == exits and text in ended.stdout + ended.stderr
    calls = json.loads(lines[1])
    assert ended.returncode == (1 if way == "python slicer" else 0)
    asked = [call for call in calls if call[0] == "pip_ensure"]
    for _, packages, options in asked:
        assert packages == list(TRAINING)
        assert options == {
            "requester": "ASCON Denoise",
            "prompt_install": False,
            "prompt_restart": False,
            "show_progress": False,
        }
    assert len(asked) == (way not in ("complete", "busy"))
    torch = [call[1] for call in calls if call[0] == "installTorch"]
    assert torch == (
        [{"askConfirmation": False, "torchVersionRequirement": ">=2.2"}] if "torch" in way or way == "works" else []
    )


def test_script_in_an_installed_extension(tmp_path):
    """There the Libs lie beside each other, and Scripts below them."""
    for name in ("ASCONDenoise/ASCONDenoiseLib", "ASCONTraining/ASCONTrainingLib", "ASCONTraining/Scripts"):
        (tmp_path / Path(name).name).symlink_to(ROOT / name)
    script = f"found['Path']({str(tmp_path / 'Scripts' / 'train.py')!r})"
    code = f"import runpy\nfound = runpy.run_path({str(SCRIPT)!r})\nprint(*found['_lib_folders']({script}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(tmp_path)]


@pytest.mark.skipif(os.name != "posix", reason="SIGINT to a child")
def test_script_trains_prints_to_a_file_and_ctrl_c_is_130(a_set, tmp_path):
    """The real network, in a process as PythonSlicer starts it; interrupted, then resumed to the end."""
    run, printed = tmp_path / "run", tmp_path / "printed.txt"
    arguments = ["--preset", "pixel", "--set", "doses=null", "--data", a_set, "--out", run, "--patch", "16"]
    arguments += ["--batch", "1", "--epochs", "1", "--set", "steps_per_epoch=4", "--workers", "0", "--device", "cpu"]
    command = [sys.executable, str(SCRIPT), "--print-to", str(printed), *map(str, arguments), "--json"]
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"import runpy; sys.argv = {command[1:]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 60
    while '"done": 1' not in (printed.read_text() if printed.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    assert started.communicate(timeout=60)[0] == b"" and started.returncode == 130
    assert json.loads(printed.read_text().splitlines()[-1])["exit_code"] == 130
    state = run_folder.load_checkpoint(run / "last.pt")
    assert 1 <= state["step"] <= 4
    ended = run_script("--out", run, "--resume", "--device", "cpu")
    assert ended.returncode == 0 and "Model  " in ended.stdout, ended.stderr
    assert verify(run / "ascon-pixel.safetensors").architecture == "esau_net"


@pytest.mark.parametrize(
    ("arguments", "fault", "exits", "text"),
    [
        (["--help"], "", "[0]", "--preset"),
        (["--preset", "none", "--out", "run"], "", "[2]", "invalid choice"),
        (["--out", "run"], "TypeError", "[1]", "TypeError"),
        (["--out", "run"], "SystemExit", "[1]", "SystemExit: 5"),
        (["--out", "run"], "KeyboardInterrupt", "[130]", ""),
        (["--print-to", "/nowhere/at/all", "--out", "run"], "", "[1]", "FileNotFoundError"),
    ],
)
def test_script_inside_slicer_always_exits_once(tmp_path, arguments, fault, exits, text):
    """An exception that left the script would leave a headless Slicer hanging."""
    command = [sys.executable, str(IN_SLICER), str(SCRIPT), fault, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ended.stdout.splitlines()[0] == exits and text in ended.stdout
