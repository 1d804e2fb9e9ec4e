"""Nodes of a real MRML scene: voxels, new volumes, windows, views, tables. No application, no window."""

from __future__ import annotations

import gc
import time
import weakref
from xml.etree import ElementTree

import numpy as np
import pytest

slicer = pytest.importorskip("slicer", reason="needs slicer-core, or Slicer itself")
vtk = pytest.importorskip("vtk")

from dicom_fixtures import make_ct_series  # noqa: E402

from ASCONDenoiseLib import __version__  # noqa: E402
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU  # noqa: E402
from ASCONDenoiseLib.imaging.output_rule import blend  # noqa: E402
from ASCONDenoiseLib.scene import mrml  # noqa: E402

OBLIQUE = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""Columns: unit axes of i, j and k in RAS; a rotation."""


@pytest.fixture
def a_scene():
    scene = slicer.vtkMRMLScene()
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    yield scene
    scene.Clear(1)


def a_volume(scene, voxels: np.ndarray | None = None, name: str = "scan", directions=((1, 0, 0), (0, 1, 0), (0, 0, 1))):
    """An int16 volume of 4 x 5 x 6 (slices, rows, columns) with spacing 0.7, 0.7, 2.5 mm, or these voxels."""
    if voxels is None:
        voxels = np.random.default_rng(1).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    image = mrml.new_image(voxels.shape, voxels.dtype)
    mrml.image_array(image)[...] = voxels
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(name)
    node.SetIJKToRASDirections(*np.asarray(directions, float).ravel())
    node.SetSpacing(0.7, 0.7, 2.5)
    node.SetOrigin(-12.3, 45.6, 78.9)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(-100, 200)
    return node


def ijk_to_ras(node) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])


# ---- voxels


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32", "float32", "float64"])
def test_voxels_are_a_view_in_slices_rows_columns(a_scene, dtype):
    voxels = np.arange(60).reshape(3, 4, 5).astype(dtype)
    node = a_volume(a_scene, voxels)
    array = mrml.volume_array(node)
    assert array.dtype == voxels.dtype
    np.testing.assert_array_equal(array, voxels)
    assert node.GetImageData().GetScalarComponentAsDouble(4, 2, 1, 0) == voxels[1, 2, 4]
    array[1, 2, 4] = 99
    assert node.GetImageData().GetScalarComponentAsDouble(4, 2, 1, 0) == 99


def test_voxels_outlive_their_node_and_scene(a_scene):
    node = a_volume(a_scene)
    array = mrml.volume_array(node)
    before = array.copy()
    a_scene.RemoveNode(node)
    a_scene.Clear(1)
    del node
    np.testing.assert_array_equal(array, before)


def test_nodes_without_a_ct_volume_are_refused(a_scene):
    empty = a_scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    with pytest.raises(mrml.NodeError, match='"empty" holds no image'):
        mrml.volume_array(empty)
    labels = a_scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    labels.SetAndObserveImageData(mrml.new_image((2, 3, 4), np.int16))
    colour = a_scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colour")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 3, 2)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    for node in (labels, colour):
        with pytest.raises(mrml.NodeError, match=f'"{node.GetName()}" is a label map or a colour image'):
            mrml.volume_array(node)


def test_writing_to_the_view_reaches_what_shows_it(a_scene):
    """A reslice, as slice views have one, is up to date after `voxels_modified`, and was not before."""
    node = a_volume(a_scene, np.zeros((2, 8, 8), np.int16))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputConnection(node.GetImageDataConnection())
    reslice.Update()
    events = []
    node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: events.append("modified"))
    mrml.volume_array(node)[...] = 7
    reslice.Update()
    assert mrml.image_array(reslice.GetOutput()).max() == 0
    mrml.voxels_modified(node)
    reslice.Update()
    assert mrml.image_array(reslice.GetOutput()).min() == 7
    assert events and node.GetModifiedSinceRead()


# ---- in pieces


def test_a_large_volume_is_copied_in_steps_that_keep_the_main_thread_for_little_time(tmp_path):
    """64 MB out to a file and back; a step that took 0.2 s would fail here by far."""
    voxels = np.resize(np.arange(-1000, 1000, dtype=np.int16), (128, 512, 512))
    target = np.empty_like(voxels)
    for work in (
        mrml.write_in_pieces(voxels, tmp_path / "in.npy"),
        mrml.copy_in_pieces(voxels, target),
    ):
        longest, started, done = 0.0, time.monotonic(), []
        for n in work:
            longest = max(longest, time.monotonic() - started)
            done.append(n)
            started = time.monotonic()
        assert longest < 0.2
        assert done == sorted(set(done)) and done[-1] == len(voxels)
    np.testing.assert_array_equal(target, voxels)
    np.testing.assert_array_equal(np.load(tmp_path / "in.npy", mmap_mode="r"), voxels)


def test_each_step_does_at_least_one_slice_and_time_between_steps_does_not_count():
    voxels = np.arange(12, dtype=np.int16).reshape(3, 2, 2)
    target = np.zeros_like(voxels)
    work = mrml.copy_in_pieces(voxels, target, budget_s=0)
    assert next(work) == 1
    np.testing.assert_array_equal(target, [voxels[0], np.zeros((2, 2)), np.zeros((2, 2))])
    assert list(work) == [2, 3]
    np.testing.assert_array_equal(target, voxels)
    work = mrml.copy_in_pieces(voxels, target, budget_s=0.5)
    assert list(work) == [3]


def test_only_the_slices_asked_for_are_copied():
    voxels = np.arange(16, dtype=np.int16).reshape(4, 2, 2)
    target = np.full_like(voxels, -1)
    assert list(mrml.copy_in_pieces(voxels, target, [3, 1])) == [2]
    np.testing.assert_array_equal(target[[1, 3]], voxels[[1, 3]])
    assert (target[[0, 2]] == -1).all()


def test_shown_slices_come_first():
    assert mrml.shown_first(5, [3, 1, 7, -1, 3]) == [1, 3, 0, 2, 4]


def test_volumes_of_different_size_are_refused():
    with pytest.raises(mrml.NodeError, match="differ in size"):
        mrml.copy_in_pieces(np.zeros((2, 3, 4)), np.zeros((2, 3, 5)))


@pytest.mark.parametrize("strength", [0.0, 0.37, 1.0])
def test_shown_slices_are_blended_at_once_and_the_rest_in_pieces(strength):
    rng = np.random.default_rng(2)
    voxels, denoised = rng.integers(-1000, 2000, (2, 4, 8, 8)).astype(np.int16)
    expected = np.rint(voxels + strength * (denoised.astype(float) - voxels)).astype(np.int16)
    target = denoised.copy()
    mrml.blend_slices(voxels, denoised, target, strength, [2])
    np.testing.assert_array_equal(target[2], expected[2])
    np.testing.assert_array_equal(target[[0, 1, 3]], denoised[[0, 1, 3]])
    for _ in mrml.blend_in_pieces(voxels, denoised, target, strength, mrml.shown_first(4, [2]), budget_s=0):
        pass
    np.testing.assert_array_equal(target, expected)
    np.testing.assert_array_equal(target, blend(voxels, denoised, strength))


@pytest.mark.parametrize(
    ("dtype", "kept"), [("int16", "int16"), ("uint8", "int16"), ("int32", "float32"), ("float32", "float32")]
)
def test_differences_keep_their_sign_and_do_not_wrap_round(dtype, kept):
    first, second = np.array([[[5, 100, 0]]], dtype), np.array([[[100, 5, 0]]], dtype)
    assert mrml.difference_dtype(first) == kept
    target = np.empty(first.shape, mrml.difference_dtype(first))
    assert list(mrml.subtract_in_pieces(first, second, target)) == [1]
    assert target.tolist() == [[[-95, 95, 0]]]


def test_differences_beyond_int16_are_clipped():
    first, second = np.array([[[32767, -32768]]], np.int16), np.array([[[-32768, 32767]]], np.int16)
    target = np.empty(first.shape, np.int16)
    list(mrml.subtract_in_pieces(first, second, target))
    assert target.tolist() == [[[32767, -32768]]]


# ---- a volume like another


def a_result(scene, source, name="scan denoised"):
    voxels = mrml.volume_array(source)
    image = mrml.new_image(voxels.shape, voxels.dtype)
    list(mrml.copy_in_pieces(voxels + 1, mrml.image_array(image)))
    return mrml.new_volume_like(scene, source, name, image)


def test_new_volume_has_the_geometry_of_its_source_to_the_last_bit(a_scene):
    source = a_volume(a_scene, directions=OBLIQUE)
    source.SetSpacing(0.7421875, 0.7421875, 1 / 3)
    transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    source.SetAndObserveTransformNodeID(transform.GetID())
    result = a_result(a_scene, source)
    np.testing.assert_array_equal(ijk_to_ras(result), ijk_to_ras(source))
    assert mrml.ijk_to_ras(result) == ijk_to_ras(source).tolist()
    assert result.GetSpacing() == source.GetSpacing() and result.GetOrigin() == source.GetOrigin()
    assert result.GetParentTransformNode() is transform
    assert mrml.volume_array(result).dtype == np.int16
    np.testing.assert_array_equal(mrml.volume_array(result), mrml.volume_array(source) + 1)
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
    window, thresholds = mrml.window_of(source), (display.GetLowerThreshold(), display.GetUpperThreshold())
    assert (window, thresholds) != ((-100, 200), (-50, 300)) if automatic else ((-100, 200), (-50, 300))
    shown = a_result(a_scene, source).GetDisplayNode()
    again = a_volume(a_scene, np.zeros((2, 2, 2), np.int16))
    mrml.make_like(again, source, mrml.new_image((4, 5, 6), np.int16))
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
    source.SetAndObserveImageData(mrml.new_image((2, 3, 4), np.int16))
    a_scene.AddNode(source)
    assert source.GetDisplayNode() is None
    assert mrml.window_of(a_result(a_scene, source)) == DISPLAY_WINDOWS_HU["abdomen"]
    with pytest.raises(mrml.NodeError, match="no display node"):
        mrml.window_of(source)


def test_new_volume_keeps_unit_but_not_the_dicom_instances_of_its_source(a_scene):
    source = a_volume(a_scene)
    unit = slicer.vtkCodedEntry()
    unit.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    source.SetVoxelValueUnits(unit)
    source.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    result = a_result(a_scene, source)
    assert result.GetVoxelValueUnits().GetCodeValue() == "[hnsf'U]"
    assert mrml.instance_uids(source) == ["1.2.3", "1.2.4"] and mrml.instance_uids(result) == []


def test_new_volume_enters_the_scene_complete_and_under_a_name_of_its_own(a_scene):
    source = a_volume(a_scene)
    seen = []

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(_scene, _event, node):
        if node.IsA("vtkMRMLScalarVolumeNode"):
            seen.append((node.GetName(), node.GetDisplayNode() is not None, mrml.volume_array(node).max()))

    a_scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, added)
    first, second = a_result(a_scene, source), a_result(a_scene, source)
    highest = mrml.volume_array(source).max() + 1
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
    image = mrml.new_image((4, 5, 6), np.int16)
    mrml.image_array(image)[...] = 5
    mrml.make_like(output, source, image)
    np.testing.assert_array_equal(ijk_to_ras(output), ijk_to_ras(source))
    assert output.GetParentTransformNode() is transform and output.GetName() == "mine"
    assert mrml.window_of(output) == (-100, 200) and mrml.instance_uids(output) == []
    assert (mrml.volume_array(output) == 5).all() and mrml.volume_array(output).shape == (4, 5, 6)
    assert output.GetDisplayNode() is display
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeDisplayNode") == displays
    with pytest.raises(mrml.NodeError, match="both input and output"):
        mrml.make_like(source, source, image)


def test_a_removed_volume_leaves_nothing_behind(a_scene):
    source = a_volume(a_scene)
    before = a_scene.GetNumberOfNodes()
    result = a_result(a_scene, source)
    mrml.show_as_difference(result)
    mrml.show_scale(result)
    mrml.remove_volume(result)
    assert a_scene.GetNumberOfNodes() == before + 1  # the colours
    mrml.remove_volume(result)


def test_new_volume_takes_no_time_however_large(a_scene):
    """Looking at every voxel of this one, for its window, would take half a second."""
    source = a_volume(a_scene, np.zeros((200, 512, 512), np.int16))
    source.GetDisplayNode().SetAutoWindowLevel(True)
    started = time.monotonic()
    mrml.new_volume_like(a_scene, source, "large", mrml.new_image((200, 512, 512), np.int16))
    assert time.monotonic() - started < 0.1


# ---- provenance


RESULT = {
    "id": 4,
    "event": "result",
    "device": "cuda:0 NVIDIA H100",
    "precision": "fp32",
    "strength": 0.75,
    "seconds": 12.3456,
    "notes": ["out of memory: batch halved to 2", "another"],
    "model": {"name": "ASCON", "version": "0.1", "sha256": "ab" * 32, "path": "somewhere/model.safetensors"},
    "times": {"total": 13.0},
}


def test_provenance_says_how_a_volume_came_about_and_is_saved_with_the_scene(a_scene, tmp_path):
    source = a_volume(a_scene)
    result = a_result(a_scene, source)
    mrml.set_provenance(result, source, RESULT)
    found = mrml.provenance(result)
    created = found.pop("ASCON.Created")
    assert created[:2] == "20" and "T" in created
    assert found.pop("ASCON.SoftwareVersion")
    assert found == {
        "ASCON.Device": "cuda:0 NVIDIA H100",
        "ASCON.Precision": "fp32",
        "ASCON.Strength": "0.75",
        "ASCON.Seconds": "12.35",
        "ASCON.Notes": "out of memory: batch halved to 2 another",
        "ASCON.ModelName": "ASCON",
        "ASCON.ModelVersion": "0.1",
        "ASCON.ModelSha256": "ab" * 32,
    }
    assert mrml.describe(result) == (
        f"Denoised by ASCON {__version__}: ASCON 0.1 (sha256 {'ab' * 32}), device cuda:0 NVIDIA H100, precision fp32, "
        "strength 0.75, out of memory: batch halved to 2 another"
    )
    assert mrml.describe(source) == f"Processed by ASCON {__version__}"
    assert result.GetNodeReference(mrml.INPUT_ROLE) is source
    assert mrml.provenance(source) == {}
    mrml.set_strength(result, 0.5)
    assert mrml.provenance(result)["ASCON.Strength"] == "0.5"

    a_scene.SetURL(str(tmp_path / "scene.mrml"))
    assert a_scene.Commit()
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    loaded = again.GetFirstNodeByName("scan denoised")
    assert mrml.provenance(loaded) == mrml.provenance(result)
    assert loaded.GetNodeReference(mrml.INPUT_ROLE).GetName() == "scan"


def test_provenance_of_a_volume_that_is_written_again_is_that_of_the_last_time(a_scene):
    source, output = a_volume(a_scene), a_volume(a_scene, name="mine")
    mrml.set_provenance(output, source, RESULT)
    mrml.set_provenance(output, source, {"dose": 0.25})
    assert set(mrml.provenance(output)) == {"ASCON.Created", "ASCON.SoftwareVersion", "ASCON.Dose"}
    mrml.make_like(output, source, mrml.new_image((4, 5, 6), np.int16))
    assert mrml.provenance(output) == {}


# ---- padding


def test_padding_is_read_from_the_first_dicom_file(a_scene, tmp_path):
    """Skipped values and signs are dicom.py's affair; here it is the way from the node to the header."""
    from pydicom import dcmread

    files = make_ct_series(tmp_path, padding=-2000)
    header = dcmread(files[0])
    node = a_volume(a_scene)
    assert mrml.padding_hu(node, lambda uid: str(files[0])) is None
    node.SetAttribute("DICOM.instanceUIDs", f"{header.SOPInstanceUID} 1.2.3")
    asked = []

    def file_for_instance(uid: str) -> str:
        asked.append(uid)
        return str(files[0])

    assert mrml.padding_hu(node, file_for_instance) == -3024
    assert asked == [header.SOPInstanceUID]
    assert mrml.padding_hu(node) is None
    assert mrml.padding_hu(node, lambda uid: "") is None
    assert mrml.padding_hu(node, lambda uid: str(tmp_path / "gone.dcm")) is None
    (tmp_path / "not.dcm").write_bytes(b"no DICOM")
    assert mrml.padding_hu(node, lambda uid: str(tmp_path / "not.dcm")) is None


