"""The application's scene, its DICOM database, and the reading and writing of volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from dicom_fixtures import make_ct_series

from standin.started import a_volume, ctk, slicer


def test_a_cleared_scene_has_a_subject_hierarchy_again() -> None:
    for _again in range(2):
        node = a_volume()
        assert slicer.mrmlScene.GetSubjectHierarchyNode().GetItemByDataNode(node)
        slicer.mrmlScene.Clear()
        assert slicer.mrmlScene.GetSubjectHierarchyNode() is not None


def test_the_dicom_database_reads_single_values(tmp_path: Path) -> None:
    database = ctk.ctkDICOMDatabase()
    (file,) = make_ct_series(tmp_path, shape=(1, 4, 4), series_description="Thorax")
    database.insert(str(file))
    uid = pydicom.dcmread(file).SOPInstanceUID
    assert database.fileForInstance(uid) == str(file)
    assert database.instanceValue(uid, "0008,103E") == "Thorax"
    assert database.instanceValue(uid, "0008,0060") == "CT"
    assert database.instanceValue(uid, "0020,0037").count("\\") == 5
    assert database.instanceValue(uid, "0018,9999") == database.instanceValue("1.2.3", "0008,0060") == ""


def test_volumes_are_read_and_written_by_slicers_own_code(tmp_path: Path) -> None:
    path, voxels = tmp_path / "ct.nrrd", np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    node = a_volume()
    slicer.util.updateVolumeFromArray(node, voxels)
    assert node.AddDefaultStorageNode()
    node.GetStorageNode().SetFileName(str(path))
    assert node.GetStorageNode().WriteData(node)
    loaded = slicer.util.loadVolume(str(path), {"name": "again", "show": False})
    assert loaded.GetName() == "again"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(loaded), voxels)
