"""Sequences in a real scene: a denoised one beside its source, in the same browser."""

from __future__ import annotations

import numpy as np
import pytest
from scene_fixtures import a_volume, slicer

from ASCONDenoiseLib.errors import Cancelled
from ASCONDenoiseLib.scene import operations
from ASCONDenoiseLib.scene.provenance import INPUT_ROLE, provenance
from ASCONDenoiseLib.scene.sequences import browser_of, denoise_sequence, frames_of
from ASCONDenoiseLib.scene.voxels import volume_array

FACTS = {"device": "cpu", "precision": "fp32", "seconds": 1.0, "notes": [], "model": {"name": "M", "version": "1"}}
TIMES = ("0", "0.4", "1.5")


def some_hu(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)


@pytest.fixture
def a_sequence(a_scene):
    """A browser of three frames, and the volume in which it shows them; Slicer's own logic is at work."""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(a_scene)
    sequence = a_scene.AddNewNodeByClass("vtkMRMLSequenceNode", "heart")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for number, time in enumerate(TIMES):
        frame = a_volume(a_scene, some_hu(number), "frame")
        sequence.SetDataNodeAtValue(frame, time)
        a_scene.RemoveNode(frame)
    browser = a_scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic.UpdateAllProxyNodes()
    yield browser, browser.GetProxyNode(sequence), logic
    logic.SetMRMLScene(None)


def work(volume, parent, begun):
    def denoise(source, output):
        means = {"model": "m", "device": "cpu", "file_for_instance": None, "parent": str(parent)}
        return operations.denoise(source, output, None, strength=lambda: 1.0, **means)

    return denoise_sequence(volume, denoise, begun.append)


def run(operation, stop_after: int = 99):
    """The worker's part: adds 7 HU."""
    answer, jobs = None, 0
    while True:
        try:
            piece = operation.send(answer)
        except StopIteration as end:
            return end.value
        answer = None
        if isinstance(piece, dict):
            if jobs == stop_after:
                operation.throw(Cancelled("stop"))
            jobs += 1
            np.save(piece["output"], np.load(piece["input"]) + np.int16(7))
            answer = dict(FACTS)


def test_each_frame_is_denoised_and_shown_by_the_same_browser(a_scene, a_sequence, tmp_path):
    browser, volume, logic = a_sequence
    assert browser_of(volume) is browser and frames_of(volume) == 3
    begun: list[int] = []
    shown = run(work(volume, tmp_path, begun))
    assert begun == [0, 1, 2] and list(tmp_path.iterdir()) == []
    sequence = browser.GetSequenceNode(shown)
    assert sequence.GetNumberOfDataNodes() == 3 and sequence.GetName() == "heart denoised"
    assert (sequence.GetIndexName(), sequence.GetIndexUnit()) == ("time", "s")
    assert [sequence.GetNthIndexValue(number) for number in range(3)] == list(TIMES)
    source = browser.GetSequenceNode(volume)
    for number in (2, 0, 1):
        browser.SetSelectedItemNumber(number)
        logic.UpdateProxyNodesFromSequences(browser)
        assert np.array_equal(volume_array(volume), some_hu(number))  # the source stays
        assert np.array_equal(volume_array(shown), some_hu(number) + 7)
        frame = sequence.GetNthDataNode(number)
        assert frame.GetSpacing() == source.GetNthDataNode(number).GetSpacing() == shown.GetSpacing()
        assert provenance(frame)["ASCON.ModelName"] == "M"
    assert provenance(shown)["ASCON.ModelName"] == "M"
    assert shown.GetNodeReference(INPUT_ROLE) is volume
    proxies = a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    logic.UpdateAllProxyNodes()
    assert a_scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == proxies == 2


def test_a_cancelled_sequence_leaves_nothing(a_scene, a_sequence, tmp_path):
    _, volume, _ = a_sequence
    before = a_scene.GetNumberOfNodes(), volume.GetScene().GetNumberOfNodesByClass("vtkMRMLSequenceNode")
    with pytest.raises(Cancelled):
        run(work(volume, tmp_path, []), stop_after=2)
    assert (a_scene.GetNumberOfNodes(), a_scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")) == before
    assert list(tmp_path.iterdir()) == []


def test_other_volumes_are_of_no_sequence(a_scene, a_sequence):
    assert browser_of(a_volume(a_scene)) is None and browser_of(None) is None and frames_of(None) == 0
