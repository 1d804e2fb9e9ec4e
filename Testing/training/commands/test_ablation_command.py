"""`ascon ablation`: the rows of the tables, on simulated and on measured pairs, with equal steps or minutes."""

from __future__ import annotations

import json
import re

import pytest
import torch
from objective_fixtures import TwoHeaded
from safetensors.torch import save_file
from torch import nn
from training_fixtures import Tiny, ascon, make_set

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.models.networks import ARCHITECTURES
from ASCONTrainingLib.config import presets
from ASCONTrainingLib.method import perceptual
from ASCONTrainingLib.method.objectives import du_gan, wgan_vgg
from ASCONTrainingLib.method.perceptual import VGG19


def test_ablation_prints_table_2(a_set, tmp_path, capsys):
    """With MAC-Net as it is, one step a row; a second call trains the row whose weights file is now there, and measures
    again what is trained.
    """
    command = ["ablation", "--preset", "smoke", "--set", "network=tiny", "--data", a_set, "--out", tmp_path / "runs"]
    command += ["--epochs", 1, "--set", "steps_per_epoch=1", "--batch", 1, "--patch", 64, "--device", "cpu"]
    assert ascon(*command) == 0
    out = capsys.readouterr().out
    lines = [re.split(r"\s{2,}", line) for line in out.splitlines()]
    assert lines[0][0].startswith("Table 2 on the preset smoke, equal steps; test patients; paper units")
    assert lines[1][1:] == ["PSNR [dB]", "SSIM x100", "RMSE x100", "RMSE [HU]", "steps", "minutes"]
    names = ["LDCT", "MSE", "MSE + perceptual", "MSE + SSIM", "MSE + SSIM + global", "MSE + SSIM + local"]
    assert [line[0] for line in lines[2:]] == [*names, "MSE + SSIM + local + global"]
    assert lines[4] == ["MSE + perceptual", "not run: no weights file (VGG-19)"]
    numbers = [line[1] for line in lines[2:] if len(line) >= 5]
    assert len(numbers) == 6 and all("±" in number for number in numbers)
    assert {line[5] for line in lines[3:] if len(line) == 7} == {"1"}  # steps
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


@pytest.mark.slow
def test_the_table_of_other_systems_runs_with_equal_steps(tmp_path, capsys):
    """Rows whose images are others, whole slices and larger patches, take as many steps as the rest."""
    a_set = make_set(tmp_path / "set", ("train", "train", "test"), side=128)
    command = ["ablation", "--table", "systems", "--preset", "smoke", "--data", a_set, "--out", tmp_path / "runs"]
    command += ["--epochs", 1, "--set", "steps_per_epoch=2", "--batch", 1, "--device", "cpu", "--quiet"]
    command += ["--set", "network=tiny"]  # of ASCON; other systems have their own
    assert ascon(*command) == 0
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines[2:]}
    assert rows["ALDEN"] == ["not run: no weights file (DINOv2 ViT)"]
    assert rows["TSC-Net"] == ["not run: no weights file (VGG-19)"]
    trained = {name: row for name, row in rows.items() if len(row) == 6 and name != "LDCT"}
    assert len(trained) == 7 and {row[4] for row in trained.values()} == {"2"}  # steps


METHODS = ["U-Net", "RED-CNN", "WGAN-VGG", "EDCNN", "DU-GAN", "CNCL", "ESAU-Net", "ASCON"]


class TinyContentAndNoise(TwoHeaded):
    """In the place of CNCL's 43 million weights."""

    def forward(self, x):
        both = self.complements(x)
        return both if self.training else both[:, :1]


class SmallCritic(nn.Sequential):
    """In the place of WGAN-VGG's 18 million weights."""

    def __init__(self, side: int):
        super().__init__(nn.Conv2d(1, 2, side), nn.Flatten(), nn.Linear(2, 1))


