"""The section Compare: side by side in linked views, one window for all, before and after in one view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode as Volume
from slicer.i18n import tr as _

from ASCONDenoiseLib.errors import AsconError, Failure
from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.scene import compare_layout, display

FLICKER_MS = 500


def registerLayouts() -> None:
    """Makes the compare layouts known to Slicer's views; nothing where it runs without its main window."""
    manager = slicer.app.layoutManager()
    if manager is not None:
        compare_layout.register_compare_layouts(manager.layoutLogic().GetLayoutNode(), _labels())


def isCompareLayout(layout: int) -> bool:
    """Whether this is the number of one of our layouts."""
    return layout in compare_layout.COMPARE_LAYOUTS.values()


class CompareSection:
    """Buttons and sliders for comparing; the button "Side by side" is down while the compare views are on."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        self.ui = ui = panel.ui
        self._views = CompareViews()
        self._flickerTimer = qt.QTimer()
        self._flickerTimer.timeout.connect(self.onFlicker)
        for name in hounsfield.DISPLAY_WINDOWS_HU:
            getattr(ui, f"{name}Button").clicked.connect(lambda _on, name=name: self.showWindow(name))
        ui.compareButton.clicked.connect(self.onCompareButton)
        ui.differenceButton.clicked.connect(self.onDifferenceButton)
        ui.differenceSlider.valueChanged.connect(self.onDifferenceRange)
        ui.revealSlider.valueChanged.connect(self.onReveal)
        ui.flickerButton.toggled.connect(self.onFlickerButton)

    def close(self) -> None:
        """Lets go of the volumes."""
        self._flickerTimer.stop()
        self._views.shareWindow([])

    def update(self) -> None:
        """Follows the user's choices and the last result."""
        ui, choices, run = self.ui, self.panel.choices, self.panel.logic.run
        if choices is None:
            return
        both = choices.inputVolume is not None and choices.outputVolume is not None
        ui.compareButton.enabled = ui.revealSlider.enabled = ui.flickerButton.enabled = both
        ui.differenceButton.enabled = run is not None
        ui.differenceButton.toolTip = _("Another view: denoised less LDCT, in HU.") if run else _("Denoise first.")
        if self._views.volumes and self._views.volumes != self._volumes():
            if both:
                self.show()
            else:
                self.leave()

    def _volumes(self) -> dict[str, Volume]:
        """What there is to compare, by the pane that shows it."""
        choices, run = self.panel.choices, self.panel.logic.run
        if choices is None:
            return {}
        volumes = {"LDCT": choices.inputVolume, "denoised": choices.outputVolume, "NDCT": choices.referenceVolume}
        if self.ui.differenceButton.checked and run is not None:
            volumes["difference"] = run.difference
        return {pane: volume for pane, volume in volumes.items() if volume is not None}

    def _imagesInHu(self) -> list[Volume]:
        """The volumes that share a window: all but the difference."""
        return [volume for pane, volume in self._volumes().items() if pane != "difference"]

    # Side by side

    def show(self) -> None:
        """Shows the volumes side by side."""
        try:
            self._views.show(self._volumes())
        except AsconError as error:
            self._views.leave()
            self.panel.say(str(error))
        self.ui.compareButton.checked = bool(self._views.volumes)
        self._views.shareWindow(self._imagesInHu())
        self.onReveal()

    def leave(self) -> None:
        """Puts the views back as they were."""
        self.ui.compareButton.checked = self.ui.differenceButton.checked = False
        self.panel.logic.setDifferenceRange(None)
        self._views.leave()

    def resume(self) -> None:
        """Shows the volumes of a scene that was saved side by side."""
        manager = slicer.app.layoutManager()
        saved = manager is not None and isCompareLayout(manager.layout) and not self._views.volumes
        if saved and {"LDCT", "denoised"} <= self._volumes().keys():
            self.show()

    def onCompareButton(self) -> None:
        if self.ui.compareButton.checked:
            self.show()
        else:
            self.leave()

    def onLayoutChanged(self, layout: int) -> None:
        """Leaves the compare views where the user has chosen others with Slicer's own buttons."""
        if self._views.volumes and not isCompareLayout(layout):
            self.leave()

    def onDifferenceButton(self) -> None:
        wanted = self.ui.differenceButton.checked
        self.panel.logic.setDifferenceRange(self.panel.choices.differenceRange if wanted else None)
        run = self.panel.logic.run
        if not wanted or run is not None and run.difference is not None:
            self.show()

    def onDifferenceRange(self, rangeHu: float) -> None:
        if self.ui.differenceButton.checked:
            self.panel.logic.setDifferenceRange(rangeHu)

    # Window, before and after

    def showWindow(self, name: str) -> None:
        """Shows all volumes with one of the display windows."""
        display.set_window(self._imagesInHu(), hounsfield.DISPLAY_WINDOWS_HU[name])

    def showResult(self) -> None:
        """Shows the result over the LDCT, in the views that there are."""
        self.ui.revealSlider.value = 100
        self._views.shareWindow(self._imagesInHu())
        self.onReveal()

    def onReveal(self) -> None:
        volumes = self._volumes()
        if "LDCT" in volumes and "denoised" in volumes:
            self._views.reveal(volumes["LDCT"], volumes["denoised"], self.ui.revealSlider.value / 100)

    def onFlickerButton(self, on: bool) -> None:
        if on:
            self._flickerTimer.start(FLICKER_MS)
        else:
            self._flickerTimer.stop()
            self.ui.revealSlider.value = 100

    def onFlicker(self) -> None:
        self.ui.revealSlider.value = 0 if self.ui.revealSlider.value else 100


