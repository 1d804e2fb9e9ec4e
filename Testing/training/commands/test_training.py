"""`ascon prepare`, `train`, `ablation` and Scripts/train.py: what they print, exit codes, the end in Slicer."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import types
import unittest
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from training_fixtures import Tiny, make_set

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_volume
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import verify
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.commands import training_arguments
from ASCONTrainingLib.commands.registration import add_commands
from ASCONTrainingLib.method.perceptual import VGG19
from ASCONTrainingLib.trainer import run_folder
from ASCONTrainingLib.trainer.progress import Progress

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "ASCONTraining" / "Scripts" / "train.py"
PATHS = [str(ROOT / name) for name in ("ASCONDenoise", "ASCONTraining", "Testing")]
TINY = ["--set", "network=tiny", "--set", "mac=null", "--precision", "fp32", "--patch", "32", "--batch", "2"]
SHORT = ["--epochs", "2", "--set", "steps_per_epoch=3", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def a_set(tmp_path_factory) -> Path:
    return make_set(tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(autouse=True)
def the_tiny_network(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", Tiny)


def ascon(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments], plugins=[add_commands])


def train(a_set: Path, run: Path, *arguments: object) -> int:
    return ascon(
        "train", "--preset", "pixel", "--set", "doses=null", "--data", a_set, "--out", run, *TINY, *SHORT, *arguments
    )


# ascon train


def test_trained_model_opens_in_denoise(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--name", "mine") == 0
    out, err = capsys.readouterr()
    assert re.search(r"test patients.*\n.*PSNR \[dB\].*\nLDCT .*±.*\nmine .*±", out)
    assert f"Model  {tmp_path / 'run' / 'mine.safetensors'}" in out and "step 6/6" in err
    scan, denoised = tmp_path / "scan.nrrd", tmp_path / "denoised.nrrd"
    voxels = np.load(a_set / "P2.ldct.npy")
    write_volume(Volume(voxels, Geometry((0.7, 0.7, 3.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))), scan)
    assert ascon("denoise", scan, denoised, "--model", tmp_path / "run" / "mine.safetensors", "--device", "cpu") == 0
    assert not np.array_equal(read_volume(denoised).voxels, voxels)


def test_json_lines(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = [(line["done"], line["total"]) for line in lines if line["event"] == "progress"]
    assert steps == [(step, 6) for step in range(1, 7)]
    assert lines[-1]["event"] == "result" and [c["name"] for c in lines[-1]["comparisons"]] == ["LDCT", "ascon-pixel"]


def test_resume_takes_settings_and_data_from_the_run(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--epochs", "1") == 0
    assert ascon("train", "--out", tmp_path / "run", "--resume", "--epochs", "2", "--device", "cpu") == 0
    assert "continuing after step 3 of 6" in capsys.readouterr().err
    assert run_folder.load(tmp_path / "run" / "last.pt")["step"] == 6


def test_resume_finds_its_data_from_any_folder(a_set, tmp_path, monkeypatch):
    monkeypatch.chdir(a_set.parent)
    assert train(Path(a_set.name), tmp_path / "run", "--epochs", "1") == 0
    monkeypatch.chdir(tmp_path)
    assert ascon("train", "--out", "run", "--resume", "--epochs", "2", "--device", "cpu") == 0
    assert run_folder.load(tmp_path / "run" / "last.pt")["step"] == 6


def test_settings_of_an_earlier_training(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--epochs", "1", "--seed", "5") == 0
    again = tmp_path / "again"
    config = tmp_path / "run" / "config.json"
    assert ascon("train", "--config", config, "--data", a_set, "--out", again, "--device", "cpu") == 0
    assert (again / "ascon-pixel.safetensors").read_bytes() == (
        tmp_path / "run" / "ascon-pixel.safetensors"
    ).read_bytes()


def test_dry_run(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--dry-run") == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["data", "memory", "disk", "time"]
    assert "training images: 100 of 32x32, 2 a step" in out and "6 steps of" in out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "paper"], "invalid choice: 'paper'"),
        (["--preset", "released"], "Name the prepared set with --data"),
        (["--data", "nowhere"], "nowhere holds no index.json"),
        (["--set", "mac"], "--set takes NAME=VALUE; got mac"),
        (["--set", "windw=3"], "no setting windw"),
        (["--batch", "two"], "invalid int value: 'two'"),
        (["--precision", "fp8"], "fp32, bf16, fp16"),
        (["--config", "nowhere.json"], "holds no settings of a training"),
        (["--preset", "pixel", "--config", "x.json"], "one of --preset and --config"),
        (["--data", "nowhere", "--device", "cuda:77"], "."),
    ],
)
def test_bad_input_is_code_2_and_a_sentence(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert ascon("train", "--out", "run", *arguments) == 2
    err = capsys.readouterr().err
    assert message in err and err.startswith("ascon: ") and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_existing_run_is_kept(a_set, tmp_path, capsys):
    assert train(a_set, tmp_path / "run", "--epochs", "1") == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    assert train(a_set, tmp_path / "run", "--epochs", "1") == 2
    assert "--resume" in capsys.readouterr().err
    assert ascon("train", "--out", tmp_path / "run", "--resume", "--preset", "pixel") == 2
    assert "leave out --preset" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_stop_on_the_way_is_code_1(a_set, tmp_path, capsys):
    assert (
        train(a_set, tmp_path / "run", "--set", "optimizer.learning_rate=1e30", "--set", "optimizer.gradient_clip=null")
        == 1
    )
    err = capsys.readouterr().err
    assert "failed-batch-0.pt" in err and "--resume" in err and "Unexpected" not in err


def test_progress_bar_names_loss_rate_speed_and_time_left(monkeypatch):
    now = Progress(120, 4800, 0.025, 0.21349, 1.9e-4, 23.07, 5025.0)
    text = training_arguments.describe(now)
    assert text == "step 120/4800, loss 0.2135, lr 1.9e-04, 23.1 images/s, 1:23:45 left"

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(training_arguments, "REFRESH_S", 0)
    with training_arguments.shown_progress(Console()) as (progress, say):
        progress(now)
        say("PSNR 44 dB")
    shown = sys.stderr.getvalue()
    assert text in shown and "ascon: PSNR 44 dB\n" in shown


def test_smoke_makes_its_own_phantoms(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(training_arguments.SMOKE_PHANTOMS, "phantoms", 2)
    monkeypatch.setitem(training_arguments.SMOKE_PHANTOMS, "phantom_shape", (1, 64, 64))
    changes = ["--epochs", 1, "--set", "steps_per_epoch=1", "--batch", 1, "--device", "cpu"]
    assert ascon("train", "--preset", "smoke", "--out", tmp_path / "run", *changes) == 0
    out, err = capsys.readouterr()
    card = load_card(tmp_path / "run" / "ascon-smoke.json")
    assert "of which 1 phantoms train" in card.training_data and "phantoms only" in card.limits[0]
    assert card.dose == "0.05, simulated" and "ascon-smoke" in out
    index = json.loads((tmp_path / "run" / "data" / "index.json").read_text())
    assert [volume["split"] for volume in index["volumes"]].count("train") == 1


# ascon prepare, ascon ablation


def test_prepare_pairs(tmp_path, capsys):
    random = np.random.default_rng(0)
    geometry = Geometry((0.7, 0.7, 3.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    for patient in "ABC":
        for dose in ("full", "low"):
            (tmp_path / "src" / dose).mkdir(parents=True, exist_ok=True)
            voxels = random.integers(-200, 300, (2, 32, 32)).astype(np.int16)
            write_volume(Volume(voxels, geometry), tmp_path / "src" / dose / f"{patient}.nrrd")
    assert ascon("prepare", "paired", tmp_path / "src", tmp_path / "set") == 0
    assert "train 1 patient with 2 slices" in capsys.readouterr().out
    assert (tmp_path / "set" / "index.json").exists()


def test_prepare_tells_bad_input(tmp_path, capsys):
    assert ascon("prepare", "mayo2016", tmp_path / "nowhere", tmp_path / "set") == 2
    assert ascon("prepare", "simulate", tmp_path / "set") == 2
    assert ascon("prepare", "simulate", tmp_path / "set", "--phantoms", "1", "--dose", "1.5") == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_ablation_prints_table_2(a_set, tmp_path, capsys):
    """With MAC-Net as it is, one step a row; a second call trains the row whose weights file is now there, and measures
    again what is trained.
    """
    command = ["ablation", "--preset", "smoke", "--set", "network=tiny", "--data", a_set, "--out", tmp_path / "runs"]
    command += ["--epochs", 1, "--set", "steps_per_epoch=1", "--batch", 1, "--patch", 64, "--device", "cpu"]
    assert ascon(*command) == 0
    out = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert lines[0][0].startswith("Table 2; test patients; paper units")
    assert lines[1][1:] == ["PSNR [dB]", "SSIM x100", "RMSE x100", "RMSE [HU]"]
    names = ["LDCT", "MSE", "MSE + perceptual", "MSE + SSIM", "MSE + SSIM + global", "MSE + SSIM + local"]
    assert [line[0] for line in lines[2:]] == [*names, "MSE + SSIM + local + global"]
    assert lines[4] == ["MSE + perceptual", "not run: no weights file"]
    numbers = [line[1] for line in lines[2:] if len(line) == 5]
    assert len(numbers) == 6 and all("±" in number for number in numbers)
    weights_file = tmp_path / "vgg19.safetensors"
    torch.manual_seed(0)
    save_file(VGG19().state_dict(), weights_file)
    assert ascon(*command, "--vgg-weights", weights_file, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ldct, perceptual = (comparison["mean"]["psnr_db"] for comparison in result["rows"]["MSE + perceptual"])
    assert f"{ldct:.2f}" == lines[2][1].split()[0] and perceptual not in (ldct, None)
    log = (tmp_path / "runs" / "2-mse-perceptual" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["perceptual"] > 0
    psnr = result["rows"]["MSE + SSIM + local"][1]["mean"]["psnr_db"]
    assert f"{psnr:.2f}" == numbers[4].split()[0]


def test_ablation_needs_mac_net(a_set, tmp_path, capsys):
    assert ascon("ablation", "--preset", "pixel", "--data", a_set, "--out", tmp_path / "runs") == 2
    assert "with MAC-Net" in capsys.readouterr().err


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


# Scripts/train.py


def run_script(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_script_ends_with_the_exit_code_and_needs_no_installation(a_set, tmp_path):
    """-S: no site-packages, so neither an installed ASCON nor torch: the Lib folders are found, help is shown."""
    alone = [sys.executable, "-S", str(SCRIPT)]
    shown = subprocess.run([*alone, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0 and "--preset" in shown.stdout
    refused = subprocess.run([*alone, "--out", "run"], capture_output=True, text=True, cwd=tmp_path)
    assert refused.returncode == 1 and "lacks torch, numpy" in refused.stderr
    wrong = run_script("--", "--preset", "none", "--out", "run", cwd=tmp_path)
    assert wrong.returncode == 2 and "invalid choice" in wrong.stderr
    assert not list(tmp_path.iterdir())


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
    state = run_folder.load(run / "last.pt")
    assert 1 <= state["step"] <= 4
    ended = run_script("--out", run, "--resume", "--device", "cpu")
    assert ended.returncode == 0 and "Model  " in ended.stdout, ended.stderr
    assert verify(run / "ascon-pixel.safetensors").architecture == "esau_net"


IN_SLICER = """
import sys, types
sys.path[:0] = {paths!r}
class Out:
    "What PythonQt puts in place of the streams: it writes, and little more."
    def __init__(self): self.text = ""
    def write(self, text): self.text += text
    def flush(self): pass
    def isatty(self): return False