# ---- windows


def test_a_preset_is_applied_to_all(a_scene):
    volumes = [a_volume(a_scene, name=name) for name in ("a", "b", "c")]
    volumes[1].GetDisplayNode().SetAutoWindowLevel(True)
    mrml.set_window(volumes, DISPLAY_WINDOWS_HU["lung"])
    for volume in volumes:
        assert mrml.window_of(volume) == (-1350, 150)
        assert (volume.GetDisplayNode().GetWindow(), volume.GetDisplayNode().GetLevel()) == (1500, -600)
        assert not volume.GetDisplayNode().GetAutoWindowLevel()


def test_a_shared_window_follows_whichever_is_changed_until_it_is_closed(a_scene):
    volumes = [a_volume(a_scene, name=name) for name in ("a", "b", "c")]
    mrml.set_window(volumes[:1], (0, 80))
    shared = mrml.SharedWindow(volumes)
    assert [mrml.window_of(volume) for volume in volumes] == [(0, 80)] * 3
    volumes[2].GetDisplayNode().SetWindowLevel(400, 40)
    assert [mrml.window_of(volume) for volume in volumes] == [(-160, 240)] * 3
    volumes[0].GetDisplayNode().SetAutoWindowLevel(True)  # the button "auto" in one view
    assert len({mrml.window_of(volume) for volume in volumes}) == 1
    a_scene.RemoveNode(volumes[1])
    mrml.set_window(volumes[:1], (1, 2))
    assert mrml.window_of(volumes[2]) == (1, 2)
    shared.close()
    mrml.set_window(volumes[:1], (5, 6))
    assert mrml.window_of(volumes[2]) == (1, 2)
    shared.close()
    forgotten = weakref.ref(shared)
    del shared
    gc.collect()
    assert forgotten() is None  # no observer holds it


