"""Volumes side by side in linked views, one window for all of them, and before and after in one view."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from .. import mrml


class Comparison:
    """The compare layout while it is on, and the layout that was on before."""

    def __init__(self):
        self.volumes = {}  # on show, by pane
        self._layoutBefore = None
        self._sharedWindow = None

    def show(self, volumes: dict) -> None:
        """Lays the volumes (LDCT, denoised, perhaps NDCT and difference) out, at the slice that was on show.

        Raises RuntimeError where Slicer has no views.
        """
        manager = slicer.app.layoutManager()
        if manager is None:
            raise RuntimeError(_("There are no views to compare in: Slicer runs without its main window."))
        active = bool(self.volumes)
        shown = mrml.shown_slices(volumes["LDCT"], _views(ours=active))
        number = mrml.register_compare_layout(manager.layoutLogic().GetLayoutNode(), list(volumes))
        if not active:
            self._layoutBefore = manager.layout
        self.volumes = volumes
        manager.setLayout(number)
        slicer.app.processEvents()  # the views take their size
        views = mrml.compare(slicer.mrmlScene, volumes)
        mrml.show_slice(views, volumes["LDCT"], shown[0] if shown else None)

    def leave(self) -> None:
        """Puts the views back as they were."""
        if self.volumes:
            slicer.app.layoutManager().setLayout(self._layoutBefore)
        self.volumes = {}

    def shareWindow(self, volumes: list) -> None:
        """One window for these from now on: whichever is changed, the others follow."""
        if self._sharedWindow is not None:
            self._sharedWindow.close()
        self._sharedWindow = mrml.SharedWindow(volumes)

    def reveal(self, before, after, share: float) -> None:
        """Both in one view: that of the denoised volume, or each of the usual ones. 0 shows before, 1 after."""
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetLayoutName() == mrml.view_name("denoised") or not _isOurs(composite):
                mrml.reveal(composite, before, after, share)


def _views(*, ours: bool) -> list:
    """Slice nodes of the compare layout, or Slicer's own."""
    return [view for view in slicer.util.getNodesByClass("vtkMRMLSliceNode") if _isOurs(view) == ours]


def _isOurs(node) -> bool:
    return node.GetLayoutName() in [mrml.view_name(pane) for pane in mrml.PANES]
