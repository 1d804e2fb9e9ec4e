"""`ascon models` and `ascon info`."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import torch
from command_fixtures import run_json, shifted

import ASCONDenoiseLib
from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.models import cpu, files
from ASCONDenoiseLib.models.files import DEFAULT_MODEL


def test_models_list_import_verify_show(the_models, tmp_path, capsys):
    sha256 = hashlib.sha256((the_models / "shift-30.safetensors").read_bytes()).hexdigest()
    for suffix in (".safetensors", ".json"):
        shutil.copy(the_models / f"shift-30{suffix}", tmp_path / f"mine{suffix}")
    assert cli.main(["models", "import", str(tmp_path / "mine.safetensors")]) == 0
    assert "mine" in capsys.readouterr().out
    assert (the_models / "mine.safetensors").read_bytes() == (tmp_path / "mine.safetensors").read_bytes()
    assert cli.main(["models", "list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[1:]] == ["mine", "shift-30"]
    assert all(row[-1] == sha256[:12] for row in rows[1:])
    assert cli.main(["models", "verify"]) == 0
    assert capsys.readouterr().out.count("correct") == 3  # one for each, and all
    assert cli.main(["models", "show", "mine"]) == 0
    shown = capsys.readouterr().out
    facts = ("A test model", "-1000, 2000", "at all", "knows nothing", "slices of 1 to 3 mm", "PSNR, dB: 40.5")
    for fact in (sha256, *facts):
        assert fact in shown
    code, lines = run_json(capsys, "models", "list")
    assert code == 0 and [model["name"] for model in lines[-1]["models"]] == ["mine", "shift-30"]
    assert lines[-1]["models"][0]["card"]["sha256"] == sha256


def test_the_default_model_is_marked_and_used(the_models, a_file, a_volume, tmp_path, capsys):
    for suffix in (".safetensors", ".json"):
        shutil.copy(the_models / f"shift-30{suffix}", files.models_folder() / f"{DEFAULT_MODEL}{suffix}")
    assert cli.main(["models", "list"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows if row.endswith("default")] == [DEFAULT_MODEL]
    assert cli.main(["denoise", str(a_file), str(tmp_path / "out.nrrd")]) == 0
    np.testing.assert_array_equal(read_volume(tmp_path / "out.nrrd").voxels, shifted(a_volume.voxels, -30))


def test_models_verify_names_all_that_are_wrong(the_models, capsys):
    (the_models / "cut.safetensors").write_bytes((the_models / "shift-30.safetensors").read_bytes()[:-4])
    (the_models / "pickled.safetensors").write_bytes(b"PK\x03\x04 and so on")
    assert cli.main(["models", "verify"]) == 2
    out, err = capsys.readouterr()
    assert "shift-30" in out and "cut.safetensors is cut short" in err and "is a pickle" in err


def test_info(capsys):
    code, lines = run_json(capsys, "info")
    info = lines[-1]
    assert code == 0
    assert (info["ascon"], info["torch"], info["numpy"]) == (
        ASCONDenoiseLib.__version__,
        torch.__version__,
        np.__version__,
    )
    assert info["devices"][-1] == "cpu" and info["threads"].startswith(f"{torch.get_num_threads()} of ")
    assert info["default model"].startswith("none: ")
    assert info["BLAS"].startswith(f"{cpu.torch_blas()}; NumPy: ") and "bf16" in info["CPU"]
    assert cli.main(["info"]) == 0
    assert f"torch          {torch.__version__}" in capsys.readouterr().out


def test_info_warns_of_a_slow_blas(monkeypatch, capsys):
    monkeypatch.setattr(cpu, "slow_blas", lambda: "This PyTorch is slow.")
    assert cli.main(["info"]) == 0
    assert "ascon: This PyTorch is slow." in capsys.readouterr().err