def test_differences_are_shown_in_diverging_colours_around_zero(a_scene):
    node = a_volume(a_scene, np.array([[[-100, -50, 0, 50, 100]]], np.int16))
    mrml.show_as_difference(node, 100)
    scale = mrml.show_scale(node)
    display = node.GetVolumeDisplayNode()
    assert mrml.window_of(node) == (-100, 100)
    assert display.GetColorNode() is mrml.difference_colors(a_scene)
    display.GetOutputImageDataConnection().GetProducer().Update()
    rgba = numpy_rgba(display)
    low, quarter, zero, _, high = rgba[:, :3].astype(int)
    assert low[2] - low[0] > 100 and high[0] - high[2] > 100  # blue, red
    assert np.ptp(zero) <= 1 and zero[0] > 200  # gray, whatever the limit
    assert (np.abs(quarter - (low + zero) / 2) <= 3).all()
    assert scale.GetTitleText() == "HU" and scale.GetPrimaryDisplayNode() is display
    modified = []
    scale.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: modified.append(True))
    mrml.show_as_difference(node, 40)
    assert mrml.window_of(node) == (-40, 40) and modified
    assert mrml.show_scale(node) is not scale
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 1
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1
    assert node.GetVolumeDisplayNode() is display


def test_the_colours_of_differences_come_back_with_the_scene(a_scene, tmp_path):
    mrml.show_as_difference(a_volume(a_scene), 40)
    before = lookup_table(mrml.difference_colors(a_scene))
    a_scene.SetURL(str(tmp_path / "scene.mrml"))
    assert a_scene.Commit()  # without the file of the colours
    again = slicer.vtkMRMLScene()
    again.SetURL(str(tmp_path / "scene.mrml"))
    again.Import()
    np.testing.assert_array_equal(lookup_table(mrml.difference_colors(again)), before)
    assert len(before) == 255 and again.GetNumberOfNodesByClass("vtkMRMLColorTableNode") == 1
    loaded = again.GetFirstNodeByName("scan").GetDisplayNode()
    assert loaded.GetColorNode() is mrml.difference_colors(again)


