"""Destinations of results: what they refuse before the work, what they write, what a failure leaves."""

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
from dicom_fixtures import make_ct_series, some_voxels

from ASCONDenoiseLib.errors import InputError, WriteError
from ASCONDenoiseLib.io import results as results_module
from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.io.reading import read_volume
from ASCONDenoiseLib.io.results import (
    SeriesFolder,
    VolumeFile,
    check_results_folder,
    destination,
    made_by,
    results_folder,
    write_results,
)
from ASCONDenoiseLib.io.volume import Geometry, Volume

RECORD = {
    "model": "m", "model_version": "1", "model_sha256": "ab" * 32, "device": "cpu", "precision": "fp32",
    "strength": 1.0, "seconds": 0.5, "notes": [],
}  # fmt: skip


@pytest.fixture
def a_volume() -> Volume:
    return Volume(some_voxels(), Geometry())


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.nrrd", VolumeFile),
        ("a.NII.GZ", VolumeFile),
        ("a.b.mha", VolumeFile),
        ("a", SeriesFolder),
        ("a.dcm", SeriesFolder),
    ],
)
def test_the_suffix_tells_a_file_from_a_folder(name, kind):
    assert destination(name) == kind(Path(name))


def test_a_file_and_its_record(tmp_path, a_volume):
    record = made_by("denoise", a_volume, "scan.mha") | RECORD
    files = destination(tmp_path / "a.nrrd").write(a_volume, record)
    assert files == [tmp_path / "a.nrrd", tmp_path / "a.nrrd.json"] and sorted(tmp_path.iterdir()) == files
    assert np.array_equal(read_volume(files[0]).voxels, a_volume.voxels)
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    assert json.loads(files[1].read_text()) == record | {"file": "a.nrrd", "file_sha256": digest}


@pytest.mark.parametrize("failing", [(results_module, "write_image"), (json, "dumps")], ids=["volume", "record"])
def test_a_failure_leaves_file_and_record_as_they_were(tmp_path, monkeypatch, a_volume, failing):
    file = destination(tmp_path / "a.nrrd")
    file.write(a_volume, RECORD)
    before = files_in(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*failing, full)
    with pytest.raises(WriteError, match=r"a\.nrrd could not be written \(No space left"):
        file.write(replace(a_volume, voxels=a_volume.voxels + np.int16(1)), RECORD)
    assert files_in(tmp_path) == before


def test_of_two_that_write_one_file_the_later_is_refused_without_force(tmp_path, a_volume):
    file = destination(tmp_path / "a.nrrd")
    file.check(tmp_path / "scan.mha")
    file.write(a_volume, RECORD)  # the other one, which was quicker
    before = files_in(tmp_path)
    other = replace(a_volume, voxels=a_volume.voxels + np.int16(1))
    with pytest.raises(InputError, match="exists by now"):
        file.write(other, RECORD)
    assert files_in(tmp_path) == before
    (tmp_path / "a.nrrd").unlink()  # the record alone
    with pytest.raises(InputError, match=r"a\.nrrd\.json exists by now"):
        file.write(other, RECORD)
    assert os.listdir(tmp_path) == ["a.nrrd.json"]
    file.write(other, RECORD, force=True)
    assert np.array_equal(read_volume(tmp_path / "a.nrrd").voxels, other.voxels)


@pytest.mark.parametrize(("name", "needed_mb"), [("a.nii", 1), ("a.nrrd", 0), ("a.nii.gz", 0)])
def test_room_on_the_disk_is_asked_for_before_the_work(tmp_path, monkeypatch, name, needed_mb):
    free = 200_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
    volume = Volume(np.zeros((8, 250, 256), np.int16), Geometry())
    if needed_mb:
        with pytest.raises(WriteError, match=r"a\.nii does not fit on its disk: it needs 1 MB and 0 MB are free"):
            destination(tmp_path / name).check_volume(volume, "scan.mha")
    else:
        destination(tmp_path / name).check_volume(volume, "scan.mha")


@pytest.mark.parametrize("name", ["out.nrrd.gz", "out.mhd", "out.IMG", "out.zip", "out.tif", "out.nii.bz2", "out.dcm"])
def test_the_name_of_a_file_that_cannot_be_written_is_no_name_of_a_folder(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name} cannot be written: name a file that ends in \.nrrd, .* a folder"):
        destination(tmp_path / name).check(tmp_path)


@pytest.mark.parametrize("name", ["L" * 252 + ".mha", "L" * 247 + ".nrrd", "L" * 256])
def test_a_name_without_room_for_the_record_is_refused_before_the_work(tmp_path, name):
    with pytest.raises(InputError, match="too long: it has 25[67] bytes .* Choose a shorter one"):
        destination(tmp_path / name).check(tmp_path)


def test_a_source_whose_name_is_no_text_is_recorded(tmp_path, a_volume):
    name = os.fsdecode(b"scan-\xe9.mha")
    destination(tmp_path / "a.mha").write(a_volume, made_by("denoise", a_volume, name) | RECORD)
    assert json.loads((tmp_path / "a.mha.json").read_text())["source"] == name


def test_a_series_needs_headers_to_derive_from(tmp_path, a_volume):
    folder = destination(tmp_path / "out")
    for refuse in (
        lambda: folder.check_volume(a_volume, "scan.mha"),
        lambda: folder.write(a_volume, made_by("denoise", a_volume, "scan.mha") | RECORD),
    ):
        with pytest.raises(InputError, match=r"scan\.mha is not DICOM and has no header to derive one from"):
            refuse()
    make_ct_series(tmp_path / "ct")
    volume = read_series(tmp_path / "ct")
    folder.check_volume(volume, "ct")
    assert len(folder.write(volume, made_by("denoise", volume, "ct") | RECORD)) == 4


def test_what_came_into_a_folder_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    make_ct_series(tmp_path / "ct")
    volume = read_series(tmp_path / "ct")
    folder = destination(tmp_path / "out")
    folder.check(tmp_path / "ct")
    write = pydicom.dcmwrite

    def put_something_there_and_write(*args, **kwargs):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "mine.txt").write_text("mine")
        write(*args, **kwargs)

    monkeypatch.setattr(pydicom, "dcmwrite", put_something_there_and_write)
    with pytest.raises(InputError, match="out exists by now"):
        folder.write(volume, made_by("denoise", volume, "ct") | RECORD)
    assert files_in(tmp_path / "out") == {"mine.txt": b"mine"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "out"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with results_folder(tmp_path / "out", "demo") as folder:
        write_results(folder, "demo", {"precious": True})
    rename, before = os.replace, files_in(tmp_path)

    def not_the_new_one(source, target):
        if Path(source).suffix == ".partial":
            raise PermissionError(13, "no")
        rename(source, target)

    monkeypatch.setattr(os, "replace", not_the_new_one)
    with pytest.raises(RuntimeError, match="could not be written"), results_folder(tmp_path / "out", "demo"):
        pass
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [("file", "is a file"), ("a/b", "does not exist"), ("full", "holds x.txt"), ("clusters", "holds results.json")],
)
def test_folders_that_are_refused(tmp_path, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.txt").touch()
    with results_folder(tmp_path / "clusters", "cluster") as folder:
        write_results(folder, "cluster", {})
    with pytest.raises(InputError, match=words):
        check_results_folder(tmp_path / name, "demo")
