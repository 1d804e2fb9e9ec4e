"""Nodes of Slicer's scene <-> arrays, and what of the panel's work needs the scene but no window.

Only this file, anatomy_nodes.py and the folder panel import slicer. It takes nodes or a scene, never the application's
own scene, and it knows no Qt. Arrays are (S, H, W) in HU and share the memory of their node: no copies are made unless
the name says so.

What touches every slice is a generator that works for `budget_s` and then yields the number of slices done; between
two steps the application lives. For a timer: `next(work)` in each tick, until StopIteration.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from ASCONDenoiseLib import __version__
from ASCONDenoiseLib.imaging.hounsfield import DISPLAY_WINDOWS_HU
from ASCONDenoiseLib.imaging.output_rule import blend

Plane = tuple[int | slice, ...]
"""Indexes (S, H, W) voxels: (s,) is a slice, (:, r) a row of each slice, (:, :, c) a column of each."""

BUDGET_S = 0.03
"""How long a step of a generator keeps the main thread; the last slice of a step may make it longer."""


class NodeError(ValueError):
    """A node cannot be used; the text says which and what to do."""


# --------------------------------------------------------------------------------------------------- voxels of a volume


def volume_array(node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The voxels of a volume node, (S, H, W): a view, which stays valid when the node or the scene goes.

    Call `voxels_modified` after writing to it. Raises NodeError where the node holds no volume of single numbers.
    """
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions() or image.GetPointData().GetScalars() is None:
        raise NodeError(f'The volume "{node.GetName()}" holds no image. Load it again, or choose another.')
    if node.IsA("vtkMRMLLabelMapVolumeNode") or image.GetNumberOfScalarComponents() != 1:
        raise NodeError(f'The volume "{node.GetName()}" is a label map or a colour image. Choose a CT volume.')
    return image_array(image)


def image_array(image: vtk.vtkImageData) -> np.ndarray:
    """The voxels of an image of one component, (S, H, W), as a view."""
    columns, rows, slices = image.GetDimensions()
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(slices, rows, columns)


def new_image(shape: tuple[int, int, int], dtype: np.dtype | type | str) -> vtk.vtkImageData:
    """An image for (S, H, W) voxels; what they hold is left to chance, so that this takes no time."""
    image = vtk.vtkImageData()
    image.SetDimensions(*reversed(shape))
    image.AllocateScalars(numpy_support.get_vtk_array_type(np.dtype(dtype)), 1)
    return image


