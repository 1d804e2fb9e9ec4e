"""New volumes like others, their geometry, and what is known of them."""

from __future__ import annotations

import time

import numpy as np
import pytest
from dicom_fixtures import make_ct_series
from scene_fixtures import OBLIQUE, a_result, a_volume, matrix_of, slicer, vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
from ASCONDenoiseLib.scene.display import show_as_difference, show_scale, window_of
from ASCONDenoiseLib.scene.volumes import (
    ijk_to_ras,
    instance_uids,
    make_like,
    new_volume_like,
    read_padding_hu,
    remove_volume,
    volume_facts,
)
from ASCONDenoiseLib.scene.voxels import image_array, new_image, volume_array


def test_new_volume_has_the_geometry_of_its_source_to_the_last_bit(a_scene):
    source = a_volume(a_scene, directions=OBLIQUE)
    source.SetSpacing(0.7421875, 0.7421875, 1 / 3)
    transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    source.SetAndObserveTransformNodeID(transform.GetID())
    result = a_result(a_scene, source)
    np.testing.assert_array_equal(matrix_of(result), matrix_of(source))
    assert ijk_to_ras(result) == matrix_of(source).tolist()
    assert result.GetSpacing() == source.GetSpacing() and result.GetOrigin() == source.GetOrigin()
    assert result.GetParentTransformNode() is transform
    assert volume_array(result).dtype == np.int16
    np.testing.assert_array_equal(volume_array(result), volume_array(source) + 1)
    assert result.GetImageData() is not source.GetImageData()


@pytest.mark.parametrize("automatic", [False, True])
def test_new_volume_is_shown_like_its_source_without_a_look_at_its_voxels(a_scene, automatic):
    source = a_volume(a_scene)
    colors = a_scene.AddNewNodeByClass("vtkMRMLColorTableNode", "iron")
    colors.SetTypeToIron()
    display = source.GetDisplayNode()
    display.SetAndObserveColorNodeID(colors.GetID())
    display.SetInterpolate(False)
    display.SetApplyThreshold(True)
    display.SetThreshold(-50, 300)
    display.SetAutoWindowLevel(automatic)
    display.SetAutoThreshold(automatic)
    window, thresholds = window_of(source), (display.GetLowerThreshold(), display.GetUpperThreshold())
    assert (window, thresholds) != ((-100, 200), (-50, 300)) if automatic else ((-100, 200), (-50, 300))
    shown = a_result(a_scene, source).GetDisplayNode()
    again = a_volume(a_scene, np.zeros((2, 2, 2), np.int16))
    make_like(again, source, new_image((4, 5, 6), np.int16))
    for copy in (shown, again.GetDisplayNode()):
        assert copy is not display
        assert (copy.GetWindowLevelMin(), copy.GetWindowLevelMax()) == window
        assert (copy.GetLowerThreshold(), copy.GetUpperThreshold()) == thresholds
        assert copy.GetColorNodeID() == colors.GetID()
        assert not copy.GetInterpolate() and copy.GetApplyThreshold()
        assert not copy.GetAutoWindowLevel() and not copy.GetAutoThreshold()
    assert bool(display.GetAutoWindowLevel()) is automatic


def test_a_volume_that_was_never_shown_gets_the_abdomen_window(a_scene):
    source = slicer.vtkMRMLScalarVolumeNode()
    source.SetAndObserveImageData(new_image((2, 3, 4), np.int16))
    a_scene.AddNode(source)
    assert source.GetDisplayNode() is None
    assert window_of(a_result(a_scene, source)) == DISPLAY_WINDOWS_HU["abdomen"]
    with pytest.raises(InputError, match="no display node"):
        window_of(source)


def test_new_volume_keeps_unit_but_not_the_dicom_instances_of_its_source(a_scene):
    source = a_volume(a_scene)
    unit = slicer.vtkCodedEntry()
    unit.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    source.SetVoxelValueUnits(unit)
    source.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    result = a_result(a_scene, source)
    assert result.GetVoxelValueUnits().GetCodeValue() == "[hnsf'U]"
    assert instance_uids(source) == ["1.2.3", "1.2.4"] and instance_uids(result) == []


def test_new_volume_enters_the_scene_complete_and_under_a_name_of_its_own(a_scene):
    source = a_volume(a_scene)
    seen = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_scene, _event, node):
        if node.IsA("vtkMRMLScalarVolumeNode"):
            seen.append((node.GetName(), node.GetDisplayNode() is not None, volume_array(node).max()))

    a_scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added)
    first, second = a_result(a_scene, source), a_result(a_scene, source)
    highest = volume_array(source).max() + 1
    assert seen == [(first.GetName(), True, highest), (second.GetName(), True, highest)]
    assert first.GetName() == "scan denoised" and second.GetName() == "scan denoised_1"


