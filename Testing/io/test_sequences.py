"""Sequences, several volumes of one place: 4-D NIfTI and phases of a DICOM series, in and out, each phase denoised."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_fixtures import edit_file, make_ct_series, make_enhanced_ct
from node_fixtures import SHIFT_HU, a_tiny_model

from ASCONDenoiseLib.batch.work import denoise_one
from ASCONDenoiseLib.commands import cli
from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume

PHASES = {
    "TemporalPositionIdentifier": (1, 2, 3),
    "NominalPercentageOfCardiacPhase": (5.0, 40.0, 75.0),
    "TriggerTime": ("90", "400", "1000"),  # as texts, 1000 would come first
    "AcquisitionNumber": (3, 7, 12),
}


@pytest.fixture(scope="module")
def a_model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    a_tiny_model(path)
    return path


def run_json(capsys, *arguments) -> tuple[int, list[dict]]:
    """Exit code and lines of `ascon ... --json`, whose notes go to stderr, too."""
    code = cli.main([*map(str, arguments), "--json"])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def some_phases() -> np.ndarray:
    """(phases, slices, rows, columns), HU."""
    return np.random.default_rng(0).integers(-900, 1900, (3, 4, 32, 24)).astype(np.int16)


def a_series(folder: Path, keyword: str) -> Path:
    """Three phases, the last one first in the order of the file names; InstanceNumber runs through all."""
    for number, (phase, value) in enumerate(zip(some_phases(), PHASES[keyword], strict=True)):
        files = make_ct_series(folder, voxels_hu=phase, series_uid="1.5", file_name=f"{9 - number}-{{:04d}}.dcm")
        for place, file in enumerate(files):
            edit_file(file, **{"InstanceNumber": 4 * number + place + 1, keyword: value})
    return folder


def a_nifti(path: Path, voxels: np.ndarray, step_s: float = 0.35) -> Path:
    image = nibabel.Nifti1Image(voxels.T, np.diag([0.7, 0.8, 2.5, 1]))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4], image.header["toffset"] = step_s, 1.25
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_4d_nifti_comes_back_as_one(suffix, a_model, tmp_path, capsys):
    source = a_nifti(tmp_path / f"in{suffix}", some_phases())
    code, lines = run_json(capsys, "denoise", source, tmp_path / f"out{suffix}", "--model", a_model)
    assert code == 0, lines
    before, after = nibabel.load(source), nibabel.load(tmp_path / f"out{suffix}")
    assert after.shape == (24, 32, 4, 3)
    assert np.array_equal(np.asanyarray(after.dataobj), np.asanyarray(before.dataobj) + SHIFT_HU)
    for field in ("pixdim", "xyzt_units", "toffset", "srow_x", "srow_y", "srow_z", "sform_code"):
        assert np.array_equal(before.header[field], after.header[field]), field


@pytest.mark.parametrize("keyword", PHASES)
def test_the_phases_of_a_dicom_series_come_back_in_one_series_with_their_tags(keyword, a_model, tmp_path, capsys):
    source = a_series(tmp_path / "in", keyword)
    volume = read_volume(source, sequence=True)
    assert (volume.phases, volume.slices) == (3, 4)
    assert np.array_equal(volume.voxels, some_phases().reshape(12, 32, 24))
    assert any(f"3 volumes of the same place, told apart by {keyword}" in note for note in volume.notes)
    code, lines = run_json(capsys, "denoise", source, tmp_path / "out", "--model", a_model)
    assert code == 0, lines
    sources = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, source.iterdir())}
    results = [pydicom.dcmread(file) for file in (tmp_path / "out").iterdir()]
    assert len(results) == 12 and len({one.SeriesInstanceUID for one in results}) == 1
    for one in results:
        its = sources.pop(one.SourceImageSequence[0].ReferencedSOPInstanceUID)  # each once
        assert np.array_equal(one.pixel_array, its.pixel_array + SHIFT_HU)
        for same in (keyword, "ImagePositionPatient", "InstanceNumber"):
            assert one[same].value == its[same].value, same
    again = read_volume(tmp_path / "out", sequence=True)
    assert again.phases == 3 and np.array_equal(again.voxels, volume.voxels + SHIFT_HU)


def test_the_phases_of_an_enhanced_file_become_images_that_can_be_told_apart(a_model, tmp_path, capsys):
    def of_two_phases(dataset: pydicom.Dataset) -> None:
        for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            groups.PlanePositionSequence = dataset.PerFrameFunctionalGroupsSequence[number % 4].PlanePositionSequence
            content = pydicom.Dataset()
            content.TemporalPositionIndex = 2 - number // 4  # the second phase comes first
            groups.FrameContentSequence = [content]

    hu = some_phases()[:2]
    file = make_enhanced_ct(tmp_path / "in.dcm", voxels_hu=hu.reshape(8, 32, 24), edit=of_two_phases)
    code, lines = run_json(capsys, "denoise", file, tmp_path / "out", "--model", a_model)
    assert code == 0, lines
    again = read_volume(tmp_path / "out", sequence=True)
    assert again.phases == 2 and np.array_equal(again.voxels, hu[::-1].reshape(8, 32, 24) + SHIFT_HU)


def test_phases_can_become_a_4d_nifti_and_no_nrrd(a_model, tmp_path, capsys):
    source = a_series(tmp_path / "in", "TriggerTime")
    assert run_json(capsys, "denoise", source, tmp_path / "out.nii.gz", "--model", a_model)[0] == 0
    assert np.array_equal(np.asanyarray(nibabel.load(tmp_path / "out.nii.gz").dataobj).T, some_phases() + SHIFT_HU)
    code, lines = run_json(capsys, "denoise", source, tmp_path / "out.nrrd", "--model", a_model)
    assert code == 2 and "sequence of 3 volumes" in lines[-1]["message"]


def test_what_is_no_whole_sequence_is_refused_as_before(tmp_path):
    source = a_series(tmp_path / "lacks", "TriggerTime")
    (source / "8-0002.dcm").unlink()
    with pytest.raises(InputError, match="two different images at one place"):
        read_volume(source, sequence=True)
    source = a_series(tmp_path / "kvp", "AcquisitionNumber")
    for file in source.glob("9-*"):
        edit_file(file, KVP="80")
    with pytest.raises(InputError, match="slices of different KVP"):
        read_volume(source, sequence=True)
    with pytest.raises(InputError, match="5-D data"):
        read_volume(a_nifti(tmp_path / "5.nii", np.zeros((2, 2, 2, 3, 3), np.int16)), sequence=True)


@pytest.mark.parametrize("command", ["cluster", "quality", "evaluate"])
def test_other_commands_take_one_volume(command, tmp_path, capsys):
    source = a_nifti(tmp_path / "in.nii", some_phases())
    arguments = {"cluster": [source, tmp_path / "o"], "quality": [source, source, "--output", tmp_path / "o"]}
    arguments["evaluate"] = ["--reference", source, "--test", source]
    code, lines = run_json(capsys, command, *arguments[command])
    assert code == 2, lines


def test_two_scans_that_lie_one_after_the_other_are_no_sequence(tmp_path):
    for number in range(2):
        origin = (0.0, 0.0, 10.0 * number)
        files = make_ct_series(
            tmp_path, shape=(4, 8, 8), origin_mm=origin, series_uid="1.5", file_name=f"{number}{{:03d}}.dcm"
        )
        for file in files:
            edit_file(file, AcquisitionNumber=number)
    volume = read_volume(tmp_path, sequence=True)
    assert (volume.phases, volume.slices) == (1, 8)


def test_a_batch_does_sequences_alike(a_model, tmp_path):
    series = a_series(tmp_path / "in", "TriggerTime")
    nifti = a_nifti(tmp_path / "in.nii.gz", some_phases())
    for source, result in ((series, tmp_path / "out"), (nifti, tmp_path / "out.nii.gz")):
        request = {"input": str(source), "output": str(result), "model": str(a_model), "strength": 1.0}
        row = denoise_one("one", request, str(tmp_path / "a.png"))
        assert row.state == "done" and row.slices == 12 and row.thumbnail, row.reason
        again = read_volume(result, sequence=True)
        assert again.phases == 3 and np.array_equal(again.voxels, some_phases().reshape(12, 32, 24) + SHIFT_HU)


def test_the_report_of_a_sequence_is_about_its_first_phase(a_model, tmp_path, capsys):
    source = a_nifti(tmp_path / "in.nii", some_phases())
    page = tmp_path / "page.html"
    code, lines = run_json(capsys, "denoise", source, tmp_path / "o.nii", "--model", a_model, "--report", page)
    assert code == 0, lines
    assert "in.nii, phase 1 of 3" in page.read_text()
