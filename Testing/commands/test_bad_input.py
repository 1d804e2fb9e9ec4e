"""Bad input of all commands: a sentence, exit code 2, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_fixtures import run_json
from folder_contents import files_in

from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.volume import Geometry, Volume

BAD_INPUT = {
    "no command": ("", "COMMAND"),
    "unknown command": ("frobnicate", "invalid choice: 'frobnicate'"),
    "unknown option": ("denoise scan.nrrd out.nrrd --strenght 1", "--strenght"),
    "abbreviated option": ("denoise scan.nrrd out.nrrd --stren 1", "--stren"),
    "no output": ("denoise scan.nrrd", "OUT"),
    "input missing": ("denoise nowhere.nrrd out.nrrd --model shift-30", "nowhere.nrrd does not exist"),
    "input empty": ("denoise empty.nrrd out.nrrd --model shift-30", "empty.nrrd is empty"),
    "input truncated": ("denoise cut.nrrd out.nrrd --model shift-30", "cut.nrrd cannot be read"),
    "input is no volume": ("denoise notes.txt out.nrrd --model shift-30", "notes.txt is no DICOM file"),
    "input folder without DICOM": ("denoise papers out.nrrd --model shift-30", "papers holds no DICOM images"),
    "output is the input": ("denoise scan.nrrd scan.nrrd --model shift-30", "both input and output"),
    "output is the input, by force": ("denoise scan.nrrd ./papers/../scan.nrrd --force", "both input and output"),
    "output exists": ("denoise scan.nrrd old.nrrd --model shift-30", "old.nrrd exists already"),
    "output's folder missing": ("denoise scan.nrrd a/b.nrrd --model shift-30", "The folder a does not exist"),
    "output is a folder": ("denoise scan.nrrd folder.nrrd --model shift-30", "folder.nrrd is a folder"),
    "output format": ("denoise scan.nrrd out.nhdr --model shift-30", "out.nhdr cannot be written"),
    "output one DICOM file": ("denoise series out.dcm --model shift-30", "out.dcm cannot be written"),
    "folder for a volume file": ("denoise scan.nrrd out --model shift-30", "scan.nrrd is not DICOM"),
    "output folder not empty": ("denoise series papers --model shift-30", "not an empty folder"),
    "output folder is the input": ("denoise series series --model shift-30", "not an empty folder"),
    "unknown series": ("denoise series out --series 9.9 --model shift-30", "series 9.9"),
    "unknown model": ("denoise scan.nrrd out.nrrd --model nobody", 'named "nobody"'),
    "no default model": ("denoise scan.nrrd out.nrrd", "default model"),
    "model is a pickle": ("denoise scan.nrrd out.nrrd --model model.pt", "is a pickle"),
    "strength 2": ("denoise scan.nrrd out.nrrd --strength 2", "strength is a number from 0 to 1; got 2"),
    "strength nan": ("denoise scan.nrrd out.nrrd --strength nan", "got nan"),
    "strength full": ("denoise scan.nrrd out.nrrd --strength full", "got full"),
    "batch 0": ("denoise scan.nrrd out.nrrd --batch 0", "got 0"),
    "unknown device": ("denoise scan.nrrd out.nrrd --model shift-30 --device abacus", 'no device called "abacus"'),
    "absent device": ("denoise scan.nrrd out.nrrd --model shift-30 --device cuda:99", "CUDA"),
    "log in a missing folder": ("denoise scan.nrrd out.nrrd --model shift-30 --log a/b.log", "a/b.log"),
    "log is the scan": ("denoise scan.nrrd out.nrrd --model shift-30 --log scan.nrrd", "not a log of ascon"),
    "no dose": ("simulate scan.nrrd out.nrrd", "--dose"),
    "dose 0": ("simulate scan.nrrd out.nrrd --dose 0", "dose must be above 0"),
    "dose 2": ("simulate scan.nrrd out.nrrd --dose 2", "at most 1"),
    "dose inf": ("simulate scan.nrrd out.nrrd --dose inf", "got inf"),
    "photons": ("simulate scan.nrrd out.nrrd --dose 0.5 --photons -1", "photons"),
    "kernel": ("simulate scan.nrrd out.nrrd --dose 0.5 --kernel B30", "invalid choice: 'B30'"),
    "nothing to measure noise in": ("simulate scan.nrrd out.nrrd --dose 0.5", "noise cannot be measured"),
    "no noise to measure": ("simulate plastic.nrrd out.nrrd --dose 0.5", "noise cannot be measured"),
    "simulated series": ("simulate series out --dose 0.5", "out names no file"),
    "other shapes": ("evaluate --reference scan.nrrd --test small.nrrd", "small.nrrd cannot be compared"),
    "too small for SSIM": ("evaluate --reference small.nrrd --test small.nrrd", "11 x 11"),
    "no reference": ("evaluate --test scan.nrrd", "--reference"),
    "window": ("evaluate --reference scan.nrrd --test scan.nrrd --window liver", "invalid choice: 'liver'"),
    "models without command": ("models", "COMMAND"),
    "model to import missing": ("models import nowhere.safetensors", "nowhere.safetensors"),
    "pickle to import": ("models import model.pt", "is a pickle"),
    "model to show": ("models show nobody", 'named "nobody"'),
    "cluster without features": ("cluster scan.nrrd out --model shift-30", "has no features"),
    "cluster into a file's place": ("cluster scan.nrrd old.nrrd --model shift-30", "old.nrrd is a file"),
    "cluster into someone's folder": ("cluster scan.nrrd papers --model shift-30", "choose another folder"),
    "one cluster": ("cluster scan.nrrd out --model shift-30 --clusters 1", "Choose 2 to 12 clusters"),
    "cluster with one model to compare": ("cluster scan.nrrd out --compare shift-30", "expected 2 arguments"),
    "cluster with a model and two": ("cluster scan.nrrd out --model a --compare a b", "not allowed with"),
    "cluster shows a slice that is not there": ("cluster scan.nrrd out --model shift-30 --slice 9", "1 to 3"),
    "demo into someone's folder": ("demo --model shift-30 --out papers", "choose another folder"),
    "demo of nothing": ("demo --model shift-30 --input nowhere.nrrd", "nowhere.nrrd does not exist"),
    "demo of a tiny scan": ("demo --model shift-30 --input small.nrrd", "5 x 4 pixels"),
    "demo's dose": ("demo --model shift-30 --input scan.nrrd --dose 3", "dose must be"),
}


@pytest.fixture
def a_workplace(tmp_path, a_file, a_series, monkeypatch) -> Path:
    """Good and bad files, in the working folder."""
    (tmp_path / "empty.nrrd").touch()
    (tmp_path / "cut.nrrd").write_bytes(a_file.read_bytes()[:-200])
    (tmp_path / "notes.txt").write_text("no CT")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "notes.txt").write_text("no CT")
    (tmp_path / "old.nrrd").write_text("precious")
    (tmp_path / "folder.nrrd").mkdir()
    torch.save({}, tmp_path / "model.pt")
    write_image(Volume(np.zeros((2, 5, 4), np.int16), Geometry()), tmp_path / "small.nrrd")
    write_image(Volume(np.full((1, 99, 99), 40, np.int16), Geometry()), tmp_path / "plastic.nrrd")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_costs_a_sentence(a_workplace, the_models, capsys, case):
    command, words = BAD_INPUT[case]
    before = files_in(a_workplace), files_in(the_models)
    assert cli.main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ascon: ") and words in err
    assert "Traceback" not in err and len(err) < 500
    assert err.rstrip().endswith((".", ")", "`", "image", "images"))
    assert (files_in(a_workplace), files_in(the_models)) == before


def test_errors_in_json(a_workplace, capsys):
    for command, words in (BAD_INPUT["input missing"], BAD_INPUT["unknown option"], BAD_INPUT["dose 0"]):
        code, lines = run_json(capsys, *command.split())
        assert code == 2
        assert lines == [{"event": "error", "message": lines[-1]["message"], "exit_code": 2}]
        assert words in lines[-1]["message"]