def test_new_volume_lies_behind_its_source_in_the_subject_hierarchy(a_scene):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene)
    study = hierarchy.CreateStudyItem(hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient"), "study")
    source, other = a_volume(a_scene), a_volume(a_scene, name="other")
    for node in (source, other):
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(study, node)
        hierarchy.SetItemParent(item, study)
    results = [a_result(a_scene, source, name) for name in ("A", "B")]
    children = vtk.vtkIdList()
    hierarchy.GetItemChildren(study, children)
    names = [hierarchy.GetItemName(children.GetId(i)) for i in range(children.GetNumberOfIds())]
    assert names == ["scan", "B", "A", "other"]
    assert [hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) for node in results] == [study, study]


def test_a_scene_without_a_subject_hierarchy_gets_none(a_scene):
    a_result(a_scene, a_volume(a_scene))
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLSubjectHierarchyNode") == 0


def test_an_existing_volume_becomes_like_the_source(a_scene):
    source = a_volume(a_scene, directions=OBLIQUE)
    transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    source.SetAndObserveTransformNodeID(transform.GetID())
    output = a_volume(a_scene, np.zeros((2, 2, 2), np.float32), name="mine")
    output.SetAttribute("DICOM.instanceUIDs", "9.9")
    output.GetDisplayNode().SetWindowLevelMinMax(0, 1)
    display, displays = output.GetDisplayNode(), a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeDisplayNode")
    image = new_image((4, 5, 6), np.int16)
    image_array(image)[...] = 5
    make_like(output, source, image)
    np.testing.assert_array_equal(matrix_of(output), matrix_of(source))
    assert output.GetParentTransformNode() is transform and output.GetName() == "mine"
    assert window_of(output) == (-100, 200) and instance_uids(output) == []
    assert (volume_array(output) == 5).all() and volume_array(output).shape == (4, 5, 6)
    assert output.GetDisplayNode() is display
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeDisplayNode") == displays
    with pytest.raises(InputError, match="both input and output"):
        make_like(source, source, image)


def test_a_removed_volume_leaves_nothing_behind(a_scene):
    source = a_volume(a_scene)
    before = a_scene.GetNumberOfNodes()
    result = a_result(a_scene, source)
    show_as_difference(result)
    show_scale(result)
    remove_volume(result)
    assert a_scene.GetNumberOfNodes() == before + 1  # the colours
    remove_volume(result)


def test_new_volume_takes_no_time_however_large(a_scene):
    """Looking at every voxel of this one, for its window, would take half a second."""
    source = a_volume(a_scene, np.zeros((200, 512, 512), np.int16))
    source.GetDisplayNode().SetAutoWindowLevel(True)
    started = time.monotonic()
    new_volume_like(a_scene, source, "large", new_image((200, 512, 512), np.int16))
    assert time.monotonic() - started < 0.1


def test_padding_is_read_from_the_first_dicom_file(a_scene, tmp_path):
    """The reader of DICOM has tests of values and signs; this one is of the way from the node to the header."""
    from pydicom import dcmread

    files = make_ct_series(tmp_path, padding=-2000)
    header = dcmread(files[0])
    node = a_volume(a_scene)
    assert read_padding_hu(node, lambda uid: str(files[0])) is None
    node.SetAttribute("DICOM.instanceUIDs", f"{header.SOPInstanceUID} 1.2.3")
    asked = []

    def file_for_instance(uid: str) -> str:
        asked.append(uid)
        return str(files[0])

    assert read_padding_hu(node, file_for_instance) == -3024
    assert asked == [header.SOPInstanceUID]
    assert read_padding_hu(node) is None
    assert read_padding_hu(node, lambda uid: "") is None
    assert read_padding_hu(node, lambda uid: str(tmp_path / "gone.dcm")) is None
    (tmp_path / "not.dcm").write_bytes(b"no DICOM")
    assert read_padding_hu(node, lambda uid: str(tmp_path / "not.dcm")) is None


def test_description_comes_from_the_dicom_database_the_hierarchy_and_the_name(a_scene):
    node = a_volume(a_scene, name="chest")
    assert volume_facts(node) == {"name": "chest"}
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert volume_facts(node) == {"name": "chest", "modality": "MR"}
    headers = {("1.2", "0008,0060"): "CT", ("1.2", "0018,1210"): "B40f", ("1.2", "0008,103E"): "Thorax"}
    node.SetAttribute("DICOM.instanceUIDs", "1.2 1.3")
    assert volume_facts(node, lambda uid, tag: headers.get((uid, tag), "")) == {
        "name": "chest",
        "modality": "CT",
        "kernel": "B40f",
        "series_description": "Thorax",
    }
