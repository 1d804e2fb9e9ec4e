"""Volume nodes: a new one like another, their geometry, and what is known of where they come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
import vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.hounsfield import Padding
from ASCONDenoiseLib.scene.display import copy_display
from ASCONDenoiseLib.scene.provenance import provenance


def new_volume_like(
    scene: slicer.vtkMRMLScene,
    source: slicer.vtkMRMLScalarVolumeNode,
    name: str,
    image: vtk.vtkImageData,
    *,
    passing: bool = False,
) -> slicer.vtkMRMLScalarVolumeNode:
    """A new volume node with these voxels, in everything else like `source`, added to the scene when it is complete.

    Geometry, transform, unit, display (window, colours, interpolation) and place in the subject hierarchy are the
    source's. It takes no time, however large the image is.

    Args:
        scene: gets the node and its display node.
        source: the volume to resemble.
        name: of the new node; a number is appended where it is taken.
        image: the voxels, which the node keeps without a copy.
        passing: no list, hierarchy or file of the scene has it.
    """
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(scene.GenerateUniqueName(name))
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    if passing:
        node.SetHideFromEditors(True)
        node.SetSaveWithScene(False)
        display.SetSaveWithScene(False)
    copy_display(source, display)
    scene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    _copy_geometry(source, node)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    if not passing:
        place_beside(source, node)
    return node


def make_like(
    node: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode, image: vtk.vtkImageData
) -> None:
    """The same for a volume that exists already; it keeps its name and its place in the subject hierarchy.

    Args:
        node: the volume to change.
        source, image: as in `new_volume_like`.

    Raises:
        InputError: `node` is the source itself.
    """
    if node is source:
        raise InputError(f'The volume "{node.GetName()}" is both input and output. Choose another output.')
    display = node.GetVolumeDisplayNode()
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        node.GetScene().AddNode(display)
    copy_display(source, display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    _copy_geometry(source, node)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    for name in ("DICOM.instanceUIDs", *provenance(node)):  # they describe what the node held before
        node.RemoveAttribute(name)
    node.SetAndObserveImageData(image)


def remove_volume(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Takes a volume out of its scene, with its display and storage nodes."""
    scene = node.GetScene()
    if scene is None:
        return
    belongings = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())]
    belongings += [node.GetNthStorageNode(i) for i in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for other in belongings:
        if other is not None and other.GetScene() is scene:
            scene.RemoveNode(other)


def place_beside(source: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLDisplayableNode) -> None:
    """Moves the node's item in the subject hierarchy behind the source's, where the scene has a hierarchy."""
    hierarchy = source.GetScene().GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.GetItemByDataNode(source) if hierarchy else 0
    if not item:
        return
    parent = hierarchy.GetItemParent(item)
    own = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(parent, node)
    hierarchy.SetItemParent(own, parent)
    siblings = vtk.vtkIdList()
    hierarchy.GetItemChildren(parent, siblings)
    order = [siblings.GetId(i) for i in range(siblings.GetNumberOfIds())]
    behind = [other for other in order[order.index(item) + 1 :] if other != own]
    if behind:
        hierarchy.MoveItem(own, behind[0])


def _copy_geometry(source: slicer.vtkMRMLScalarVolumeNode, target: slicer.vtkMRMLScalarVolumeNode) -> None:
    directions = vtk.vtkMatrix4x4()  # part by part: the way through IJKToRAS would round the spacing
    source.GetIJKToRASDirectionMatrix(directions)
    target.SetIJKToRASDirectionMatrix(directions)
    target.SetSpacing(source.GetSpacing())
    target.SetOrigin(source.GetOrigin())
    target.SetVoxelValueQuantity(source.GetVoxelValueQuantity())
    target.SetVoxelValueUnits(source.GetVoxelValueUnits())


# ------------------------------------------------------------------------------------------------------------- geometry


def spacing_mm(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float, float]:
    """(x, y, z) distance of columns, rows and slices."""
    return tuple(node.GetSpacing())


def ijk_to_ras_matrix(node: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """Voxel (column, row, slice) -> the volume's own RAS, without its transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


def ijk_to_ras(node: slicer.vtkMRMLScalarVolumeNode) -> list[list[float]]:
    """The same as 4 rows of 4 numbers."""
    matrix = ijk_to_ras_matrix(node)
    return [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]


def ijk_to_world(node: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """Voxel (column, row, slice) -> RAS as the views have it, the volume's linear transforms included."""
    matrix = ijk_to_ras_matrix(node)
    transform = node.GetParentTransformNode()
    if transform is not None and transform.IsTransformToWorldLinear():
        to_world = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(to_world)
        vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    return matrix


def transformed(
    source: slicer.vtkMRMLTransformNode | None,
    target: slicer.vtkMRMLTransformNode | None,
    point: tuple[float, float, float],
) -> tuple[float, float, float]:
    """A point from one transform node's coordinates to another's (None: the world's), warps included."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return transform.TransformPoint(point)


# --------------------------------------------------------------------------------------------------------------- origin

DICOM_TAGS = {
    "modality": "0008,0060",
    "series_description": "0008,103E",
    "body_part": "0018,0015",
    "kernel": "0018,1210",
}


def instance_uids(node: slicer.vtkMRMLScalarVolumeNode) -> list[str]:
    """The DICOM instances that Slicer loaded the volume from; empty where it was not DICOM."""
    return (node.GetAttribute("DICOM.instanceUIDs") or "").split()


def read_padding_hu(
    node: slicer.vtkMRMLScalarVolumeNode, file_for_instance: Callable[[str], str] | None = None
) -> Padding:
    """Value, or lowest and highest, of the pixels outside the scan circle in HU, as the DICOM files state it, or None.

    `file_for_instance` gives the file of a SOP instance UID, "" where there is none: in Slicer,
    `slicer.dicomDatabase.fileForInstance`.
    """
    from ASCONDenoiseLib.io.dicom_reader import padding_of

    uids = instance_uids(node)
    file = file_for_instance(uids[0]) if uids and file_for_instance else ""
    if not file or not Path(file).is_file():
        return None
    try:
        return padding_of(file)
    except InputError:
        return None


def volume_facts(
    node: slicer.vtkMRMLScalarVolumeNode, value_of_instance: Callable[[str, str], str] | None = None
) -> dict[str, str]:
    """What is known of a volume, as `suitability.warnings` wants it: "name", and the DICOM_TAGS that have a value.

    `value_of_instance` gives the text of a tag of a SOP instance UID: in Slicer, `slicer.dicomDatabase.instanceValue`.
    """
    facts = {"name": node.GetName() or ""}
    hierarchy = node.GetScene().GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
    if item:  # known even without the DICOM files, as in a scene from elsewhere
        facts["modality"] = hierarchy.GetItemAttribute(item, "DICOM.Modality")
    if (uids := instance_uids(node)) and value_of_instance:
        facts |= {name: value_of_instance(uids[0], tag) for name, tag in DICOM_TAGS.items()}
    return {name: value for name, value in facts.items() if value}


def suitability_facts(
    node: slicer.vtkMRMLScalarVolumeNode, value_of_instance: Callable[[str, str], str] | None = None
) -> dict[str, Any]:
    """`volume_facts`, spacing and direction of a volume: what `suitability.warnings` asks, as the worker takes it."""
    directions = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(directions)
    direction = [directions.GetElement(row, column) for row in range(3) for column in range(3)]
    description = volume_facts(node, value_of_instance)
    return {"spacing_mm": list(spacing_mm(node)), "direction": direction, "description": description}
