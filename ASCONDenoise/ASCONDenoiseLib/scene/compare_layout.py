"""The compare layouts: LDCT, denoised, NDCT and difference side by side in linked views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import slicer
import vtk

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.scene.view_fit import body_corners, fit_views
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

BODY_ASPECT = 1.3
"""Breadth of a trunk, divided by its depth."""

BAR_PX = 26
"""Height of the bar above each view."""

VOLUME_ORIENTATION = "Volume"
"""Name of an oblique volume's own plane; a part of an attribute's name in scene files, so without blanks."""

_COLORS = {"LDCT": "#E8A33D", "denoised": "#4FB286", "NDCT": "#5B8DEF", "difference": "#B07CC6"}


def view_name(pane: str) -> str:
    """Layout name (and singleton tag) of a pane's slice node and composite node."""
    return f"ASCON-{pane}"


def columns_that_show_most(panes: int, width: int, height: int) -> int:
    """How many panes to put into a row, so that each shows a body as large as can be.

    Args:
        panes: how many there are.
        width, height: of the window's part for views, in pixels; nothing known: 0.
    """

    if width <= 0 or height <= 0:
        return panes if panes < 4 else 2

    def size(columns: int) -> float:
        rows = -(-panes // columns)
        size = min(width / columns / BODY_ASPECT, height / rows - BAR_PX)
        return size if columns > 1 else 0.8 * size  # one above the other is harder to compare

    return max(range(panes, 0, -1), key=size)


def compare_layout_xml(
    panes: Sequence[str], labels: Mapping[str, str] | None = None, columns: int | None = None
) -> str:
    """The layout as Slicer wants it described.

    Args:
        panes: one view for each.
        labels: the panes' names on the screen.
        columns: panes in a row; None: up to three, four in two rows. A last row of fewer is as wide as the others.
    """
    labels = labels or {}
    columns = columns or columns_that_show_most(len(panes), 0, 0)
    views = [_view_xml(pane, labels.get(pane, pane)) for pane in panes]
    rows = [_row_xml(views[i : i + columns]) for i in range(0, len(views), columns)]
    if len(rows) == 1:
        return rows[0]
    return f'<layout type="vertical" split="true">{"".join(f"<item>{row}</item>" for row in rows)}</layout>'


def _row_xml(views: Sequence[str]) -> str:
    return f'<layout type="horizontal" split="true">{"".join(f"<item>{view}</item>" for view in views)}</layout>'


def _view_xml(pane: str, label: str) -> str:
    properties = {"orientation": "Axial", "viewlabel": label, "viewcolor": _COLORS[pane], "viewgroup": str(VIEW_GROUP)}
    elements = (f'<property name="{name}" action="default">{escape(v)}</property>' for name, v in properties.items())
    return f'<view class="vtkMRMLSliceNode" singletontag={quoteattr(view_name(pane))}>{"".join(elements)}</view>'


def register_compare_layouts(
    layout_node: slicer.vtkMRMLLayoutNode,
    labels: Mapping[str, str] | None = None,
    size: tuple[int, int] = (0, 0),
) -> None:
    """Makes the layouts of COMPARE_LAYOUTS known, so that a scene that was saved with one of them can be shown.

    Where one of them is on, it is arranged anew.

    Args:
        layout_node: of the scene.
        labels: the panes' names on the screen; they only count for views that are not there yet.
        size: width and height of the window's part for views, in pixels, which decide on the columns.
    """
    for panes, number in COMPARE_LAYOUTS.items():
        xml = compare_layout_xml(panes, labels, columns_that_show_most(len(panes), *size))
        if layout_node.IsLayoutDescription(number):
            layout_node.SetLayoutDescription(number, xml)
        else:
            layout_node.AddLayoutDescription(number, xml)


def pane_labels(strength: float, opacity: float = 1.0, translate: Callable[[str], str] = str) -> dict[str, str]:
    """The panes' names on the screen, short enough for narrow views.

    Args:
        strength: of the denoised volume, 0 to 1; it is the name of its pane.
        opacity: how much of the denoised volume its pane shows over the LDCT, 0 to 1: what is seen then is the result
            of so much less strength, or the LDCT itself.
        translate: a function that translates texts.
    """
    shown = f"{100 * strength * opacity:.0f}\N{NO-BREAK SPACE}%"
    return {
        "LDCT": "LDCT",
        "denoised": shown if opacity > 0 else "LDCT",
        "NDCT": "NDCT",
        "difference": translate("diff."),
    }


def label_panes(scene: slicer.vtkMRMLScene, labels: Mapping[str, str]) -> None:
    """Gives the panes' views their names; views that are not there yet are left out."""
    panes = {view_name(pane): pane for pane in labels}
    for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceNode")):
        view = scene.GetNthNodeByClass(i, "vtkMRMLSliceNode")
        if view.GetLayoutName() in panes:
            view.SetLayoutLabel(labels[panes[view.GetLayoutName()]])


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
    """Turns the views into the volume's own axial plane and shows a slice, fitted to the body.

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
            _name_orientation(view)
        view.JumpSliceByCentering(*centre)
    fit_views(views, body_corners(volume))


def _name_orientation(view: slicer.vtkMRMLSliceNode) -> None:
    """Gives an oblique plane a name among the view's orientations.

    A view in a plane without a name is saved as "Reformat", and Slicer complains when it reads that.
    """
    if view.GetOrientation() == view.GetReformatOrientationName():
        directions = vtk.vtkMatrix3x3()
        for row, column in itertools.product(range(3), range(3)):
            directions.SetElement(row, column, view.GetSliceToRAS().GetElement(row, column))
        view.AddSliceOrientationPreset(VOLUME_ORIENTATION, directions)


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


def slice_in_sight(volume: slicer.vtkMRMLScalarVolumeNode, views: Iterable[slicer.vtkMRMLSliceNode]) -> int | None:
    """The slice in the middle of the first view that shows slices of the volume; None where no view does."""
    for view in views:
        if shown := shown_slices(volume, [view]):
            to_ijk = vtk.vtkMatrix4x4()
            vtk.vtkMatrix4x4.Invert(ijk_to_world(volume), to_ijk)
            centre = [view.GetSliceToRAS().GetElement(axis, 3) for axis in range(3)]
            at = to_ijk.MultiplyPoint((*centre, 1.0))[2]
            return min(shown, key=lambda index: abs(index - at))
    return None
