"""Destinations of results: what they refuse before the work, what they write, what a failure leaves."""

from __future__ import annotations

import hashlib
import json
import os
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
    with pytest.raises(WriteError):
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
