"""The compare layouts: LDCT, denoised, NDCT and difference side by side in linked views."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import slicer
import vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.scene.volumes import ijk_to_world
from ASCONDenoiseLib.scene.voxels import Plane

PANES = ("LDCT", "denoised", "NDCT", "difference")
"""The kinds of volume that can be compared, one in each view; LDCT and denoised always are."""

COMPARE_LAYOUTS = {
    ("LDCT", "denoised"): 7460,
    ("LDCT", "denoised", "NDCT"): 7461,
    ("LDCT", "denoised", "difference"): 7462,
    ("LDCT", "denoised", "NDCT", "difference"): 7463,
}
"""Panes -> number of the layout."""

VIEW_GROUP = 7460
"""The views are linked among themselves; Slicer's own are in group 0."""

_COLORS = {"LDCT": "#E8A33D", "denoised": "#4FB286", "NDCT": "#5B8DEF", "difference": "#B07CC6"}


def view_name(pane: str) -> str:
    """Layout name (and singleton tag) of a pane's slice node and composite node."""
    return f"ASCON-{pane}"


def compare_layout_xml(panes: Sequence[str], labels: Mapping[str, str] | None = None) -> str:
    """The layout: up to three views in a row, four in two rows. `labels` are the panes' names on the screen."""
    labels = labels or {}
    views = [_view_xml(pane, labels.get(pane, pane)) for pane in panes]
    if len(views) < 4:
        return _row_xml(views)
    rows = "".join(f"<item>{_row_xml(views[i : i + 2])}</item>" for i in range(0, len(views), 2))
    return f'<layout type="vertical" split="true">{rows}</layout>'


def _row_xml(views: Sequence[str]) -> str:
    return f'<layout type="horizontal" split="true">{"".join(f"<item>{view}</item>" for view in views)}</layout>'


def _view_xml(pane: str, label: str) -> str:
    properties = {"orientation": "Axial", "viewlabel": label, "viewcolor": _COLORS[pane], "viewgroup": str(VIEW_GROUP)}
    elements = (f'<property name="{name}" action="default">{escape(v)}</property>' for name, v in properties.items())
    return f'<view class="vtkMRMLSliceNode" singletontag={quoteattr(view_name(pane))}>{"".join(elements)}</view>'


def register_compare_layouts(layout_node: slicer.vtkMRMLLayoutNode, labels: Mapping[str, str] | None = None) -> None:
    """Makes the layouts of COMPARE_LAYOUTS known, so that a scene that was saved with one of them can be shown."""
    for panes, number in COMPARE_LAYOUTS.items():
        xml = compare_layout_xml(panes, labels)
        if layout_node.IsLayoutDescription(number):
            layout_node.SetLayoutDescription(number, xml)
        else:
            layout_node.AddLayoutDescription(number, xml)


def compare_volumes(
    scene: slicer.vtkMRMLScene, volumes: Mapping[str, slicer.vtkMRMLScalarVolumeNode]
) -> list[slicer.vtkMRMLSliceNode]:
    """Puts one volume into each pane (a key of `volumes`) and links the views: same slice, same zoom.

    The layout must be on, so that the views exist. The first view keeps its place and the others follow it; call
    `show_slice` to begin in the middle. Returns the slice nodes, in the order of the panes.

    Raises InputError where a view is missing.
    """
    views = []
    for pane, volume in volumes.items():
        view, composite = slice_view(scene, pane)
        composite.SetBackgroundVolumeID(volume.GetID())
        composite.SetForegroundVolumeID(None)
        composite.SetLabelVolumeID(None)
        composite.SetForegroundOpacity(0)
        composite.SetLinkedControl(True)
        composite.SetHotLinkedControl(True)  # the others follow while the mouse still moves
        composite.SetInteractionFlagsModifier(0)  # a volume chosen by hand in one view stays out of the others
        views.append(view)
    _match_views(views)
    return views


