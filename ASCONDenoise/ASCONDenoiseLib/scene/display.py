"""How volumes are shown: window, one window for several, the colours of differences, two volumes in one view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.difference import DIFFERENCE_LIMIT_HU, difference_colours
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU


def set_window(volumes: Iterable[slicer.vtkMRMLScalarVolumeNode], window_hu: tuple[float, float]) -> None:
    """Shows all volumes with one window (lowest, highest HU), e.g. one of DISPLAY_WINDOWS_HU."""
    for volume in volumes:
        display = volume.GetVolumeDisplayNode()
        if display is not None:
            _set_window(display, window_hu)


def window_of(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """(lowest, highest) HU that the volume is shown with. Raises InputError where it has no display."""
    display = volume.GetVolumeDisplayNode()
    if display is None:
        raise InputError(f'The volume "{volume.GetName()}" has no display node. Show it once, then retry.')
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def is_automatic_window(volume: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether Slicer finds the volume's window from its voxels, as it does until somebody has chosen one."""
    display = volume.GetVolumeDisplayNode()
    automatic = display is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode")
    return automatic and bool(display.GetAutoWindowLevel())


def copy_display(source: slicer.vtkMRMLScalarVolumeNode, target: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
    """Makes a display node like the source's, or gives it the abdomen window in gray where the source has none.

    Never a window that Slicer finds from the voxels: that is slow.
    """
    display = source.GetVolumeDisplayNode()
    if display is not None and display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        window_hu = window_of(source)
        target.DisableModifiedEventOn()  # the copy may have the automatic window and threshold on for a moment
        target.CopyContent(display)
        target.SetAutoThreshold(False)
        target.DisableModifiedEventOff()
        target.SetAndObserveColorNodeID(display.GetColorNodeID())
    else:
        window_hu = DISPLAY_WINDOWS_HU["abdomen"]
        target.SetDefaultColorMap()
    _set_window(target, window_hu)


def _set_window(display: slicer.vtkMRMLScalarVolumeDisplayNode, window_hu: tuple[float, float]) -> None:
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*window_hu)


class SharedWindow:
    """Keeps one window for several volumes: whichever is changed, by mouse, preset or module, the others follow.

    It begins with the first volume's window. It ends with `close`, or when the volumes are removed.
    """

    def __init__(self, volumes: Sequence[slicer.vtkMRMLScalarVolumeNode]):
        self._displays = [display for volume in volumes if (display := volume.GetVolumeDisplayNode()) is not None]
        self._busy = False
        if self._displays:
            self._spread(self._displays[0])
        event = vtk.vtkCommand.ModifiedEvent
        self._observers = [(display, display.AddObserver(event, self._modified)) for display in self._displays]

    def close(self) -> None:
        """Stops following the volumes."""
        for display, observer in self._observers:
            display.RemoveObserver(observer)
        self._observers, self._displays = [], []

    def _modified(self, display: slicer.vtkMRMLScalarVolumeDisplayNode, _event: str) -> None:
        if not self._busy:
            self._spread(display)

    def _spread(self, changed: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
        window_hu = changed.GetWindowLevelMin(), changed.GetWindowLevelMax()
        self._busy = True
        try:
            for display in self._displays:
                if display is not changed and (display.GetWindowLevelMin(), display.GetWindowLevelMax()) != window_hu:
                    _set_window(display, window_hu)
        finally:
            self._busy = False


# ----------------------------------------------------------------------------------------------------------- difference

DIFFERENCE_COLORS = 255
"""Odd, so that the difference 0 has a colour of its own."""
_COLOR_TAG = "ASCONDifferenceColors"


def difference_colors(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    """The scene's colour node for differences: blue below zero, dark at zero, red above."""
    return color_node(scene, _COLOR_TAG, "ASCON difference", difference_colours(np.linspace(-1, 1, DIFFERENCE_COLORS)))


def color_node(scene: slicer.vtkMRMLScene, tag: str, name: str, colors: np.ndarray) -> slicer.vtkMRMLColorTableNode:
    """The scene's one colour node of a kind, with its colours.

    Args:
        scene: gets the node where it has none.
        tag: of the singleton.
        name: of a new node.
        colors: (N, 3), 0 to 1.
    """
    node = scene.GetSingletonNode(tag, "vtkMRMLColorTableNode")
    if node is not None and _has_colors(node, colors):
        return node
    table = vtk.vtkLookupTable()
    table.SetNumberOfTableValues(len(colors))
    for i, color in enumerate(colors):
        table.SetTableValue(i, *color, 1.0)
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetName(name)
        node.SetSingletonTag(tag)
        node.SetAttribute("Category", "ASCON")
        scene.AddNode(node)
    node.SetTypeToUser()
    node.SetLookupTable(table)
    node.SetNamesFromColors()
    return node


def _has_colors(node: slicer.vtkMRMLColorTableNode, colors: np.ndarray) -> bool:
    """False for a scene that was saved without its colours, or with those of an earlier version."""
    if node.GetNumberOfColors() != len(colors):
        return False
    table = numpy_support.vtk_to_numpy(node.GetLookupTable().GetTable())
    return bool(np.abs(table[:, :3] - 255 * colors).max() < 2)


def show_as_difference(node: slicer.vtkMRMLScalarVolumeNode, limit_hu: float = DIFFERENCE_LIMIT_HU) -> None:
    """Shows a difference volume in diverging colours from -limit to +limit HU."""
    display = node.GetVolumeDisplayNode()
    display.SetAndObserveColorNodeID(difference_colors(node.GetScene()).GetID())
    display.SetApplyThreshold(False)
    _set_window(display, (-limit_hu, limit_hu))
    if (scale := _scale_of(node)) is not None:
        scale.Modified()  # updates its labels


def show_scale(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode:
    """Gives a difference volume a scale of its colours, in HU.

    Call it when the view exists, and again for another view: a view draws only scales that were added after it.
    """
    if (old := _scale_of(node)) is not None:
        node.GetScene().RemoveNode(old)
    display = node.GetVolumeDisplayNode()
    scale = slicer.vtkMRMLColorLegendDisplayNode()
    scale.SetName(f"{node.GetName()} scale")
    scale.SetTitleText("HU")
    scale.SetNumberOfLabels(3)
    scale.SetLabelFormat("%.0f")
    node.GetScene().AddNode(scale)
    scale.SetAndObservePrimaryDisplayNode(display)
    node.AddAndObserveDisplayNodeID(scale.GetID())
    scale.Modified()  # the views look at it only now
    return scale


def _scale_of(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode | None:
    return slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)


# --------------------------------------------------------------------------------------------- two volumes in one view


def reveal(
    composite: slicer.vtkMRMLSliceCompositeNode,
    before: slicer.vtkMRMLScalarVolumeNode,
    after: slicer.vtkMRMLScalarVolumeNode,
    opacity: float,
) -> None:
    """Shows two volumes in one view, one fading into the other. 0 and 1 in turn: flicker.

    Args:
        composite: the view's composite node.
        before, after: the volumes.
        opacity: 0 shows `before`, 1 shows `after`.
    """
    composite.SetBackgroundVolumeID(before.GetID())
    composite.SetForegroundVolumeID(after.GetID())
    composite.SetForegroundOpacity(min(max(opacity, 0.0), 1.0))