def lookup_table(colors) -> np.ndarray:
    return vtk.util.numpy_support.vtk_to_numpy(colors.GetLookupTable().GetTable()).copy()


def numpy_rgba(display) -> np.ndarray:
    image = display.GetOutputImageDataConnection().GetProducer().GetOutputDataObject(0)
    return vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())


# ---- what is known of a volume


def test_description_comes_from_the_dicom_database_the_hierarchy_and_the_name(a_scene):
    node = a_volume(a_scene, name="chest")
    assert mrml.description(node) == {"name": "chest"}
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(a_scene)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert mrml.description(node) == {"name": "chest", "modality": "MR"}
    headers = {("1.2", "0008,0060"): "CT", ("1.2", "0018,1210"): "B40f", ("1.2", "0008,103E"): "Thorax"}
    node.SetAttribute("DICOM.instanceUIDs", "1.2 1.3")
    assert mrml.description(node, lambda uid, tag: headers.get((uid, tag), "")) == {
        "name": "chest",
        "modality": "CT",
        "kernel": "B40f",
        "series_description": "Thorax",
    }


# ---- views


@pytest.fixture
def a_layout(a_scene):
    """Shows panes as the application does: slice nodes made by the layout logic, a composite node for each."""
    logic = slicer.vtkMRMLLayoutLogic()
    logic.SetMRMLScene(a_scene)

    def show(*panes: str):
        layout_node = logic.GetLayoutNode()
        mrml.register_compare_layouts(layout_node, {"denoised": "Denoised & <new>"})
        layout_node.SetViewArrangement(mrml.COMPARE_LAYOUTS[panes])
        for pane in panes:
            composite = slicer.vtkMRMLSliceCompositeNode()
            composite.SetLayoutName(mrml.view_name(pane))
            a_scene.AddNode(composite)
            mrml.slice_view(a_scene, pane)[0].SetDimensions(400, 300, 1)
        return layout_node

    yield show
    logic.SetMRMLScene(None)  # before the scene goes