def slice_view(
    scene: slicer.vtkMRMLScene, pane: str
) -> tuple[slicer.vtkMRMLSliceNode, slicer.vtkMRMLSliceCompositeNode]:
    """The slice node and the composite node of a pane. Raises InputError where the layout has not made them yet."""

    def node_of_pane(class_name: str) -> slicer.vtkMRMLNode:
        for i in range(scene.GetNumberOfNodesByClass(class_name)):
            node = scene.GetNthNodeByClass(i, class_name)
            if node.GetLayoutName() == view_name(pane):
                return node
        raise InputError(f"There is no view for {pane}. Choose the compare layout first.")

    return node_of_pane("vtkMRMLSliceNode"), node_of_pane("vtkMRMLSliceCompositeNode")


def _match_views(views: Sequence[slicer.vtkMRMLSliceNode]) -> None:
    """Gives all views the plane, the place and the zoom (mm per pixel) of the first."""
    first = views[0]
    zoom = [fov / max(pixels, 1) for fov, pixels in zip(first.GetFieldOfView(), first.GetDimensions(), strict=True)]
    for view in views[1:]:
        view.GetSliceToRAS().DeepCopy(first.GetSliceToRAS())
        columns, rows, _ = view.GetDimensions()
        view.SetXYZOrigin(*first.GetXYZOrigin())
        view.SetFieldOfView(zoom[0] * columns, zoom[1] * rows, first.GetFieldOfView()[2])
        view.UpdateMatrices()


def show_slice(
    views: Sequence[slicer.vtkMRMLSliceNode], volume: slicer.vtkMRMLScalarVolumeNode, index: int | None = None
) -> None:
    """Turns the views into the volume's own axial plane and shows all of a slice.

    Args:
        views: the slice nodes.
        volume: whose slice to show.
        index: of the slice; None: the middle one.
    """
    columns, rows, count = volume.GetImageData().GetDimensions()
    middle = ((columns - 1) / 2, (rows - 1) / 2, float((count - 1) // 2 if index is None else index), 1.0)
    centre = ijk_to_world(volume).MultiplyPoint(middle)[:3]
    for view in views:
        view.SetOrientation("Axial")
        transform = volume.GetParentTransformNode()
        if transform is None or transform.IsTransformToWorldLinear():
            view.RotateToVolumePlane(volume)
        view.JumpSliceByCentering(*centre)
        ras_to_slice = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(view.GetSliceToRAS(), ras_to_slice)
        bounds = [0.0] * 6
        volume.GetSliceBounds(bounds, ras_to_slice)
        pixels = [max(side, 1) for side in view.GetDimensions()[:2]]
        mm_per_pixel = max((bounds[1] - bounds[0]) / pixels[0], (bounds[3] - bounds[2]) / pixels[1])
        view.SetXYZOrigin(0, 0, 0)
        view.SetFieldOfView(mm_per_pixel * pixels[0], mm_per_pixel * pixels[1], view.GetFieldOfView()[2])
        view.UpdateMatrices()


def shown_planes(volume: slicer.vtkMRMLScalarVolumeNode, views: Iterable[slicer.vtkMRMLSliceNode]) -> list[Plane]:
    """Which planes of voxels the views show: slices, rows or columns, for views along one of the volume's planes.

    A view between two planes shows both. An oblique view shows something of many planes: it adds none.
    """
    world_to_ijk = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(ijk_to_world(volume), world_to_ijk)
    counts = volume.GetImageData().GetDimensions()
    shown = set()  # (how many axes come before: 0 for slices; where)
    for view in views:
        slice_to_ijk = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Multiply4x4(world_to_ijk, view.GetSliceToRAS(), slice_to_ijk)
        width, height, _ = view.GetFieldOfView()
        for axis, count in enumerate(counts):
            x, y, at = (slice_to_ijk.GetElement(axis, column) for column in (0, 1, 3))
            if abs(x) * width + abs(y) * height < 0.5:  # of a voxel, from one end of the view to the other
                near = {round(at)} if abs(at - round(at)) < 0.01 else {int(np.floor(at)), int(np.ceil(at))}
                shown |= {(2 - axis, index) for index in near if 0 <= index < count}
    return [(slice(None),) * before + (index,) for before, index in sorted(shown)]


def shown_slices(volume: slicer.vtkMRMLScalarVolumeNode, views: Iterable[slicer.vtkMRMLSliceNode]) -> list[int]:
    """Those planes of `shown_planes` that are slices, sorted."""
    return [plane[0] for plane in shown_planes(volume, views) if isinstance(plane[0], int)]
