"""`ascon train`: what it prints, exit codes, data and settings of earlier trainings."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from training_fixtures import SHORT, TINY, Tiny, ascon, train_tiny

from ASCONDenoiseLib.commands.console import Console
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.commands import training_arguments
from ASCONTrainingLib.config.presets import PRESETS
from ASCONTrainingLib.trainer import run_folder
from ASCONTrainingLib.trainer.progress import Progress


def test_trained_model_opens_in_denoise(a_set, tmp_path, capsys):
    assert train_tiny(a_set, tmp_path / "run", "--name", "mine") == 0
    out, err = capsys.readouterr()
    assert re.search(r"test patients.*\n.*PSNR \[dB\].*\nLDCT .*±.*\nmine .*±", out)
    assert f"Model  {tmp_path / 'run' / 'mine.safetensors'}" in out and "step 6/6" in err
    scan, denoised = tmp_path / "scan.nrrd", tmp_path / "denoised.nrrd"
    voxels = np.load(a_set / "P2.ldct.npy")
    write_image(Volume(voxels, Geometry((0.7, 0.7, 3.0), (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))), scan)
    assert ascon("denoise", scan, denoised, "--model", tmp_path / "run" / "mine.safetensors", "--device", "cpu") == 0
    assert not np.array_equal(read_volume(denoised).voxels, voxels)


def test_json_lines(a_set, tmp_path, capsys):
    assert train_tiny(a_set, tmp_path / "run", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    steps = [(line["done"], line["total"]) for line in lines if line["event"] == "progress"]
    assert steps == [(step, 6) for step in range(1, 7)]
    assert lines[-1]["event"] == "result" and [c["name"] for c in lines[-1]["comparisons"]] == ["LDCT", "ascon-pixel"]


def test_resume_takes_settings_and_data_from_the_run(a_set, tmp_path, capsys):
    assert train_tiny(a_set, tmp_path / "run", "--epochs", "1") == 0
    assert ascon("train", "--out", tmp_path / "run", "--resume", "--epochs", "2", "--device", "cpu") == 0
    assert "continuing after step 3 of 6" in capsys.readouterr().err
    assert run_folder.load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 6


def test_resume_finds_its_data_from_any_folder(a_set, tmp_path, monkeypatch):
    monkeypatch.chdir(a_set.parent)
    assert train_tiny(Path(a_set.name), tmp_path / "run", "--epochs", "1") == 0
    monkeypatch.chdir(tmp_path)
    assert ascon("train", "--out", "run", "--resume", "--epochs", "2", "--device", "cpu") == 0
    assert run_folder.load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 6


def test_settings_of_an_earlier_training(a_set, tmp_path, capsys):
    assert train_tiny(a_set, tmp_path / "run", "--epochs", "1", "--seed", "5") == 0
    again = tmp_path / "again"
    config = tmp_path / "run" / "config.json"
    assert ascon("train", "--config", config, "--data", a_set, "--out", again, "--device", "cpu") == 0
    assert (again / "ascon-pixel.safetensors").read_bytes() == (
        tmp_path / "run" / "ascon-pixel.safetensors"
    ).read_bytes()


def test_a_peer_has_the_schedule_of_the_base_that_is_named(a_set, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "red_cnn", Tiny)
    run = tmp_path / "run"
    command = ["train", "--preset", "red_cnn", "--base", "paper-mayo2020", "--data", a_set, "--out", run]
    assert ascon(*command, "--set", "crops_per_epoch=null", *TINY[4:], *SHORT) == 0
    config = json.loads((run / "config.json").read_text())["config"]
    paper = PRESETS["paper-mayo2020"].to_dict()
    assert config["preset"] == "red_cnn-paper-mayo2020" and config["optimizer"]["learning_rate"] == 1e-4
    assert config["optimizer"]["betas"] == [0.9, 0.999] and config["mac"] is None
    for name in ("precision", "doses", "ema", "train_with_all", "growth"):
        assert config[name] == paper[name]
    assert (run / "ascon-red_cnn-paper-mayo2020.safetensors").exists()


def test_doses_of_a_preset_are_left_out_where_pairs_are_measured(measured_pairs, tmp_path, capsys):
    """Those that are asked for are refused."""
    command = ["train", "--preset", "pixel", "--data", measured_pairs, "--out", tmp_path / "run", *TINY, *SHORT]
    assert ascon(*command, "--set", "doses=[0.1, 0.5]") == 2
    assert "holds measured pairs, whose dose is what it is: set doses to null" in capsys.readouterr().err
    assert ascon(*command, "--set", "noise_hu=[2, 80]") == 2  # which is of these doses
    assert "holds measured pairs, whose dose is what it is: set doses to null" in capsys.readouterr().err
    assert ascon(*command) == 0
    assert "doses is null, not [0.17, 0.38]" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["doses"] is None


def test_dry_run(a_set, tmp_path, capsys):
    assert train_tiny(a_set, tmp_path / "run", "--dry-run") == 0
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
        (["--set", "mac"], "--set takes NAME=VALUE; got 'mac'."),
        (["--set", "=" + 2000 * "["], "--set takes NAME=VALUE; got '=["),
        (["--set", "windw=3"], "no setting windw"),
        (["--batch", "two"], "invalid int value: 'two'"),
        (["--precision", "fp8"], "fp32, bf16, fp16"),
        (["--config", "nowhere.json"], "holds no settings of a training"),
        (["--preset", "pixel", "--config", "x.json"], "one of --preset and --config"),
        (["--preset", "pixel", "--base", "smoke"], "the preset pixel has images and a schedule of its own"),
        (["--preset", "unet", "--base", "red_cnn"], "invalid choice: 'red_cnn'"),
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
    assert train_tiny(a_set, tmp_path / "run", "--epochs", "1") == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    assert train_tiny(a_set, tmp_path / "run", "--epochs", "1") == 2
    assert "--resume" in capsys.readouterr().err
    assert ascon("train", "--out", tmp_path / "run", "--resume", "--preset", "pixel") == 2
    assert "leave out --preset" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_stop_on_the_way_is_code_1(a_set, tmp_path, capsys):
    assert (
        train_tiny(
            a_set, tmp_path / "run", "--set", "optimizer.learning_rate=1e30", "--set", "optimizer.gradient_clip=null"
        )
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
    monkeypatch.setenv("COLUMNS", "120")
    console = Console()
    training_arguments.shown_progress(console)(now)
    console.note("PSNR 44 dB")
    shown = sys.stderr.getvalue()
    assert text in shown and "ascon: PSNR 44 dB\n" in shown


def test_smoke_makes_its_own_phantoms(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(training_arguments.SMOKE_PHANTOMS, "phantoms", 2)
    monkeypatch.setitem(training_arguments.SMOKE_PHANTOMS, "phantom_shape", (1, 64, 64))
    changes = ["--epochs", 1, "--set", "steps_per_epoch=1", "--batch", 1, "--device", "cpu"]
    assert ascon("train", "--preset", "smoke", "--out", tmp_path / "run", *changes) == 0
    out, err = capsys.readouterr()
    card = load_card(tmp_path / "run" / "ascon-smoke.json")
    assert "of which 1 phantoms train" in card.training_data and any("phantoms only" in limit for limit in card.limits)
    assert card.dose == "0.05, simulated" and "ascon-smoke" in out
    index = json.loads((tmp_path / "run" / "data" / "index.json").read_text())
    assert [volume["split"] for volume in index["volumes"]].count("train") == 1