@pytest.mark.parametrize(("panes", "number"), mrml.COMPARE_LAYOUTS.items())
def test_the_layout_has_a_linked_view_for_each_pane(a_scene, a_layout, panes, number):
    assert number >= 500 and a_layout(*panes).GetViewArrangement() == number
    views = [mrml.slice_view(a_scene, pane)[0] for pane in panes]
    assert [view.GetName() for view in views] == [mrml.view_name(pane) for pane in panes]  # links go by this name
    assert {view.GetViewGroup() for view in views} == {mrml.VIEW_GROUP}
    assert [view.GetLayoutLabel() for view in views][:2] == ["LDCT", "Denoised & <new>"]
    assert {view.GetOrientation() for view in views} == {"Axial"}
    root = ElementTree.fromstring(mrml.compare_layout_xml(panes))
    rows = root.findall("item/layout") if len(panes) == 4 else [root]
    assert [len(row.findall("item/view")) for row in rows] == ([2, 2] if len(panes) == 4 else [len(panes)])


def test_the_layout_can_be_registered_again_with_other_labels(a_scene):
    node = slicer.vtkMRMLLayoutNode()
    a_scene.AddNode(node)
    mrml.register_compare_layouts(node)
    assert "vorher" not in node.GetLayoutDescription(7460)
    mrml.register_compare_layouts(node, {"LDCT": "vorher"})
    assert all("vorher" in node.GetLayoutDescription(number) for number in mrml.COMPARE_LAYOUTS.values())