@pytest.fixture
def small_methods(monkeypatch):
    """Networks and critics of Table 1 that take milliseconds; objectives and settings are as they are."""
    for name in ("unet", "red_cnn", "edcnn", "esau_net", "wgan_vgg"):
        monkeypatch.setitem(ARCHITECTURES, name, lambda **_settings: Tiny())
    monkeypatch.setitem(ARCHITECTURES, "cncl", TinyContentAndNoise)
    monkeypatch.setattr(du_gan, "WIDTH", 4)
    monkeypatch.setattr(du_gan, "WIDEST", 32)
    monkeypatch.setattr(perceptual, "BLOCKS", ((4, 2), (4, 2), (4, 4), (4, 4), (4, 4)))
    monkeypatch.setattr(wgan_vgg, "load_vgg19", lambda path: VGG19())
    monkeypatch.setattr(wgan_vgg, "Critic", SmallCritic)
    monkeypatch.setattr(presets, "CRITIC_BATCH", 2)


def a_table(out: str) -> list[list[str]]:
    """Its cells, line by line."""
    return [re.split(r"\s{2,}", line) for line in out.splitlines()]


@pytest.mark.usefixtures("small_methods")
@pytest.mark.parametrize("base", ["paper-mayo2016", "product", "smoke"])
def test_table_1_on_measured_pairs(measured_pairs, tmp_path, capsys, base):
    """All eight rows, on a set that the doses of `product` are not for, each with as many steps."""
    command = ["ablation", "--table", 1, "--preset", base, "--data", measured_pairs, "--out", tmp_path / "runs"]
    command += ["--epochs", 1, "--batch", 2, "--device", "cpu", "--workers", 0, "--set", "growth=[]"]
    command += ["--set", "steps_per_epoch=2"] if base != "paper-mayo2016" else []
    assert ascon(*command, "--vgg-weights", "vgg.pth") == 0
    out, err = capsys.readouterr()
    title, header, ldct, *rows, note = a_table(out)
    assert title[0].startswith(f"Table 1 on the preset {base}, equal steps; test patients")
    assert header[-2:] == ["steps", "minutes"] and ldct[0] == "LDCT" and note[0].endswith(f"{base} in all rows.")
    assert [row[0].split(" with")[0] for row in rows] == METHODS
    assert rows[3][0] == "EDCNN without its perceptual loss: no ResNet-50 weights"
    assert rows[4][0] == "DU-GAN with the defaults of its code"
    # the paper's: four slices of the training patient and four of the one for validation, two a step
    assert {row[5] for row in rows} == {"4" if base == "paper-mayo2016" else "2"}
    assert ("holds measured pairs" in err) == (base == "product")


@pytest.mark.usefixtures("small_methods")
def test_rows_that_fail_say_why_and_the_table_goes_on(measured_pairs, tmp_path, capsys, monkeypatch):
    def refuse(config, *arguments, **options):
        if config.network in failing:
            raise InputError("There is no such thing.")
        return train(config, *arguments, **options)

    from ASCONTrainingLib.trainer import trainer

    train, failing = trainer.fit, {"unet"}
    monkeypatch.setattr(trainer, "fit", refuse)
    command = ["ablation", "--table", "s1", "--preset", "smoke", "--data", measured_pairs, "--out", tmp_path / "runs"]
    command += ["--epochs", 1, "--set", "steps_per_epoch=1", "--batch", 1, "--device", "cpu"]
    assert ascon(*command) == 0
    rows = a_table(capsys.readouterr().out)[3:]
    assert [(row[0], len(row)) for row in rows] == [
        *[("RED-CNN", 7), ("RED-CNN + MAC-Net", 7)],
        *[("U-Net", 2), ("U-Net + MAC-Net", 2)],
        *[("ESAU-Net", 7), ("ESAU-Net + MAC-Net", 7)],
    ]
    assert rows[2][1] == "failed: There is no such thing."
    failing |= {"red_cnn", "esau_net"}
    assert ascon(*command) == 2 and "no such thing" in capsys.readouterr().err


def test_tables_are_named_in_any_case(capsys):
    for table in ("s1", "S1", "s2", "1", "2"):
        assert ascon("ablation", "--table", table, "--preset", "pixel", "--data", "nowhere", "--out", "runs") == 2
        assert "nowhere holds no index.json" in capsys.readouterr().err
    assert ascon("ablation", "--table", "S3", "--out", "runs") == 2
    assert "invalid choice: 'S3'" in capsys.readouterr().err


