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
from ASCONDenoiseLib.panel.network_input import openDatabase
from ASCONDenoiseLib.scene import anatomy_nodes, compare_layout, display
from ASCONDenoiseLib.scene.body import suggested_window
from ASCONDenoiseLib.scene.provenance import provenance
from ASCONDenoiseLib.scene.view_fit import FittedViews
from ASCONDenoiseLib.scene.volumes import volume_facts

FLICKER_MS = 500


def registerLayouts() -> None:
    """Makes the compare layouts known to Slicer's views, in as many columns as suit their place in the window.

    Does nothing where Slicer runs without its main window.
    """
    manager = slicer.app.layoutManager()
    if manager is not None:
        viewport = manager.viewport()
        size = (viewport.width, viewport.height)
        node = manager.layoutLogic().GetLayoutNode()
        compare_layout.register_compare_layouts(node, compare_layout.pane_labels(1.0, translate=_), size)


def isCompareLayout(layout: int) -> bool:
    """Whether this is the number of one of our layouts."""
    return layout in compare_layout.COMPARE_LAYOUTS.values()


class CompareSection:
    """Buttons and sliders for comparing; the button "Side by side" is down while the compare views are on."""

    def __init__(self, panel: PanelContext):
        self.panel = panel
        self.ui = ui = panel.ui
        self._views = CompareViews()
        self._preview: Volume | None = None
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
        self._views.release()

    def update(self) -> None:
        """Follows the user's choices and the last result."""
        ui, choices = self.ui, self.panel.choices
        if choices is None:
            return
        pair = choices.inputVolume, choices.outputVolume
        both = None not in pair
        for widget in (ui.compareButton, ui.differenceButton):
            widget.enabled = both
        for widget in (ui.revealSlider, ui.flickerButton):
            widget.enabled = both or self._preview is not None
        ui.differenceButton.toolTip = _("Another view: denoised less LDCT, in HU.") if both else _("Denoise first.")
        if both and ui.differenceButton.checked and self.panel.logic.differencePair != pair:
            self._showDifference()
        if self._views.volumes and self._views.volumes != self._volumes():
            if both:
                self.show()
            else:
                self.leave()

    def _volumes(self) -> dict[str, Volume]:
        """What there is to compare, by the pane that shows it."""
        choices = self.panel.choices
        if choices is None:
            return {}
        volumes = {"LDCT": choices.inputVolume, "denoised": choices.outputVolume, "NDCT": choices.referenceVolume}
        if self.ui.differenceButton.checked and None not in (choices.inputVolume, choices.outputVolume):
            volumes["difference"] = self.panel.logic.differenceOf(choices.inputVolume, choices.outputVolume)
        return {pane: volume for pane, volume in volumes.items() if volume is not None}

    def _imagesInHu(self) -> list[Volume]:
        """The volumes that share a window: all but the difference."""
        volumes = [volume for pane, volume in self._volumes().items() if pane != "difference"]
        return volumes if self._preview is None else [*volumes, self._preview]

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
        self.panel.logic.hideDifference()
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
        choices, logic = self.panel.choices, self.panel.logic
        if not self.ui.differenceButton.checked:
            logic.hideDifference()
            self.show()
        else:
            self._showDifference()
            if logic.differenceOf(choices.inputVolume, choices.outputVolume) is not None:
                self.show()

    def _showDifference(self) -> None:
        """Has the difference computed where it is not there, with the user's range or one that suits its spread."""
        choices = self.panel.choices
        rangeHu = choices.differenceRange if choices.differenceRangeChosen else None
        self.panel.logic.showDifference(choices.inputVolume, choices.outputVolume, rangeHu)

    def onDifferenceMade(self, difference: Volume) -> None:
        """Shows a new difference, and its range on the slider."""
        self.panel.choices.differenceRange = display.window_of(difference)[1]
        self.show()

    def onDifferenceFailed(self) -> None:
        """Lets the button go, so that another click tries again."""
        self.ui.differenceButton.checked = False

    def onDifferenceRange(self, rangeHu: float) -> None:
        choices = self.panel.choices
        if choices is None or rangeHu == choices.differenceRange:  # it follows the choices, not the user
            return
        choices.differenceRangeChosen, choices.differenceRange = True, rangeHu
        if self.ui.differenceButton.checked:
            self._showDifference()

    # Window, before and after

    def showWindow(self, name: str) -> None:
        """Shows all volumes with one of the display windows."""
        display.set_window(self._imagesInHu(), hounsfield.DISPLAY_WINDOWS_HU[name])

    def showResult(self, preview: Volume | None = None) -> str:
        """Shows the result, or a preview in its place, over the LDCT in the views that there are.

        Where Slicer found the window by itself, whose whole range hides noise, one is set that suits what the volume
        shows. Returns a sentence that says so; "" where the user's window stays.
        """
        self._preview = preview
        self.ui.revealSlider.value = 100
        ldct = self.panel.choices.inputVolume
        said = ""
        if display.is_automatic_window(ldct):
            database = openDatabase()
            facts = volume_facts(ldct, database.instanceValue if database else None)
            name = suggested_window(ldct, facts.get("body_part", ""))
            self.showWindow(name)
            said = _("Shown with the window {name}.").format(name=getattr(self.ui, f"{name}Button").text)
        self._views.shareWindow(self._imagesInHu())
        self.onReveal()
        return said

    def endPreview(self) -> None:
        """Shows the result again, where there is one."""
        self._preview = None
        self._views.shareWindow(self._imagesInHu())
        self.onReveal()

    def onReveal(self) -> None:
        """Shows as much of the denoised volume over the LDCT as the slider says."""
        volumes = self._volumes()
        after = self._preview or volumes.get("denoised")
        if "LDCT" in volumes and after is not None:
            self._views.reveal(volumes["LDCT"], after, self.ui.revealSlider.value / 100)
        self.labelPanes()

    def labelPanes(self) -> None:
        """Says in the panes' names which strength is seen; none is the LDCT under another name."""
        volumes, logic, opacity = self._volumes(), self.panel.logic, self.ui.revealSlider.value / 100
        if "denoised" not in volumes:
            return
        denoised = volumes["denoised"]
        known = logic.strength if logic.run is not None and logic.run.output is denoised else _strengthOf(denoised)
        labels = compare_layout.pane_labels(1.0 if known is None else known, opacity, _)
        if known is None and opacity > 0:
            labels["denoised"] = _("denoised") if opacity == 1 else _("both")
        if self._preview is not None and opacity > 0:
            labels["denoised"] = _("preview") if opacity == 1 else _("both")
        compare_layout.label_panes(slicer.mrmlScene, labels)

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
        self._fitted: FittedViews | None = None

    def show(self, volumes: Mapping[str, Volume]) -> None:
        """Lays the volumes (LDCT, denoised, perhaps NDCT and difference) out, at the slice that was on show.

        The views are fitted to the body, and again when the layout gives them their size.

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
        anatomy_nodes.keep_off_difference(slicer.mrmlScene)
        self.release()
        views = compare_layout.compare_volumes(slicer.mrmlScene, volumes)
        compare_layout.show_slice(views, volumes["LDCT"], shown[0] if shown else None)
        scale = display.show_scale(volumes["difference"]) if "difference" in volumes else None
        self._fitted = FittedViews(views, volumes["LDCT"], lambda work: qt.QTimer.singleShot(0, work), scale, views[-1])

    def release(self) -> None:
        """Lets the views' zoom be what it is."""
        if self._fitted is not None:
            self._fitted.close()
            self._fitted = None

    def leave(self) -> None:
        """Puts the views back as they were, unless the user has chosen others already."""
        self.release()
        manager = slicer.app.layoutManager()
        if self.volumes and isCompareLayout(manager.layout):
            manager.setLayout(self._layoutBefore)
        anatomy_nodes.keep_off_difference(slicer.mrmlScene)
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


def _strengthOf(volume: Volume) -> float | None:
    """The strength that the volume holds; None where nothing is known."""
    text = provenance(volume).get("ASCON.Strength")
    return None if text is None else float(text)


def _isPane(node: Any) -> bool:
    """Whether a slice node or composite node belongs to the compare views."""
    return node.GetLayoutName() in [compare_layout.view_name(pane) for pane in compare_layout.PANES]
