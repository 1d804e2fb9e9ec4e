"""Slice views that show the body as large as all of them can, with one zoom (mm per pixel) for all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import slicer
import vtk

from ASCONDenoiseLib.scene.body import body_box
from ASCONDenoiseLib.scene.volumes import ijk_to_ras_matrix, transformed

MARGIN = 0.03
"""Of the body's size, to each side."""

SCALE_PX = (64, 44)
"""Room for a scale of colours: its breadth where it stands at the right, its height where it lies at the bottom."""

BORDER_PX = 6
"""Between a scale and the lower border of the view."""

Point = tuple[float, float, float]


class FittedViews:
    """Fits slice views to the body, and again whenever one of them is resized, as while a layout settles.

    Where the user has zoomed, resizing keeps that zoom. All views have one zoom at any time; Slicer's own links give
    them one breadth in mm instead, which is another zoom in a view of another width. Call `close` at the end.
    """

    def __init__(
        self,
        views: Sequence[slicer.vtkMRMLSliceNode],
        volume: slicer.vtkMRMLScalarVolumeNode,
        later: Callable[[Callable[[], None]], None],
        scale: slicer.vtkMRMLColorLegendDisplayNode | None = None,
        scale_view: slicer.vtkMRMLSliceNode | None = None,
    ):
        """Fits the views.

        Args:
            views: slice nodes in one plane.
            volume: shows the body.
            later: calls what it is given when the event loop turns, e.g. by a timer of 0 ms. A slice node that is
                changed while it tells of a change would keep its old matrices.
            scale: of the colours of a difference, which is kept beside the body; None where there is none.
            scale_view: the view that shows it.
        """
        self._views, self._corners = list(views), body_corners(volume)
        self._scale, self._scale_view = scale, scale_view
        self._later, self._waiting, self._busy = later, False, False
        self._zoomed: slicer.vtkMRMLSliceNode | None = None  # the view that the user zooms in
        self.fit()
        event = vtk.vtkCommand.ModifiedEvent
        self._observers = [(view, view.AddObserver(event, self._modified)) for view in self._views]

    def close(self) -> None:
        """Stops following the views."""
        for view, observer in self._observers:
            view.RemoveObserver(observer)
        self._observers, self._views = [], []

    def fit(self) -> None:
        """Fits all views, whatever the user's zoom."""
        self._sizes = self._sizes_now()
        self._busy = True
        try:
            self._zoom = self._fitted = fit_views(self._shown(), self._corners, self._scale, self._scale_view)
        finally:
            self._busy = False

    def _sizes_now(self) -> dict[slicer.vtkMRMLSliceNode, tuple[int, int]]:
        return {view: view.GetDimensions()[:2] for view in self._views}

    def _shown(self) -> list[slicer.vtkMRMLSliceNode]:
        """The views of the layout; one that is maximised hides the others."""
        return [view for view in self._views if view.IsMappedInLayout()] or self._views

    def _modified(self, view: slicer.vtkMRMLSliceNode, _event: str) -> None:
        resized = view.GetDimensions()[:2] != self._sizes[view]
        if self._busy or not resized and _equal(zoom_of(view), self._zoom):
            return
        if not resized and (self._zoomed is None or view.GetInteracting()):  # linked views follow that one
            self._zoomed = view
        if not self._waiting:
            self._waiting = True
            self._later(self._update)

    def _update(self) -> None:
        self._waiting = False
        if not self._views:  # closed
            return
        zoomed, self._zoomed = self._zoomed, None
        if zoomed is not None:
            self._zoom = zoom_of(zoomed)
        elif _equal(self._zoom, self._fitted):
            self.fit()
            return
        self._sizes = self._sizes_now()
        self._busy = True
        try:
            for view in self._shown():
                set_zoom(view, self._zoom)
        finally:
            self._busy = False


def _equal(zoom: float, other: float) -> bool:
    return abs(zoom - other) <= 1e-6 * other