def test_compare_shows_one_volume_per_view_linked_with_the_same_place_and_zoom(a_scene, a_layout):
    panes = ("LDCT", "denoised", "NDCT", "difference")
    a_layout(*panes)
    volumes = {pane: a_volume(a_scene, name=pane) for pane in panes}
    first = mrml.slice_view(a_scene, "LDCT")[0]
    first.SetFieldOfView(123, 92.25, 1)
    first.SetSliceOffset(81.4)
    first.SetXYZOrigin(3, 4, 0)
    mrml.slice_view(a_scene, "NDCT")[0].SetDimensions(200, 300, 1)
    views = mrml.compare(a_scene, volumes)
    assert [view.GetLayoutName() for view in views] == [mrml.view_name(pane) for pane in panes]
    for pane, view in zip(panes, views, strict=True):
        _, composite = mrml.slice_view(a_scene, pane)
        assert composite.GetBackgroundVolumeID() == volumes[pane].GetID()
        assert composite.GetForegroundVolumeID() is None and composite.GetLabelVolumeID() is None
        assert composite.GetLinkedControl() and composite.GetHotLinkedControl()
        assert view.GetSliceOffset() == pytest.approx(81.4) and view.GetXYZOrigin() == (3, 4, 0)
        zoom = [fov / pixels for fov, pixels in zip(view.GetFieldOfView()[:2], view.GetDimensions()[:2], strict=True)]
        assert zoom == pytest.approx([123 / 400] * 2)


def test_a_view_that_is_not_there_is_said(a_scene):
    with pytest.raises(mrml.NodeError, match="no view for denoised"):
        mrml.compare(a_scene, {"denoised": a_volume(a_scene)})


def pixels_of(scene, pane: str) -> np.ndarray:
    """What the pane's view draws of its background volume, before the window: (rows, columns), 0 outside."""
    view, composite = mrml.slice_view(scene, pane)
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(scene)
    logic.SetSliceNode(view)
    logic.SetSliceCompositeNode(composite)
    layer = logic.GetBackgroundLayer()
    reslice = layer.GetReslice()
    reslice.Update()
    pixels = mrml.image_array(reslice.GetOutput())[0].copy()
    logic.SetMRMLScene(None)
    return pixels


