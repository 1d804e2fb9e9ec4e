"""The worker's job that writes a derived DICOM series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from child_process import saved
from dicom_fixtures import make_concatenation, make_ct_series

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.io.dicom_reader import read_series
from ASCONDenoiseLib.worker import export


def ijk_to_ras(volume) -> list[list[float]]:
    matrix = np.eye(4)
    geometry = volume.geometry
    matrix[:3, :3] = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    matrix[:3, 3] = geometry.origin_mm
    return (np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix).tolist()


@pytest.fixture
def a_series(tmp_path) -> tuple[list[Path], Any]:
    """Files of an oblique series and the volume that they make."""
    direction = (0.8, 0.0, 0.6, 0.0, 1.0, 0.0, -0.6, 0.0, 0.8)
    files = make_ct_series(tmp_path / "source", shape=(4, 12, 10), direction=direction)
    return files, read_series(tmp_path / "source")


def test_a_series_is_written_that_is_derived_from_the_source_slice_by_slice(a_worker, tmp_path, a_series):
    files, source = a_series
    voxels = source.voxels + np.int16(7)
    answer = a_worker.result(
        "export",
        input=saved(tmp_path, voxels),
        files=[str(file) for file in (files[2], files[0], files[3], files[1])],  # as a database might give them
        ijk_to_ras=ijk_to_ras(source),
        folder=str(tmp_path / "derived"),
        description="Denoised by a test",
    )
    assert (answer["folder"], answer["files"]) == (str(tmp_path / "derived"), 4)
    derived = read_series(tmp_path / "derived")
    np.testing.assert_array_equal(derived.voxels, voxels)
    assert derived.geometry.origin_mm == pytest.approx(source.geometry.origin_mm)
    from pydicom import dcmread

    for file, original in zip(sorted((tmp_path / "derived").iterdir()), files, strict=True):
        header, own = dcmread(file), dcmread(original)
        assert header.SourceImageSequence[0].ReferencedSOPInstanceUID == own.SOPInstanceUID
        assert header.ImagePositionPatient == own.ImagePositionPatient
        assert header.DerivationDescription == "Denoised by a test"
    assert not list(tmp_path.glob(".*"))


def test_a_series_is_complete_or_not_there(a_worker, tmp_path, a_series):
    files, source = a_series
    request = {
        "input": saved(tmp_path, source.voxels),
        "files": [str(file) for file in files],
        "ijk_to_ras": ijk_to_ras(source),
        "folder": str(tmp_path / "derived"),
        "description": "Denoised by a test",
    }
    shifted = np.array(request["ijk_to_ras"])
    shifted[2, 3] += 5
    for change, words in (
        ({"files": []}, "not loaded from DICOM"),
        ({"files": [*request["files"][:3], ""]}, "1 of the 4 DICOM files that the LDCT came from are gone"),
        ({"files": request["files"][:3]}, "1 other files of the LDCT's series lie beside"),
        ({"ijk_to_ras": shifted.tolist()}, "ImagePositionPatient of slice 1"),
        ({"ijk_to_ras": [[1, 2], [3, 4]]}, "4 rows of 4 numbers"),
        ({"folder": str(tmp_path / "source")}, "not an empty folder"),
    ):
        assert words in a_worker.error("export", **request | change)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "source"]
    (tmp_path / "derived").mkdir()
    assert a_worker.result("export", **request)["files"] == 4


@pytest.mark.parametrize("downwards", [False, True])
def test_a_concatenation_is_a_source_too(tmp_path, downwards):
    """One volume in several multi-frame files, whose own headers tell no place."""
    parts = make_concatenation(tmp_path / "source")
    volume = read_series(tmp_path / "source")
    turned = np.diag([1.0, 1.0, -1.0 if downwards else 1.0, 1.0])
    geometry = export._geometry(np.array(ijk_to_ras(volume)) @ turned)
    source = export._source_series(parts[::-1], geometry, len(volume.voxels))
    step = -1 if downwards else 1
    assert source.files == volume.source.files[::step] and source.frames == volume.source.frames[::step]
    assert source.series_uid == volume.source.series_uid


def test_a_concatenation_in_two_folders_is_named(tmp_path):
    parts = make_concatenation(tmp_path / "source")
    geometry = read_series(tmp_path / "source").geometry
    (tmp_path / "other").mkdir()
    moved = parts[1].rename(tmp_path / "other" / "2.dcm")
    with pytest.raises(InputError, match="2 multi-frame files in 2 folders. Copy them into one folder"):
        export._source_series([parts[0], moved], geometry, 6)