class CompareViews:
    """The compare views, and the layout that was on before.

    Attributes:
        volumes: what the compare views show, by pane; empty while they are off.
    """

    def __init__(self) -> None:
        self.volumes: Mapping[str, Volume] = {}
        self._layoutBefore = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
        self._sharedWindow: display.SharedWindow | None = None

    def show(self, volumes: Mapping[str, Volume]) -> None:
        """Lays the volumes (LDCT, denoised, perhaps NDCT and difference) out, at the slice that was on show.

        Raises Failure where Slicer has no views.
        """
        manager = slicer.app.layoutManager()
        if manager is None:
            raise Failure(_("There are no views to compare in: Slicer runs without its main window."))
        registerLayouts()
        on = isCompareLayout(manager.layout)
        sliceNodes = [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if _isPane(node) == on]
        shown = compare_layout.shown_slices(volumes["LDCT"], sliceNodes)
        if not on:
            self._layoutBefore = manager.layout
        self.volumes = volumes
        manager.setLayout(compare_layout.COMPARE_LAYOUTS[tuple(volumes)])
        slicer.app.processEvents()  # the views take their size
        views = compare_layout.compare_volumes(slicer.mrmlScene, volumes)
        compare_layout.show_slice(views, volumes["LDCT"], shown[0] if shown else None)
        if "difference" in volumes:
            display.show_scale(volumes["difference"])

    def leave(self) -> None:
        """Puts the views back as they were, unless the user has chosen others already."""
        manager = slicer.app.layoutManager()
        if self.volumes and isCompareLayout(manager.layout):
            manager.setLayout(self._layoutBefore)
        self.volumes = {}

    def shareWindow(self, volumes: Sequence[Volume]) -> None:
        """Keeps one window for these from now on: whichever is changed, the others follow."""
        if self._sharedWindow is not None:
            self._sharedWindow.close()
        self._sharedWindow = display.SharedWindow(volumes)

    def reveal(self, before: Volume, after: Volume, opacity: float) -> None:
        """Shows two volumes in one view: that of the denoised volume, or each of Slicer's own.

        Args:
            before: the LDCT.
            after: the denoised volume.
            opacity: of `after`, 0 to 1.
        """
        denoisedView = compare_layout.view_name("denoised")
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if composite.GetLayoutName() == denoisedView or not _isPane(composite):
                display.reveal(composite, before, after, opacity)
        labels = _labels()
        label = labels["LDCT"] if opacity <= 0 else labels["denoised"] if opacity >= 1 else _("LDCT + denoised")
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            if view.GetLayoutName() == denoisedView:  # it never shows the LDCT under another name
                view.SetLayoutLabel(label)


def _labels() -> dict[str, str]:
    """What the panes are called on show."""
    return {"LDCT": _("LDCT"), "denoised": _("denoised"), "NDCT": _("NDCT"), "difference": _("difference")}


def _isPane(node: Any) -> bool:
    """Whether a slice node or composite node belongs to the compare views."""
    return node.GetLayoutName() in [compare_layout.view_name(pane) for pane in compare_layout.PANES]
