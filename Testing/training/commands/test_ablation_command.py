"""`ascon ablation`: the rows of the table."""

from __future__ import annotations

import json
import re

import torch
from safetensors.torch import save_file
from training_fixtures import ascon

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