def a_turn(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.insert(np.insert([[c, -s], [s, c]], axis, 0, axis=0), axis, np.eye(3)[axis], axis=1)


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    "directions",
    [
        np.eye(3),
        np.diag([-1.0, -1.0, 1.0]),
        np.diag([-1.0, -1.0, 1.0]) @ a_turn(20, 0) @ a_turn(-15, 1) @ a_turn(30, 2),
    ],
    ids=["RAS", "LPS", "oblique"],
)
def test_the_slice_that_is_asked_for_is_the_one_drawn_and_the_one_that_is_found(a_scene, a_layout, directions, moved):
    values = 100 + np.arange(9, dtype=np.int16)
    volume = a_volume(a_scene, np.tile(values[:, None, None], (1, 40, 60)), directions=directions)
    if moved:
        transform = a_scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
        matrix = vtk.vtkMatrix4x4()
        matrix.DeepCopy((0.96, -0.28, 0, 10, 0.28, 0.96, 0, -20, 0, 0, 1, 5, 0, 0, 0, 1))
        transform.SetMatrixTransformToParent(matrix)
        volume.SetAndObserveTransformNodeID(transform.GetID())
    a_layout("LDCT", "denoised")
    views = mrml.compare(a_scene, {"LDCT": volume, "denoised": a_volume(a_scene)})
    for index in (None, 7, 0):
        mrml.show_slice(views, volume, index)
        k = 4 if index is None else index
        assert mrml.shown_slices(volume, views) == [k]
        drawn = pixels_of(a_scene, "LDCT")
        assert drawn.shape == (300, 400) and set(np.unique(drawn)) <= {0, values[k]}
        rows, columns = np.nonzero(drawn)  # all of it, as large as fits: 42 mm of 60 columns, 28 mm of 40 rows
        margin = [rows.min(), 299 - rows.max(), columns.min(), 399 - columns.max()]
        assert min(margin) <= 1
        assert abs(margin[0] - margin[1]) <= 2 and abs(margin[2] - margin[3]) <= 2
        area = len(rows) * (views[0].GetFieldOfView()[0] / 400) ** 2
        assert area == pytest.approx(60 * 40 * 0.7**2, rel=0.03)


def test_a_blended_slice_is_drawn_at_once(a_scene, a_layout):
    voxels, denoised = np.full((3, 8, 8), 100, np.int16), np.full((3, 8, 8), 50, np.int16)
    volume = a_volume(a_scene, denoised)
    a_layout("LDCT", "denoised")
    views = mrml.compare(a_scene, {"LDCT": a_volume(a_scene, voxels), "denoised": volume})
    mrml.show_slice(views, volume)
    assert pixels_of(a_scene, "denoised").max() == 50
    shown = mrml.shown_slices(volume, views)
    mrml.blend_slices(voxels, denoised, mrml.volume_array(volume), 0.5, shown)
    mrml.voxels_modified(volume)
    assert shown == [1] and pixels_of(a_scene, "denoised").max() == 75


def test_views_between_beside_and_across_the_slices(a_scene, a_layout):
    volume = a_volume(a_scene, np.zeros((9, 40, 60), np.int16))
    a_layout("LDCT", "denoised")
    views = mrml.compare(a_scene, {"LDCT": volume, "denoised": volume})
    mrml.show_slice(views, volume, 3)
    views[0].SetSliceOffset(views[0].GetSliceOffset() + 1.0)  # of 2.5 mm
    assert mrml.shown_slices(volume, views) == [3, 4]
    views[0].SetSliceOffset(1000)
    assert mrml.shown_slices(volume, views) == [3]
    views[1].SetOrientation("Coronal")
    assert mrml.shown_slices(volume, views) == []


@pytest.mark.parametrize(("orientation", "axis"), [("Coronal", 1), ("Sagittal", 2)])
def test_rows_and_columns_on_show_are_found_and_blended(a_scene, a_layout, orientation, axis):
    voxels = np.full((9, 40, 60), 100, np.int16)
    denoised = np.random.default_rng(0).integers(-100, 100, voxels.shape, np.int16)
    volume = a_volume(a_scene, denoised)
    a_layout("LDCT", "denoised")
    views = mrml.compare(a_scene, {"LDCT": a_volume(a_scene, voxels), "denoised": volume})
    mrml.show_slice(views, volume)
    views[1].SetOrientation(orientation)
    index = [4, 17, 23]
    world = mrml._ijk_to_world(volume).MultiplyPoint((*index[::-1], 1.0))
    views[1].JumpSliceByCentering(*world[:3])
    shown = mrml.shown_planes(volume, views)
    assert shown == sorted(shown, key=len) and len(shown) == 2 and shown[0] == (4,)
    assert shown[1] == (slice(None),) * axis + (index[axis],)
    target = denoised.copy()
    mrml.blend_slices(voxels, denoised, target, 0.0, shown)
    expected = denoised.copy()
    expected[4] = 100
    np.moveaxis(expected, axis, 0)[index[axis]] = 100
    np.testing.assert_array_equal(target, expected)


def test_oblique_views_have_no_plane_of_their_own(a_scene, a_layout):
    volume = a_volume(a_scene, np.zeros((9, 40, 60), np.int16))
    a_layout("LDCT", "denoised")
    (view, _other) = mrml.compare(a_scene, {"LDCT": volume, "denoised": volume})
    mrml.show_slice([view], volume)
    matrix = view.GetSliceToRAS()
    turned = np.array([[matrix.GetElement(i, j) for j in range(3)] for i in range(3)]) @ a_turn(20, 0) @ a_turn(20, 1)
    for i, j in np.ndindex(3, 3):
        matrix.SetElement(i, j, turned[i, j])
    view.UpdateMatrices()
    assert mrml.shown_planes(volume, [view]) == []


