"""`ascon denoise`: what it prints and writes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from command_fixtures import GEOMETRY, Shift, run_json, shifted
from dicom_fixtures import make_ct_series
from model_fixtures import a_card
from noise_fixtures import noise

import ASCONDenoiseLib
from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.imaging.noise import flat_soft_tissue_windows, noise_hu
from ASCONDenoiseLib.io.image_files import write_image
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.volume import Geometry, Volume
from ASCONDenoiseLib.models import files
from ASCONDenoiseLib.models.card import Scope, load_card
from ASCONDenoiseLib.models.files import DEFAULT_MODEL, find_model, load_network, save_model

SHIPPED = Path(ASCONDenoiseLib.__file__).parents[1] / "Resources" / "Models" / f"{DEFAULT_MODEL}.safetensors"


@pytest.mark.parametrize("name", ["out.nrrd", "out.nii.gz", "out.mha"])
def test_denoise_writes_what_the_output_rule_says_and_a_record(a_file, a_volume, tmp_path, the_models, capsys, name):
    out = tmp_path / name
    assert cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--strength", "0.5"]) == 0
    written = read_volume(out)
    np.testing.assert_array_equal(written.voxels, shifted(a_volume.voxels, -15))
    assert written.voxels.dtype == np.int16
    np.testing.assert_allclose(written.geometry.direction, GEOMETRY.direction, atol=1e-6)
    sha256 = hashlib.sha256((the_models / "shift-30.safetensors").read_bytes()).hexdigest()
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["model"] == "A test model" and record["model_version"] == "0.1"
    assert record["model_sha256"] == sha256
    assert (record["device"], record["precision"], record["strength"]) == ("cpu", "fp32", 0.5)
    assert record["ascon_version"] == ASCONDenoiseLib.__version__ and record["source"] == "scan.nrrd"
    assert record["file"] == name and record["file_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    line, err = capsys.readouterr()
    assert line.count("\n") == 1 and err == ""
    for fact in ("A test model 0.1", sha256[:12], "device cpu", "precision fp32", "strength 0.5", "3 slices in"):
        assert fact in line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["scan.nrrd", name, f"{name}.json"])


def test_denoise_of_dicom_writes_a_derived_series(a_series, tmp_path):
    assert cli.main(["denoise", str(a_series), str(tmp_path / "out"), "--model", "shift-30"]) == 0
    before, after = read_volume(a_series), read_volume(tmp_path / "out")
    np.testing.assert_array_equal(after.voxels, np.where(before.voxels <= -1024, before.voxels, after.voxels))
    inside = (before.voxels >= -970) & (before.voxels < 2000)
    np.testing.assert_array_equal(after.voxels[inside], before.voxels[inside] - 30)
    assert after.geometry == before.geometry
    header = pydicom.dcmread(tmp_path / "out" / "0001.dcm")
    card = load_card(find_model("shift-30"))
    for fact in ("A test model 0.1", card.sha256[:12], "device cpu", "precision fp32", "strength 1"):
        assert fact in header.DerivationDescription
    assert header.ContributingEquipmentSequence[-1].SoftwareVersions == ASCONDenoiseLib.__version__


def test_denoise_chooses_a_series(tmp_path, capsys):
    for uid, description in (("1.2.3", "first"), ("1.2.4", "second")):
        make_ct_series(tmp_path / "both" / uid, series_uid=uid, series_description=description, shape=(2, 12, 10))
    command = ["denoise", str(tmp_path / "both"), str(tmp_path / "out.nrrd"), "--model", "shift-30"]
    assert cli.main(command) == 2
    message = capsys.readouterr().err
    assert "1.2.3" in message and "1.2.4" in message and "second" in message
    assert cli.main([*command, "--series", "1.2.4"]) == 0
    assert json.loads((tmp_path / "out.nrrd.json").read_text())["source_series_uid"] == "1.2.4"


@pytest.mark.parametrize(
    ("options", "part", "said"),
    [
        (["half-noise"], 0.5, {"strength_target": "half-noise"}),
        (["normal-dose", "--dose", "0.36"], 0.6, {"strength_target": "normal-dose", "dose": 0.36}),
    ],
)
def test_a_strength_by_its_target_leaves_so_much_noise(tmp_path, options, part, said):
    y, x = np.mgrid[:96, :96]
    truth = 45 + 10 * np.sin(x / 20) + 8 * np.cos(y / 25)
    noisy = truth + noise((3, 96, 96), 40.0, seed=1, kernel=0.3)
    write_image(Volume(np.rint(noisy).astype(np.int16), GEOMETRY), tmp_path / "scan.nrrd")
    command = ["denoise", str(tmp_path / "scan.nrrd"), str(tmp_path / "out.nrrd"), "--model", str(SHIPPED)]
    assert cli.main([*command, "--strength", *options]) == 0
    before, after = (read_volume(tmp_path / name).voxels for name in ("scan.nrrd", "out.nrrd"))
    centres = flat_soft_tissue_windows(before, GEOMETRY.spacing_mm)
    sd_before, sd_after = (noise_hu(v, GEOMETRY.spacing_mm, centres=centres).sd_hu for v in (before, after))
    assert sd_after == pytest.approx(part * sd_before, rel=0.03)
    record = json.loads((tmp_path / "out.nrrd.json").read_text())
    assert 0.2 < record["strength"] < 1 and said.items() <= record.items()
    assert f"noise of {sd_before:.1f} HU became" in record["notes"][-1]


def test_the_normal_dose_needs_the_dose(a_file, tmp_path, capsys):
    assert cli.main(["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--strength", "normal-dose"]) == 2
    assert "the dose of this scan must be known, and no file says it" in capsys.readouterr().err


def test_strength_0_is_bit_identical(a_file, a_volume, tmp_path, capsys):
    out = tmp_path / "out.nrrd"
    assert cli.main(["denoise", str(a_file), str(out), "--model", "shift-30", "--strength", "0"]) == 0
    np.testing.assert_array_equal(read_volume(out).voxels, a_volume.voxels)
    assert "unchanged" in capsys.readouterr().out


def test_quiet_says_nothing(a_file, tmp_path, capsys):
    assert cli.main(["denoise", str(a_file), str(tmp_path / "out.nrrd"), "--model", "shift-30", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_denoise_in_json(a_file, tmp_path, capsys):
    code, lines = run_json(capsys, "denoise", a_file, tmp_path / "out.nrrd", "--model", "shift-30", "--batch", 2)
    assert code == 0
    assert lines[:-1] == [{"event": "progress", "done": k, "total": 3} for k in (1, 2, 3)]
    assert lines[-1]["event"] == "result" and lines[-1]["command"] == "denoise"
    assert lines[-1]["output"] == str(tmp_path / "out.nrrd") and lines[-1]["notes"] == []


def test_an_existing_file_is_overwritten_only_by_force(a_file, tmp_path, capsys):
    out = tmp_path / "out.nrrd"
    out.write_text("precious")
    command = ["denoise", str(a_file), str(out), "--model", "shift-30"]
    assert cli.main(command) == 2
    assert "--force" in capsys.readouterr().err and out.read_text() == "precious"
    assert cli.main([*command, "--force"]) == 0
    assert read_volume(out).voxels.shape == (3, 21, 18)
    out.unlink()  # its record is in the way as well: another volume's, for all we know
    assert cli.main(command) == 2
    assert "out.nrrd.json exists" in capsys.readouterr().err


def test_a_file_name_that_is_not_unicode_is_refused(tmp_path, capsys):
    """SimpleITK would abort the process."""
    odd = os.fsdecode(b"sc\xe4n.nrrd")
    assert cli.main(["denoise", str(tmp_path / odd), str(tmp_path / "out.nrrd"), "--model", "shift-30"]) == 2
    assert "not valid Unicode" in capsys.readouterr().err


@pytest.fixture
def a_model_for_thick_slices(an_identity_esau_net, tmp_path) -> Path:
    network, card = load_network(an_identity_esau_net)
    model = tmp_path / "thick.safetensors"
    save_model(network, replace(card, scope=Scope(slice_mm=(2.5, 5.0), sharp_kernels=False)), model)
    return model


def test_what_the_model_is_not_for_is_remarked_upon_and_done(a_model_for_thick_slices, tmp_path, capsys):
    voxels = np.full((2, 64, 64), 40, np.int16)
    voxels[:, :32] = -1000
    scan, out = tmp_path / "denoised.nrrd", tmp_path / "out.nrrd"
    write_image(Volume(voxels, Geometry(spacing_mm=(0.7, 0.7, 0.625))), scan)
    assert cli.main(["denoise", str(scan), str(out), "--model", str(a_model_for_thick_slices)]) == 0
    remarks = capsys.readouterr().err
    assert "has been denoised already" in remarks and "thinner than those that the model has seen" in remarks
    assert out.exists()


def test_standard_error_json_and_record_give_the_same_warnings(a_model_for_thick_slices, tmp_path, capsys):
    """Stored values that nobody rescaled, thin, cut from left to right; with --quiet, too."""
    stored = np.random.default_rng(0).integers(0, 2000, (3, 24, 24)).astype(np.int16)
    sagittal = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
    scan, said = tmp_path / "stored.nii.gz", []
    write_image(Volume(stored, Geometry((0.7, 0.7, 0.625), direction=sagittal)), scan)
    for number, quiet in enumerate(([], ["--quiet"])):
        out = tmp_path / f"out{number}.nrrd"
        command = ["denoise", str(scan), str(out), "--model", str(a_model_for_thick_slices), "--json", *quiet]
        assert cli.main(command) == 0
        text, remarks = capsys.readouterr()
        warnings = json.loads(text.splitlines()[-1])["warnings"]
        said.append(warnings)
        for words in ("hardly HU", "sagittal", "thinner"):
            assert sum(words in sentence for sentence in warnings) == 1, words
        assert json.loads((tmp_path / f"out{number}.nrrd.json").read_text())["warnings"] == warnings
        assert remarks == ("" if quiet else "".join(f"ascon: {sentence}\n" for sentence in warnings))
    assert said[0] == said[1]


def test_a_derived_series_tells_the_warnings_and_notes_too(tmp_path, capsys, the_models):
    make_ct_series(tmp_path / "series", shape=(4, 12, 16), edit=lambda dataset, k: setattr(dataset, "Modality", "CT"))
    extra = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    extra.save_as(tmp_path / "series" / "copy.dcm")  # an exact duplicate
    command = ["denoise", str(tmp_path / "series"), str(tmp_path / "denoised"), "--model", "shift-30", "--json"]
    assert cli.main(command) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = pydicom.dcmread(tmp_path / "denoised" / "0001.dcm").DerivationDescription
    assert result["notes"] and all(sentence in told for sentence in (*result["notes"], *result["warnings"]))


@pytest.mark.parametrize("output", ["out", "out.nrrd", "out.nii.gz"])
def test_what_can_be_refused_is_refused_before_the_network_runs(tmp_path, capsys, output):
    """The headers lack what every derived object needs, or the disk has no room."""

    def no_study(dataset, k):
        del dataset.StudyInstanceUID

    full = shutil.disk_usage(tmp_path)._replace(free=100)
    make_ct_series(tmp_path / "series", shape=(4, 24, 32), edit=no_study if output == "out" else None)
    with pytest.MonkeyPatch.context() as patch:
        if output != "out":
            patch.setattr(shutil, "disk_usage", lambda path: full)
        code, lines = run_json(capsys, "denoise", tmp_path / "series", tmp_path / output, "--model", "shift-30")
    assert code == (2 if output == "out" else 1)
    assert [line["event"] for line in lines] == ["error"] and not (tmp_path / output).exists()


def test_many_slices_without_a_gpu_are_denoised_by_the_fast_model(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "AUTOMATIC_FAST", True)
    for name, hu in ((DEFAULT_MODEL, 5), (files.FAST_MODEL, -30)):
        network = Shift()
        network.hu.data.fill_(hu)
        save_model(network, a_card(architecture="shift"), files.models_folder() / f"{name}.safetensors")
    for slices, model, expected in ((files.MANY_SLICES, None, 70), (4, None, 105), (4, "fast", 70), (4, "best", 105)):
        voxels = np.full((slices, 8, 8), 100, np.int16)
        voxels[:, 0] = -1024
        write_image(Volume(voxels, GEOMETRY), tmp_path / "scan.nrrd")
        command = ["denoise", str(tmp_path / "scan.nrrd"), str(tmp_path / "out.nrrd"), "--device", "cpu", "--force"]
        assert cli.main([*command, *(["--model", model] if model else [])]) == 0
        assert (read_volume(tmp_path / "out.nrrd").voxels[:, 1:] == expected).all()
        notes = json.loads((tmp_path / "out.nrrd.json").read_text())["notes"]
        taken = slices == files.MANY_SLICES
        assert any("The fast model was taken" in note for note in notes) == taken
        assert ("The fast model was taken" in capsys.readouterr().err) == taken