def body_corners(volume: slicer.vtkMRMLScalarVolumeNode) -> list[Point]:
    """The eight corners of the box around the body, in the views' RAS, the volume's transforms included."""
    to_ras, parent = ijk_to_ras_matrix(volume), volume.GetParentTransformNode()
    ends = [(first - 0.5, last + 0.5) for first, last in body_box(volume)]
    return [transformed(parent, None, to_ras.MultiplyPoint((*ijk, 1.0))[:3]) for ijk in itertools.product(*ends)]


def fit_views(
    views: Sequence[slicer.vtkMRMLSliceNode],
    corners: Sequence[Point],
    scale: slicer.vtkMRMLColorLegendDisplayNode | None = None,
    scale_view: slicer.vtkMRMLSliceNode | None = None,
) -> float:
    """Shows what lies between the corners in the middle of each view, with the zoom that all views have room for.

    Args:
        views: slice nodes in one plane, which they keep.
        corners: as from `body_corners`.
        scale, scale_view: as for `FittedViews`.

    Returns:
        The zoom, in mm per pixel.
    """
    zooms = []
    for view in views:
        ras_to_slice = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(view.GetSliceToRAS(), ras_to_slice)
        places = [ras_to_slice.MultiplyPoint((*corner, 1.0)) for corner in corners]
        ends = [(min(place[axis] for place in places), max(place[axis] for place in places)) for axis in (0, 1)]
        centre = view.GetSliceToRAS().MultiplyPoint((sum(ends[0]) / 2, sum(ends[1]) / 2, 0.0, 1.0))
        view.SetXYZOrigin(0, 0, 0)
        view.JumpSliceByCentering(*centre[:3])
        sizes_mm = [(1 + 2 * MARGIN) * (high - low) for low, high in ends]
        pixels = view.GetDimensions()[:2]
        zooms.append(_zoom_for(sizes_mm, pixels))
        if scale is not None and view is scale_view:
            beside, below = SCALE_PX
            upright = _zoom_for(sizes_mm, (pixels[0] - 2 * beside, pixels[1]))
            lying = _zoom_for(sizes_mm, (pixels[0], pixels[1] - 2 * (below + BORDER_PX)))
            zooms[-1] = min(upright, lying)
            place_scale(scale, pixels, upright=upright < lying)
    for view in views:
        set_zoom(view, max(zooms))
    return max(zooms)


def _zoom_for(sizes_mm: Sequence[float], pixels: Sequence[int]) -> float:
    return max(mm / max(count, 1) for mm, count in zip(sizes_mm, pixels, strict=True))


def zoom_of(view: slicer.vtkMRMLSliceNode) -> float:
    """mm per pixel."""
    return view.GetFieldOfView()[0] / max(view.GetDimensions()[0], 1)


def set_zoom(view: slicer.vtkMRMLSliceNode, mm_per_pixel: float) -> None:
    """Shows the same centre with another zoom; the thickness stays."""
    columns, rows, _ = (max(pixels, 1) for pixels in view.GetDimensions())
    wanted = (mm_per_pixel * columns, mm_per_pixel * rows, view.GetFieldOfView()[2])
    if any(abs(new - old) > 1e-9 * new for new, old in zip(wanted, view.GetFieldOfView(), strict=True)):
        view.SetFieldOfView(*wanted)
        view.UpdateMatrices()


def place_scale(scale: slicer.vtkMRMLColorLegendDisplayNode, pixels: Sequence[int], *, upright: bool) -> None:
    """Puts a scale of colours at the right of its view, or at the bottom, where it hides nothing of the body.

    Args:
        scale: the node.
        pixels: columns and rows of the view.
        upright: at the right, half as long as the view; otherwise at the bottom, beside the names of the volumes.
    """
    columns, rows = (max(count, 1) for count in pixels[:2])
    if upright:
        scale.SetOrientation(scale.Vertical)
        scale.SetSize(min(SCALE_PX[0] / columns, 1), 0.5)
        scale.SetPosition(0.98, 0.5)
    else:
        scale.SetOrientation(scale.Horizontal)
        scale.SetSize(min(SCALE_PX[1] / rows, 1), 0.5)
        scale.SetPosition(0.98, min(BORDER_PX / max(rows - SCALE_PX[1], BORDER_PX), 1))