def test_reveal_fades_from_before_to_after(a_scene):
    before, after = a_volume(a_scene), a_volume(a_scene)
    composite = slicer.vtkMRMLSliceCompositeNode()
    a_scene.AddNode(composite)
    for share, opacity in ((0, 0), (0.3, 0.3), (1, 1), (1.7, 1)):
        mrml.reveal(composite, before, after, share)
        assert composite.GetForegroundOpacity() == pytest.approx(opacity)
    assert composite.GetBackgroundVolumeID() == before.GetID() and composite.GetForegroundVolumeID() == after.GetID()


# ---- numbers


def measured(reference: bool = True) -> dict:
    return {
        "quality": {
            "noise_before": {"sd_hu": 24.96, "windows": 200},
            "noise_after": {"sd_hu": 10.04, "windows": 200},
            "noise_reference": {"sd_hu": 12.5, "windows": 200} if reference else None,
            "noise_reduction_percent": 59.8,
            "nps_mean_before": 0.284,
            "nps_mean_after": None,
            "hu_shift": [
                {"tissue": "fat", "voxels": 10, "reference_hu": -100.0, "shift_hu": 1.26},
                {"tissue": "bone", "voxels": 10, "reference_hu": 500.0, "shift_hu": -0.04},
            ],
            "has_reference": reference,
        },
        "strength": 0.75,
        "metrics": [
            {
                "name": "LDCT",
                "mean": {"psnr_db": 29.256, "ssim": 0.8549, "rmse_hu": 103.2},
                "sd": {"psnr_db": 0.5, "ssim": 0.01, "rmse_hu": 2.0},
            },
            {
                "name": "denoised",
                "mean": {"psnr_db": None, "ssim": 1.0, "rmse_hu": 0.0},
                "sd": {"psnr_db": None, "ssim": None, "rmse_hu": None},
            },
        ]
        if reference
        else [],
    }


def test_numbers_with_a_reference():
    assert mrml.number_rows(measured()) == [
        ("Measure", "LDCT", "Denoised, 75 %", "NDCT"),
        ("Noise in soft tissue, SD [HU]", "25.0", "10.0", "12.5"),
        ("Noise removed [%]", "", "60", ""),
        ("Noise frequency [1/mm]", "0.28", "", ""),
        ("PSNR [dB]", "29.26 ± 0.50", "inf", ""),
        ("SSIM x 100", "85.49 ± 1.00", "100.00", ""),
        ("RMSE [HU]", "103.20 ± 2.00", "0.00", ""),
        ("HU shift from NDCT: fat", "", "+1.3", ""),
        ("HU shift from NDCT: bone", "", "0.0", ""),
    ]


def test_numbers_without_a_reference_and_in_another_language():
    words = {"Noise removed [%]": "Rauschen entfernt [%]", "fat": "Fett"}
    rows = mrml.number_rows(measured(reference=False), lambda text: words.get(text, text))
    assert rows[0] == ("Measure", "LDCT", "Denoised, 75 %")
    assert ("Rauschen entfernt [%]", "", "60") in rows and ("HU shift from LDCT: Fett", "", "+1.3") in rows
    assert not [row for row in rows if "PSNR" in row[0]]


def test_numbers_fill_a_table_node_that_can_be_exported(a_scene, tmp_path):
    rows = mrml.number_rows(measured())
    table = mrml.number_table(a_scene, "ASCON numbers", rows)
    assert (table.GetNumberOfRows(), table.GetNumberOfColumns()) == (8, 4)
    assert [table.GetColumnName(i) for i in range(4)] == list(rows[0])
    assert [tuple(table.GetCellText(r, c) for c in range(4)) for r in range(8)] == rows[1:]
    assert mrml.number_table(a_scene, "", rows[:3], table) is table and table.GetNumberOfRows() == 2
    table.AddDefaultStorageNode()
    storage = table.GetStorageNode()
    storage.SetFileName(str(tmp_path / "numbers.csv"))
    assert storage.WriteData(table)
    assert "25.0" in (tmp_path / "numbers.csv").read_text()


def test_rows_go_to_the_clipboard_with_tabs():
    assert mrml.rows_as_text([("a", "b"), ("1 ± 2", "")]) == "a\tb\n1 ± 2\t\n"
