"""Every file of a folder is used, left out by a known rule, or named; what may be a lost slice stops the reading."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import edit_file, make_ct_series, make_enhanced_ct, some_voxels
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.reading import read_volume


def cut_to(length: int):
    return lambda file: file.write_bytes(file.read_bytes()[:length])


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def packed(file: Path) -> None:
    file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()


def half_copied(file: Path) -> None:
    file.rename(file.with_name(file.name + ".part"))
    cut_to(100)(file.with_name(file.name + ".part"))


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


LOST = {
    "cut before the magic word": (cut_to(100), ("{:04d}.dcm", "IM{:04d}", "1.2.840.{}", "slice.{:03d}", "{:04d}.img")),
    "cut after it": (cut_to(200), ("{:04d}.dcm", "IM{:04d}", "1.2.840.{}", "{:04d}.img")),
    "cut in the SOP class": (
        lambda file: file.write_bytes(
            file.read_bytes().partition(b"1.2.840.10008.5.1.4.1.1.2\x00\x08\x00\x18\x00")[0] + b"1.2.840.10008.5"
        ),
        ("{:04d}.dcm", "IM{:04d}"),
    ),
    "empty": (cut_to(0), ("{:04d}.dcm", "IM{:04d}", "1.2.840.{}", "{:04d}.img")),
    "zeros": (zeros, ("{:04d}.dcm", "IM{:04d}", "1.2.840.{}", "{:04d}.img")),
    "dangling link": (dangling, ("{:04d}.dcm", "IM{:04d}", "1.2.840.{}", "{:04d}.img")),
    "packed": (packed, ("{:04d}.dcm", "{:04d}.img")),
    "half copied": (half_copied, ("{:04d}.dcm", "{:04d}.img")),
}


@pytest.mark.parametrize(("case", "file_name"), [(case, name) for case, (_, names) in LOST.items() for name in names])
def test_a_file_that_may_be_a_lost_slice_stops_the_reading(a_folder, case, file_name):
    """The last one: the others would make an even stack without it."""
    files = make_ct_series(a_folder, shape=(6, 12, 10), file_name=file_name)
    spoil, _ = LOST[case]
    spoil(files[-1])
    with pytest.raises(InputError, match="is no DICOM file|is truncated or damaged|cannot be opened") as caught:
        read_volume(a_folder)
    assert str(files[-1]) in str(caught.value)


def test_what_is_no_dicom_but_no_slice_either_is_named(a_folder):
    make_ct_series(a_folder)
    (a_folder / "viewer.dat").write_bytes(bytes(range(256)))
    os.mkfifo(a_folder / "pipe.dcm")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(a_folder / "socket"))
    (a_folder / "gone.txt").symlink_to("nowhere")
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels())
    assert volume.notes == ("3 file(s) in ct are no DICOM and were left out: pipe.dcm, socket, viewer.dat.",)


def test_folders_behind_links_are_followed_once(tmp_path, a_folder):
    files = make_ct_series(tmp_path / "elsewhere", shape=(8, 6, 5))
    a_folder.mkdir()
    for file in files[:4]:
        shutil.move(file, a_folder)
    (a_folder / "rest").symlink_to(tmp_path / "elsewhere")
    (a_folder / "rest again").symlink_to(tmp_path / "elsewhere")
    (a_folder / "loop").symlink_to(a_folder)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path)
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels((8, 6, 5)))
    assert not volume.notes


def test_a_folder_that_cannot_be_opened_is_named(a_folder, monkeypatch):
    make_ct_series(a_folder)
    (a_folder / "closed").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"The folder .*closed cannot be opened: check its permissions"):
        read_volume(a_folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("file_name", ["{:04d}.dcm", "IM{:04d}"])
def test_slices_without_preamble_and_meta_information_are_read(a_folder, file_name, syntax):
    for file in make_ct_series(a_folder, file_name=file_name, transfer_syntax=syntax):
        content = file.read_bytes()
        file.write_bytes(content[content.index(b"\x08\x00\x05\x00") :])
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


# ---- what is given by itself -----------------------------------------------------------------------------------------


def zip_of_slices(tmp_path) -> Path:
    files = make_ct_series(tmp_path / "ct")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return tmp_path / "scan.zip"


@pytest.mark.parametrize("name", ["scan.zip", "scan", "scan.dcm"])
def test_an_archive_is_called_one(tmp_path, name):
    path = zip_of_slices(tmp_path).rename(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is no DICOM file but a ZIP archive: unpack it and give the folder"):
        read_volume(path)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\x1f\x8b\x08", "a file compressed by gzip: unpack it"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
        (b"%PDF-1.7", "a PDF document: take it away"),
        (b"NRRD0005\ntype: short", r"an NRRD file: give it by itself, with the suffix \.nrrd"),
        (b"<html><body>Not found", "a text: take it away"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, start, words):
    (tmp_path / "0001.dcm").write_bytes(start + b" " * 500)
    for path in (tmp_path, tmp_path / "0001.dcm"):
        with pytest.raises(InputError, match=rf"0001\.dcm is no DICOM file but {words}"):
            read_volume(path)


def test_a_folder_with_an_archive_or_a_volume_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    zip_of_slices(tmp_path).rename(tmp_path / "in" / "scan.zip")
    with pytest.raises(InputError, match=r"in holds no DICOM images: .* It holds scan\.zip, a ZIP archive: unpack it"):
        read_volume(tmp_path / "in")


@pytest.mark.parametrize("name", ["pipe", "pipe.nrrd", "pipe.nii.gz", "pipe.dcm"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is neither a file nor a folder"):
        read_volume(tmp_path / name)


# ---- pages, duplicates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edits",
    [
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER"]},
        {"ImageType": ["DERIVED", "SECONDARY"], "RescaleSlope": None},
        {"ImageType": None},
        {"Rows": 20, "Columns": 6},
    ],
    ids=str,
)
def test_a_page_of_the_series_is_left_out_and_named(a_folder, edits):
    uid = generate_uid()
    make_ct_series(a_folder, series_uid=uid)
    (page,) = make_ct_series(a_folder, shape=(1, 12, 10), series_uid=uid, file_name="page")
    edit_file(page, ImagePositionPatient=None, ImageOrientationPatient=None, **edits)
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels())
    assert volume.notes == ("1 image(s) of the series have no place in the stack and were left out: page.",)


def test_a_slice_that_lost_its_place_is_no_page(a_folder):
    edit_file(make_ct_series(a_folder)[3], ImagePositionPatient=None, ImageOrientationPatient=None)
    with pytest.raises(InputError, match=r"0004\.dcm has no valid ImageOrientationPatient"):
        read_volume(a_folder)


def test_duplicates_are_counted(a_folder):
    shutil.copy(make_ct_series(a_folder)[1], a_folder / "copy.dcm")
    assert read_volume(a_folder).notes == ("1 exact duplicate(s) of slices were left out.",)


def test_a_series_without_uid_is_one(a_folder):
    for file in make_ct_series(a_folder):
        edit_file(file, SeriesInstanceUID=None)
    volume = read_volume(a_folder)
    assert np.array_equal(volume.voxels, some_voxels()) and volume.source.series_uid == ""
    make_ct_series(a_folder / "other", series_uid="1.2.3")
    with pytest.raises(InputError, match=r"(?s)holds 2 CT series.*\n  \(no UID\)  CT  Abdomen"):
        read_volume(a_folder)
    assert read_volume(a_folder, "1.2.3").source.series_uid == "1.2.3"


@pytest.mark.parametrize(
    "edits", [{"Modality": "XT"}, {"SamplesPerPixel": 3}, {"PhotometricInterpretation": "PALETTE COLOR"}]
)
def test_a_slice_whose_header_denies_it_stops_the_reading(a_folder, edits):
    edit_file(make_ct_series(a_folder)[3], **edits)
    with pytest.raises(InputError, match=r"0004\.dcm looks like a slice of its series, but its header says otherwise"):
        read_volume(a_folder)


def test_a_ct_image_without_modality_is_one(a_folder):
    edit_file(make_ct_series(a_folder)[3], Modality=None)
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


@pytest.mark.parametrize("frames", [1, 4])
def test_a_transfer_syntax_that_is_wrong_about_the_vrs_is_seen_through(a_folder, frames):
    """pydicom alone would find the pixels four bytes beside."""
    make = make_ct_series(a_folder) if frames == 1 else [make_enhanced_ct(a_folder / "a.dcm")]
    for file in make:
        content = file.read_bytes()
        declared = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
        assert declared in content
        file.write_bytes(content.replace(declared, b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2\x00\x00\x00"))
    assert np.array_equal(read_volume(a_folder).voxels, some_voxels())


def test_a_malformed_number_of_frames_is_named_as_such(a_folder):
    file = make_ct_series(a_folder, edit=lambda dataset, _: setattr(dataset, "NumberOfFrames", 1))[2]
    content = file.read_bytes()
    file.write_bytes(content.replace(b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x02\x00x "))
    with pytest.raises(InputError, match=r"0003\.dcm has no valid NumberOfFrames"):
        read_volume(a_folder)
    pydicom.dcmread(file)