@pytest.mark.usefixtures("small_methods")
def test_an_equal_search_of_rates_comes_before_each_row(measured_pairs, tmp_path, capsys, monkeypatch):
    """The table says what was searched and which rate won; a second call searches and trains nothing."""

    def without_mac_net(config, *arguments, **options):  # whose steps take seconds
        if config.mac is not None:
            raise InputError("Not with MAC-Net.")
        trained.append(arguments[1].name)
        return train(config, *arguments, **options)

    from ASCONTrainingLib.trainer import trainer

    train, trained = trainer.fit, list[str]()
    monkeypatch.setattr(trainer, "fit", without_mac_net)
    command = ["ablation", "--table", "s1", "--preset", "smoke", "--data", measured_pairs, "--out", tmp_path / "runs"]
    command += ["--minutes", 0.01, "--search-rates", 3, "--batch", 1, "--device", "cpu"]
    command += ["--set", "steps_per_epoch=1", "--set", "validation_slices=1"]
    assert ascon(*command) == 0
    title, header, ldct, *rows, note = a_table(capsys.readouterr().out)
    assert title[0].startswith("Table S1 on the preset smoke, 0.01 minutes a row; test patients")
    assert header[-3:] == ["steps", "minutes", "rate"] and ldct[0] == "LDCT" and len(rows) == 6
    assert note[0].startswith("Learning rates: of those tried for a sixth of the minutes each")
    done = rows[::2]
    assert [row[0] for row in done] == ["RED-CNN", "U-Net", "ESAU-Net"]
    assert {row[7] for row in done} <= {"0.0002 (x0.33 of 3)", "0.0006 (x1 of 3)", "0.0018 (x3 of 3)"}
    assert {row[1] for row in rows[1::2]} == {"failed: Not with MAC-Net."}
    assert trained[:4] == ["S1-red-cnn-rate-0.333", "S1-red-cnn-rate-1", "S1-red-cnn-rate-3", "S1-red-cnn"]

    trained.clear()
    assert ascon(*command, "--json") == 0 and trained == ["S1-red-cnn", "S1-u-net", "S1-esau-net"]  # to measure them
    search = json.loads(capsys.readouterr().out.splitlines()[-1])["search"]
    for row, folder in zip(done, trained, strict=True):
        won = row[7].split()[0]
        assert len(search[row[0]]) == 3 and search[row[0]][won] == max(search[row[0]].values())
        settings = json.loads((tmp_path / "runs" / folder / "config.json").read_text())["config"]
        assert f"{settings['optimizer']['learning_rate']:.2g}" == won


def test_a_search_of_rates_needs_minutes_one_process_and_an_odd_number(a_set, tmp_path, capsys, monkeypatch):
    command = ["ablation", "--preset", "released", "--data", a_set, "--out", tmp_path / "runs"]
    assert ascon(*command, "--search-rates", 3) == 2 and "say with --minutes" in capsys.readouterr().err
    assert ascon(*command, "--search-rates", 2) == 2 and "odd number" in capsys.readouterr().err
    both = ("--minutes", 1, "--epochs", 2)
    assert ascon(*command, *both) == 2 and "minutes or epochs, not both" in capsys.readouterr().err
    begun = ("--table", "systems", "--set", "initial=fast")
    assert ascon(*command, *begun) == 2 and "begin with random weights" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ascon(*command, "--search-rates", 3, "--minutes", 1) == 2 and "torchrun" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("small_methods")
def test_rows_share_the_minutes_of_a_preset_that_has_some(measured_pairs, tmp_path, capsys, monkeypatch):
    """So the smoke preset's tables take its 6 minutes, however slow a row is; with epochs named, steps are equal."""
    seen = []

    def refuse(config, *arguments, **options):
        seen.append((config.minutes, config.epochs))
        raise InputError("Not now.")

    from ASCONTrainingLib.trainer import trainer

    monkeypatch.setattr(trainer, "fit", refuse)
    command = ["ablation", "--table", "s2", "--preset", "smoke", "--data", measured_pairs, "--out", tmp_path / "runs"]
    assert ascon(*command) == 2 and "the 6 minutes of smoke are shared by 4 rows" in capsys.readouterr().err
    assert ascon(*command, "--epochs", 3) == 2 and ascon(*command, "--minutes", 2) == 2
    assert seen == [(1.5, 10_000)] * 4 + [(None, 3)] * 4 + [(2.0, 10_000)] * 4