def voxels_modified(node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Tells everyone who shows the volume that its voxels have changed."""
    node.GetImageData().GetPointData().GetScalars().Modified()
    node.StorableModified()  # so that Slicer asks whether to save it
    node.Modified()


def copy_in_pieces(
    source: np.ndarray, target: np.ndarray, slices: Iterable[int] | None = None, *, budget_s: float = BUDGET_S
) -> Iterator[int]:
    """Copies (S, H, W) voxels slice by slice, all or those given; yields how many are done."""

    def copy(s: int) -> None:
        target[s] = source[s]

    return _in_pieces(copy, slices, source, target, budget_s)


def write_in_pieces(voxels: np.ndarray, path: str | Path, *, budget_s: float = BUDGET_S) -> Iterator[int]:
    """Writes voxels to an .npy file for the worker; yields how many slices are done. The file is whole at the end."""
    file = np.lib.format.open_memmap(path, mode="w+", dtype=voxels.dtype, shape=voxels.shape)
    yield from copy_in_pieces(voxels, file, budget_s=budget_s)


def blend_in_pieces(
    voxels: np.ndarray,
    denoised: np.ndarray,
    target: np.ndarray,
    strength: float,
    slices: Iterable[int | Plane] | None = None,
    *,
    budget_s: float = BUDGET_S,
) -> Iterator[int]:
    """`blending.blend` of the input and the result of strength 1 into `target`; yields how many slices are done."""

    def blend_one(s: int | Plane) -> None:
        blend(voxels[s], denoised[s], strength, out=target[s])

    return _in_pieces(blend_one, slices, voxels, target, budget_s)


def blend_slices(
    voxels: np.ndarray, denoised: np.ndarray, target: np.ndarray, strength: float, slices: Iterable[int | Plane]
) -> None:
    """The same for a few slices or planes at once, those on show; some 5 ms for one of 512 x 512."""
    for _ in blend_in_pieces(voxels, denoised, target, strength, slices, budget_s=float("inf")):
        pass


def subtract_in_pieces(
    minuend: np.ndarray,
    subtrahend: np.ndarray,
    target: np.ndarray,
    slices: Iterable[int | Plane] | None = None,
    *,
    budget_s: float = BUDGET_S,
) -> Iterator[int]:
    """minuend - subtrahend into `target` (see `difference_dtype`); yields how many slices are done."""
    limits = np.iinfo(target.dtype) if target.dtype.kind == "i" else None

    def subtract(s: int | Plane) -> None:
        difference = np.subtract(minuend[s], subtrahend[s], dtype=np.int64 if limits else np.float64)
        target[s] = difference.clip(limits.min, limits.max) if limits else difference

    return _in_pieces(subtract, slices, minuend, target, budget_s)


def difference_dtype(voxels: np.ndarray) -> np.dtype:
    """What a difference of such volumes is kept in: int16 for CT of 16 bits (what leaves its range is clipped)."""
    return np.dtype(np.int16 if voxels.dtype.kind in "iu" and voxels.dtype.itemsize <= 2 else np.float32)


def shown_first(count: int, shown: Iterable[int]) -> list[int]:
    """All slices, 0 to count - 1, in the order to do them: those on show, then the others."""
    shown = sorted({s for s in shown if 0 <= s < count})
    return shown + [s for s in range(count) if s not in shown]


def _in_pieces(
    step: Callable[[Any], None],
    slices: Iterable[int | Plane] | None,
    source: np.ndarray,
    target: np.ndarray,
    budget_s: float,
) -> Iterator[int]:
    if source.shape != target.shape:
        raise NodeError(f"The volumes differ in size: {source.shape} and {target.shape} slices, rows, columns.")
    return _steps(step, list(range(len(source)) if slices is None else slices), budget_s)


def _steps(step: Callable[[Any], None], slices: list[int | Plane], budget_s: float) -> Iterator[int]:
    started = time.monotonic()
    for done, s in enumerate(slices, start=1):
        step(s)
        if time.monotonic() - started >= budget_s and done < len(slices):
            yield done
            started = time.monotonic()  # what the application did in between is not on our account
    yield len(slices)


def spacing_mm(node: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float, float]:
    """(x, y, z) distance of columns, rows and slices."""
    return tuple(node.GetSpacing())


def ijk_to_ras(node: slicer.vtkMRMLScalarVolumeNode) -> list[list[float]]:
    """4x4: voxel (column, row, slice) to the volume's own RAS, without what transforms it."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]


def instance_uids(node: slicer.vtkMRMLScalarVolumeNode) -> list[str]:
    """The DICOM instances that Slicer loaded the volume from; empty where it was not DICOM."""
    return (node.GetAttribute("DICOM.instanceUIDs") or "").split()


def padding_hu(
    node: slicer.vtkMRMLScalarVolumeNode, file_for_instance: Callable[[str], str] | None = None
) -> float | None:
    """Value of the pixels outside the scan circle, in HU, as the volume's DICOM files state it; None where unknown.

    Args:
        file_for_instance: SOP instance UID -> file, "" where there is none; in Slicer,
            `slicer.dicomDatabase.fileForInstance`.
    """
    from ASCONDenoiseLib.io.dicom_reader import padding_of
    from ASCONDenoiseLib.errors import InputError

    uids = instance_uids(node)
    file = file_for_instance(uids[0]) if uids and file_for_instance else ""
    if not file or not Path(file).is_file():
        return None
    try:
        return padding_of(file)
    except InputError:
        return None


DICOM_TAGS = {
    "modality": "0008,0060",
    "series_description": "0008,103E",
    "body_part": "0018,0015",
    "kernel": "0018,1210",
}


def description(
    node: slicer.vtkMRMLScalarVolumeNode, value_of_instance: Callable[[str, str], str] | None = None
) -> dict[str, str]:
    """What is known of a volume, as `suitability.warnings` wants it: "name", and of DICOM those of DICOM_TAGS.

    Args:
        value_of_instance: SOP instance UID and tag -> text; in Slicer, `slicer.dicomDatabase.instanceValue`.
    """
    known = {"name": node.GetName() or ""}
    hierarchy = node.GetScene().GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
    if item:  # there even where the DICOM files are not, as in a scene from elsewhere
        known["modality"] = hierarchy.GetItemAttribute(item, "DICOM.Modality")
    if (uids := instance_uids(node)) and value_of_instance:
        known |= {name: value_of_instance(uids[0], tag) for name, tag in DICOM_TAGS.items()}
    return {name: value for name, value in known.items() if value}


# ---------------------------------------------------------------------------------------------------------- new volumes


def new_volume_like(
    scene: slicer.vtkMRMLScene, source: slicer.vtkMRMLScalarVolumeNode, name: str, image: vtk.vtkImageData
) -> slicer.vtkMRMLScalarVolumeNode:
    """A new volume node with these voxels, in everything else like `source`, added to the scene when it is complete.

    Geometry, transform, unit, display (window, colours, interpolation) and place in the subject hierarchy are the
    source's; a number is appended to a name that is taken. Takes no time, however large the image.
    """
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetName(scene.GenerateUniqueName(name))
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    _copy_display(source, display)
    scene.AddNode(display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    _copy_geometry(source, node)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    place_beside(scene, source, node)
    return node


def make_like(
    node: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode, image: vtk.vtkImageData
) -> None:
    """The same for a volume that exists already; it keeps its name and its place in the subject hierarchy.

    Raises NodeError where it is the source itself.
    """
    if node is source:
        raise NodeError(f'The volume "{node.GetName()}" is both input and output. Choose another output.')
    display = node.GetVolumeDisplayNode()
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode"):
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        node.GetScene().AddNode(display)
    _copy_display(source, display)
    node.SetAndObserveDisplayNodeID(display.GetID())
    _copy_geometry(source, node)
    node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
    for name in ("DICOM.instanceUIDs", *provenance(node)):  # of what it held before
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


def _copy_geometry(source: slicer.vtkMRMLScalarVolumeNode, target: slicer.vtkMRMLScalarVolumeNode) -> None:
    directions = vtk.vtkMatrix4x4()  # part by part: a way through IJKToRAS would round the spacing
    source.GetIJKToRASDirectionMatrix(directions)
    target.SetIJKToRASDirectionMatrix(directions)
    target.SetSpacing(source.GetSpacing())
    target.SetOrigin(source.GetOrigin())
    target.SetVoxelValueQuantity(source.GetVoxelValueQuantity())
    target.SetVoxelValueUnits(source.GetVoxelValueUnits())


def _copy_display(source: slicer.vtkMRMLScalarVolumeNode, target: slicer.vtkMRMLScalarVolumeDisplayNode) -> None:
    """The source's display, or the abdomen window in gray; never a window that is found from the voxels: slow."""
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


def place_beside(
    scene: slicer.vtkMRMLScene, source: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLDisplayableNode
) -> None:
    """Moves the node's item in the subject hierarchy behind the source's, where the scene has a hierarchy."""
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
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


# ----------------------------------------------------------------------------------------------------------- provenance

INPUT_ROLE = "ASCON.Input"
"""Node reference from a result to the volume it was made from."""


def set_provenance(
    node: slicer.vtkMRMLScalarVolumeNode, source: slicer.vtkMRMLScalarVolumeNode, facts: Mapping[str, Any]
) -> None:
    """Writes how the volume came about into its attributes, all of which begin with "ASCON."; they are saved with it.

    Args:
        facts: the worker's result of `denoise`, or any other facts. {"name", "version", ...} under "model" become
            ASCON.ModelName, ASCON.ModelVersion, ...; others ASCON.Device, ASCON.Strength, ...; notes are joined.
    """
    flat: dict[str, Any] = {"software_version": __version__, "created": datetime.now().astimezone()}
    for name, value in facts.items():
        if name == "model" and isinstance(value, Mapping):
            flat |= {f"model_{part}": fact for part, fact in value.items() if part != "path"}
        elif name not in ("id", "event", "times"):
            flat[name] = value
    for name in provenance(node):
        node.RemoveAttribute(name)
    for name, value in flat.items():
        node.SetAttribute(f"ASCON.{''.join(part.capitalize() for part in name.split('_'))}", _fact(value))
    node.SetNodeReferenceID(INPUT_ROLE, source.GetID())


def provenance(node: slicer.vtkMRMLNode) -> dict[str, str]:
    """The attributes that `set_provenance` wrote, e.g. {"ASCON.Strength": "0.75", ...}; empty for other nodes."""
    names = node.GetAttributeNames()
    return {name: node.GetAttribute(name) for name in names if name.startswith("ASCON.")}


def set_strength(node: slicer.vtkMRMLScalarVolumeNode, strength: float) -> None:
    """Notes that the volume now holds another strength."""
    node.SetAttribute("ASCON.Strength", _fact(strength))


def describe(node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """The provenance as one sentence, for the DICOM header of what is saved."""
    facts = {name.removeprefix("ASCON."): value for name, value in provenance(node).items()}
    if "ModelName" not in facts:
        return f"Processed by ASCON {facts.get('SoftwareVersion', __version__)}"
    parts = [
        f"{facts['ModelName']} {facts.get('ModelVersion', '')} (sha256 {facts.get('ModelSha256', 'unknown')})",
        *(f"{name.lower()} {facts[name]}" for name in ("Device", "Precision", "Strength") if name in facts),
        *([facts["Notes"]] if facts.get("Notes") else []),
    ]
    return f"Denoised by ASCON {facts['SoftwareVersion']}: {', '.join(parts)}"


def _fact(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --------------------------------------------------------------------------------------------------- window and colours


def set_window(volumes: Iterable[slicer.vtkMRMLScalarVolumeNode], window_hu: tuple[float, float]) -> None:
    """Shows all volumes with one window (lowest, highest HU), e.g. one of DISPLAY_WINDOWS_HU."""
    for volume in volumes:
        display = volume.GetVolumeDisplayNode()
        if display is not None:
            _set_window(display, window_hu)


def window_of(volume: slicer.vtkMRMLScalarVolumeNode) -> tuple[float, float]:
    """(lowest, highest) HU that the volume is shown with. Raises NodeError where it has no display."""
    display = volume.GetVolumeDisplayNode()
    if display is None:
        raise NodeError(f'The volume "{volume.GetName()}" has no display node. Show it once, then retry.')
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _set_window(display: slicer.vtkMRMLScalarVolumeDisplayNode, window_hu: tuple[float, float]) -> None:
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*window_hu)


class SharedWindow:
    """Keeps one window for several volumes: whichever is changed, by mouse, preset or module, the others follow.

    The first volume's window is taken at the start. `close` ends it; so does the end of the volumes.
    """

    def __init__(self, volumes: Sequence[slicer.vtkMRMLScalarVolumeNode]):
        self._displays = [display for volume in volumes if (display := volume.GetVolumeDisplayNode()) is not None]
        self._busy = False
        if self._displays:
            self._spread(self._displays[0])
        event = vtk.vtkCommand.ModifiedEvent
        self._observers = [(display, display.AddObserver(event, self._modified)) for display in self._displays]

    def close(self) -> None:
        """Lets the volumes go."""
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


DIFFERENCE_LIMIT_HU = 100.0
DIFFERENCE_COLORS = 255
"""Odd, so that no difference has a colour of its own."""
_BLUE, _GRAY, _RED = (0.23, 0.30, 0.75), (0.87, 0.87, 0.87), (0.71, 0.02, 0.15)
_COLOR_TAG = "ASCONDifferenceColors"


def difference_colors(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLColorTableNode:
    """The scene's colour node for differences: blue below zero, light gray at zero, red above."""
    node = scene.GetSingletonNode(_COLOR_TAG, "vtkMRMLColorTableNode")
    if node is not None and node.GetNumberOfColors() == DIFFERENCE_COLORS:  # a scene may be saved without its colours
        return node
    table = vtk.vtkLookupTable()
    table.SetNumberOfTableValues(DIFFERENCE_COLORS)
    middle = DIFFERENCE_COLORS // 2
    for i in range(DIFFERENCE_COLORS):
        end, share = (_BLUE if i < middle else _RED), abs(i - middle) / middle
        table.SetTableValue(i, *(gray + share * (c - gray) for gray, c in zip(_GRAY, end, strict=True)), 1.0)
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetName("ASCON difference")
        node.SetSingletonTag(_COLOR_TAG)
        node.SetAttribute("Category", "ASCON")
        scene.AddNode(node)
    node.SetTypeToUser()
    node.SetLookupTable(table)
    node.SetNamesFromColors()
    return node


def show_as_difference(node: slicer.vtkMRMLScalarVolumeNode, limit_hu: float = DIFFERENCE_LIMIT_HU) -> None:
    """Shows a difference volume in diverging colours from -limit to +limit HU."""
    display = node.GetVolumeDisplayNode()
    display.SetAndObserveColorNodeID(difference_colors(node.GetScene()).GetID())
    display.SetApplyThreshold(False)
    _set_window(display, (-limit_hu, limit_hu))
    if (scale := _scale_of(node)) is not None:
        scale.Modified()  # its labels follow


def show_scale(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode:
    """Gives a difference volume a scale of its colours, in HU; to be called when its view is there, and again for
    another view: a view draws scales that were added to the scene after it."""
    if (old := _scale_of(node)) is not None:
        node.GetScene().RemoveNode(old)
    display = node.GetVolumeDisplayNode()
    scale = slicer.vtkMRMLColorLegendDisplayNode()
    scale.SetName(f"{node.GetName()} scale")
    scale.SetTitleText("HU")
    scale.SetNumberOfLabels(5)
    scale.SetLabelFormat("%.0f")
    for text in (scale.GetTitleTextProperty(), scale.GetLabelTextProperty()):  # legible on light gray too
        text.SetBackgroundColor(0, 0, 0)
        text.SetBackgroundOpacity(0.6)
    node.GetScene().AddNode(scale)
    scale.SetAndObservePrimaryDisplayNode(display)
    node.AddAndObserveDisplayNodeID(scale.GetID())
    scale.Modified()  # the views look at it only now
    return scale


def _scale_of(node: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLColorLegendDisplayNode | None:
    return slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)


# -------------------------------------------------------------------------------------------------------- compare views

PANES = ("LDCT", "denoised", "NDCT", "difference")
"""What can be compared; LDCT and denoised always are."""

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
    """The layout: up to three views in a row, four in two rows. `labels` are what the panes are called on show."""
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


def compare(
    scene: slicer.vtkMRMLScene, volumes: Mapping[str, slicer.vtkMRMLScalarVolumeNode]
) -> list[slicer.vtkMRMLSliceNode]:
    """Puts one volume into each pane (a key of `volumes`) and links the views: same slice, same zoom.

    The layout must be on, so that the views exist. A view that the user has moved already keeps its place: the others
    follow the first; call `show_slice` to begin in the middle. Returns the slice nodes, in the order of the panes.

    Raises NodeError where a view is missing.
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
    match_views(views)
    return views


def slice_view(
    scene: slicer.vtkMRMLScene, pane: str
) -> tuple[slicer.vtkMRMLSliceNode, slicer.vtkMRMLSliceCompositeNode]:
    """The slice node and the composite node of a pane. Raises NodeError where the layout has not made them yet."""
    found = []
    for class_name in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode"):
        nodes = (scene.GetNthNodeByClass(i, class_name) for i in range(scene.GetNumberOfNodesByClass(class_name)))
        found.append(next((node for node in nodes if node.GetLayoutName() == view_name(pane)), None))
    if None in found:
        raise NodeError(f"There is no view for {pane}. Choose the compare layout first.")
    return tuple(found)


def match_views(views: Sequence[slicer.vtkMRMLSliceNode]) -> None:
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
    """Turns the views into the volume's own axial plane, at a slice (None: the middle one), with all of it in view."""
    columns, rows, count = volume.GetImageData().GetDimensions()
    middle = ((columns - 1) / 2, (rows - 1) / 2, float((count - 1) // 2 if index is None else index), 1.0)
    centre = _ijk_to_world(volume).MultiplyPoint(middle)[:3]
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
    vtk.vtkMatrix4x4.Invert(_ijk_to_world(volume), world_to_ijk)
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
    return [plane[0] for plane in shown_planes(volume, views) if len(plane) == 1]


def _ijk_to_world(volume: slicer.vtkMRMLScalarVolumeNode) -> vtk.vtkMatrix4x4:
    """Voxel (i, j, k) -> RAS as the views have it, the volume's linear transforms included."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    transform = volume.GetParentTransformNode()
    if transform is not None and transform.IsTransformToWorldLinear():
        to_world = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(to_world)
        vtk.vtkMatrix4x4.Multiply4x4(to_world, matrix, matrix)
    return matrix


def reveal(
    composite: slicer.vtkMRMLSliceCompositeNode,
    before: slicer.vtkMRMLScalarVolumeNode,
    after: slicer.vtkMRMLScalarVolumeNode,
    share: float,
) -> None:
    """One view for both: 0 shows what was before, 1 what is after, between them they fade. 0 and 1 in turn: flicker."""
    composite.SetBackgroundVolumeID(before.GetID())
    composite.SetForegroundVolumeID(after.GetID())
    composite.SetForegroundOpacity(min(max(share, 0.0), 1.0))


# -------------------------------------------------------------------------------------------------------------- numbers


def number_rows(measured: Mapping[str, Any], _: Callable[[str], str] = str) -> list[tuple[str, ...]]:
    """What `steps.measure` returns as rows of text, the header first, which says the strength that was measured.

    Args:
        _: translates; the numbers are not translated.
    """
    quality, metrics = measured["quality"], {numbers["name"]: numbers for numbers in measured["metrics"]}
    denoised = _("Denoised, {percent} %").format(percent=f"{100 * measured['strength']:.0f}")
    rows: list[tuple[str, ...]] = [(_("Measure"), "LDCT", denoised, "NDCT")]

    def add(title: str, *values: str) -> None:
        if any(values):
            rows.append((title, *values, *[""] * (3 - len(values))))

    noise = [quality[f"noise_{which}"] for which in ("before", "after", "reference")]
    add(_("Noise in soft tissue, SD [HU]"), *(_number(value and value["sd_hu"], 1) for value in noise))
    add(_("Noise removed [%]"), "", _number(quality["noise_reduction_percent"], 0))
    frequencies = quality["nps_mean_before"], quality["nps_mean_after"]
    add(_("Noise frequency [1/mm]"), *(_number(value, 2) for value in frequencies))
    for title, metric, factor, digits in (
        (_("PSNR [dB]"), "psnr_db", 1, 2),
        (_("SSIM x 100"), "ssim", 100, 2),
        (_("RMSE [HU]"), "rmse_hu", 1, 2),
    ):
        cells = (_mean_sd(metrics.get(name), metric, factor, digits) for name in ("LDCT", "denoised"))
        add(title, *cells)
    against = _("HU shift from NDCT") if quality["has_reference"] else _("HU shift from LDCT")
    tissues = {
        "air": _("air"),
        "lung": _("lung"),
        "fat": _("fat"),
        "soft tissue": _("soft tissue"),
        "contrast": _("contrast medium"),
        "bone": _("bone"),
    }
    for shift in quality["hu_shift"]:
        name = tissues.get(shift["tissue"], shift["tissue"])
        add(f"{against}: {name}", "", _number(shift["shift_hu"], 1, sign=True))
    if not quality["has_reference"]:
        rows = [row[:3] for row in rows]
    return rows


def rows_as_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows for the clipboard: spreadsheets put each cell where it belongs."""
    return "\n".join("\t".join(row) for row in rows) + "\n"


def number_table(
    scene: slicer.vtkMRMLScene,
    name: str,
    rows: Sequence[Sequence[str]],
    node: slicer.vtkMRMLTableNode | None = None,
) -> slicer.vtkMRMLTableNode:
    """A table node of rows of text, the header first; a new one, or `node` with its contents replaced."""
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLTableNode", name)
    table = vtk.vtkTable()
    for c, title in enumerate(rows[0]):
        column = vtk.vtkStringArray()
        column.SetName(title)
        for row in rows[1:]:
            column.InsertNextValue(row[c])
        table.AddColumn(column)
    node.SetAndObserveTable(table)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetUseFirstColumnAsRowHeader(True)
    node.SetLocked(True)
    return node


def _number(value: float | None, digits: int, *, sign: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    return text.replace("-", "").replace("+", "") if float(text) == 0 else text


def _mean_sd(numbers: Mapping[str, Any] | None, metric: str, factor: float, digits: int) -> str:
    if numbers is None:
        return ""
    mean, sd = numbers["mean"][metric], numbers["sd"][metric]
    if mean is None:
        return "inf" if metric == "psnr_db" else ""
    text = f"{mean * factor:.{digits}f}"
    return text if sd is None else f"{text} ± {sd * factor:.{digits}f}"
