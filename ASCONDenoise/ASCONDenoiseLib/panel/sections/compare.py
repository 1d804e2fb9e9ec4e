"""Volumes side by side in linked views, one window for all of them, and before and after in one view."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from ASCONDenoiseLib.scene import mrml


def registerLayouts() -> None:
    """Makes the compare layouts known to Slicer's views; nothing where it runs without its main window."""
    manager = slicer.app.layoutManager()
    if manager is not None:
        mrml.register_compare_layouts(manager.layoutLogic().GetLayoutNode(), _labels())


class Comparison:
    """The compare layout while it is on, and the layout that was on before."""

    def __init__(self):
        self.volumes = {}  # on show, by pane
        self._layoutBefore = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
        self._sharedWindow = None

    def show(self, volumes: dict) -> None:
        """Lays the volumes (LDCT, denoised, perhaps NDCT and difference) out, at the slice that was on show.

        Raises RuntimeError where Slicer has no views.
        """
        manager = slicer.app.layoutManager()
        if manager is None:
            raise RuntimeError(_("There are no views to compare in: Slicer runs without its main window."))
        registerLayouts()
        ours = isOurs(manager.layout)
        shown = mrml.shown_slices(volumes["LDCT"], _views(ours=ours))
        if not ours:
            self._layoutBefore = manager.layout
        self.volumes = volumes
        manager.setLayout(mrml.COMPARE_LAYOUTS[tuple(volumes)])
        slicer.app.processEvents()  # the views take their size
        views = mrml.compare(slicer.mrmlScene, volumes)
        mrml.show_slice(views, volumes["LDCT"], shown[0] if shown else None)
        if "difference" in volumes:
            mrml.show_scale(volumes["difference"])

    def leave(self) -> None:
        """Puts the views back as they were, unless the user has chosen others already."""
        manager = slicer.app.layoutManager()
        if self.volumes and isOurs(manager.layout):
            manager.setLayout(self._layoutBefore)
        self.volumes = {}

    def shareWindow(self, volumes: list) -> None:
        """One window for these from now on: whichever is changed, the others follow."""
        if self._sharedWindow is not None:
            self._sharedWindow.close()
        self._sharedWindow = mrml.SharedWindow(volumes)

    def reveal(self, before, after, share: float) -> None:
        """Both in one view: that of the denoised volume, or each of the usual ones. 0 shows before, 1 after."""
        ours = mrml.view_name("denoised")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetLayoutName() == ours or not _isPane(composite):
                mrml.reveal(composite, before, after, share)
        labels = _labels()
        label = labels["LDCT"] if share <= 0 else labels["denoised"] if share >= 1 else _("LDCT + denoised")
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if view.GetLayoutName() == ours:  # it never shows the LDCT under another name
                view.SetLayoutLabel(label)


def _labels() -> dict:
    """What the panes are called on show."""
    return {"LDCT": _("LDCT"), "denoised": _("denoised"), "NDCT": _("NDCT"), "difference": _("difference")}


def isOurs(layout: int) -> bool:
    """Whether this is the number of a compare layout."""
    return layout in mrml.COMPARE_LAYOUTS.values()


def _views(*, ours: bool) -> list:
    """Slice nodes of the compare layouts, or Slicer's own."""
    return [view for view in slicer.util.getNodesByClass("vtkMRMLSliceNode") if _isPane(view) == ours]


def _isPane(node) -> bool:
    return node.GetLayoutName() in [mrml.view_name(pane) for pane in mrml.PANES]