exits = []
slicer = types.ModuleType("slicer")
slicer.app, slicer.util = object(), types.SimpleNamespace(exit=exits.append)
sys.modules["slicer"] = slicer
real, sys.stdout, sys.stderr = sys.stdout, Out(), Out()
{before}
sys.argv = [{script!r}, *{arguments!r}]
exec(compile(open({script!r}).read(), {script!r}, "exec"), {{"__name__": "__main__", "__file__": {script!r}}})
print(exits, file=real)
print(sys.stdout.text, sys.stderr.text, file=real)
"""


@pytest.mark.parametrize(
    ("arguments", "before", "exits", "text"),
    [
        (["--help"], "", "[0]", "--preset"),
        (["--preset", "none", "--out", "run"], "", "[2]", "invalid choice"),
        (["--out", "run"], "from ASCONDenoiseLib.commands import cli; cli.main = 3", "[1]", "TypeError"),
        (
            ["--out", "run"],
            "from ASCONDenoiseLib.commands import cli\ndef main(*a, **k): raise SystemExit(5)\ncli.main = main",
            "[1]",
            "SystemExit: 5",
        ),
        (
            ["--out", "run"],
            "from ASCONDenoiseLib.commands import cli\ndef main(*a, **k): raise KeyboardInterrupt\ncli.main = main",
            "[130]",
            "",
        ),
        (["--print-to", "/nowhere/at/all", "--out", "run"], "", "[1]", "FileNotFoundError"),
    ],
)
def test_script_inside_slicer_always_exits_once(tmp_path, arguments, before, exits, text):
    """An exception that left the script would leave a headless Slicer hanging."""
    code = IN_SLICER.format(paths=PATHS, script=str(SCRIPT), arguments=arguments, before=before)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ended.stdout.splitlines()[0] == exits and text in ended.stdout


# The module class


@pytest.fixture
def a_module(monkeypatch):
    """ASCONTraining.py on stand-ins for Slicer's base classes, with a child process that is waited for."""
    started = []

    class Base:
        def __init__(self, parent=None):
            self.parent = parent

    def launch(args, **options):
        known = {"useStartupEnvironment", "updateEnvironment", "cwd", "blocking", "logCallback", "completedCallback"}
        assert options.keys() <= known
        started.append({"args": args} | options)
        ended = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in ended.stdout.splitlines():
            options["logCallback"](line)
        options["completedCallback"](ended.returncode)
        return ended

    test = type("ScriptedLoadableModuleTest", (unittest.TestCase,), {})
    names = {
        "slicer": {"util": types.SimpleNamespace(launchConsoleProcess=launch), "app": None},
        "slicer.i18n": {"tr": str, "translate": lambda context, text: text},
        "slicer.ScriptedLoadableModule": {
            "ScriptedLoadableModule": Base,
            "ScriptedLoadableModuleLogic": Base,
            "ScriptedLoadableModuleTest": test,
        },
    }
    for name, members in names.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "ASCONTraining", raising=False)
    yield importlib.import_module("ASCONTraining"), started
    sys.modules.pop("ASCONTraining", None)


def test_logic_trains_in_a_child_process(a_module, tmp_path):
    module, started = a_module
    lines, codes = [], []
    logic = module.ASCONTrainingLogic()
    logic.start(["--preset", "none", "--out", tmp_path / "run"], lines.append, codes.append)
    assert codes == [2] and "invalid choice" in lines[0]
    assert started[0]["args"][:2] == [sys.executable, str(SCRIPT)]
    assert started[0]["blocking"] is False  # Slicer's main thread goes on
    assert started[0]["useStartupEnvironment"] is False  # PythonSlicer needs the environment of Slicer's launcher
    assert "released" in logic.presets()


def test_the_modules_own_test_passes(a_module):
    module, _ = a_module
    test = module.ASCONTrainingTest()
    test.runTest()
