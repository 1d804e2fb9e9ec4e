"""Sequences: a volume whose voxels a sequence browser changes, and the same with each frame denoised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from ASCONDenoiseLib.scene.operations import Operation
from ASCONDenoiseLib.scene.provenance import INPUT_ROLE, provenance
from ASCONDenoiseLib.scene.volumes import new_volume_like


def browser_of(volume: Any) -> Any:
    """The browser node that shows a sequence of several frames in this volume; None for any other volume."""
    scene = volume.GetScene() if volume is not None else None
    if scene is None:
        return None
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        sequence = browser.GetSequenceNode(volume)
        if sequence is not None and sequence.GetNumberOfDataNodes() > 1:
            return browser
    return None


def frames_of(volume: Any) -> int:
    """How many frames its sequence has; 0 where it is of none."""
    browser = browser_of(volume)
    return browser.GetSequenceNode(volume).GetNumberOfDataNodes() if browser is not None else 0


def denoise_sequence(volume: Any, denoise: Callable[[Any, Any], Operation], begins: Callable[[int], None]) -> Operation:
    """Denoises each frame; returns a new volume, which shows the denoised sequence in the same browser.

    The scene changes only at the end.

    Args:
        volume: node, of which there is a `browser_of`.
        denoise: starts `operations.denoise` for a source and an output node.
        begins: called with the number of a frame, from 0, before its turn.
    """
    scene, browser = volume.GetScene(), browser_of(volume)
    source = browser.GetSequenceNode(volume)
    aside = slicer.vtkMRMLScene()
    frame = aside.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volume.GetName()} denoised")
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(scene.GenerateUniqueName(f"{source.GetName()} denoised"))
    sequence.CopySequenceIndex(source)
    sequence.RemoveAllDataNodes()
    for number in range(source.GetNumberOfDataNodes()):
        begins(number)
        run = yield from denoise(source.GetNthDataNode(number), frame)
        run.remove_files()
        frame.SetNodeReferenceID(INPUT_ROLE, volume.GetID())
        sequence.SetDataNodeAtValue(frame, source.GetNthIndexValue(number))
        yield number
    image = vtk.vtkImageData()
    image.DeepCopy(sequence.GetNthDataNode(browser.GetSelectedItemNumber()).GetImageData())
    shown = new_volume_like(scene, volume, frame.GetName(), image)
    for name, value in provenance(frame).items():
        shown.SetAttribute(name, value)
    shown.SetNodeReferenceID(INPUT_ROLE, volume.GetID())
    scene.AddNode(sequence)
    before = browser.StartModify()  # else Slicer's logic makes a volume of its own for the sequence
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(shown, sequence, False)
    browser.EndModify(before)
    return shown
