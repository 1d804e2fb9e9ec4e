"""The section Anatomy: finds clusters, and shows their table, their display and a plot that is linked to the slices.

A point that is selected in the plot moves the crosshair and all slice views to its place; the place of the crosshair,
which follows the mouse while Shift is held, marks the nearest point in the plot.
"""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from slicer import vtkMRMLSegmentationNode as Segmentation
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin
from vtk.util import numpy_support

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.panel import network_input
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.sections.compare import isCompareLayout
from ASCONDenoiseLib.panel.table_widget import fillTable
from ASCONDenoiseLib.panel.task_button import TaskButton
from ASCONDenoiseLib.requirements import ANATOMY
from ASCONDenoiseLib.scene import anatomy_nodes

DATA_SELECTED = "dataSelected(vtkStringArray*,vtkCollection*)"


class AnatomySection(VTKObservationMixin):
    """Finds the anatomy and shows one segmentation node; all that it shows is read from the nodes.

    Attributes:
        task: the button that finds the anatomy.
        segmentation: what the section shows; None for nothing.
    """

    def __init__(self, panel: PanelContext):
        VTKObservationMixin.__init__(self)
        self.panel = panel
        self.ui = ui = panel.ui
        widgets = ui.anatomyButton, ui.anatomyProgressBar, ui.anatomyStatusLabel
        self.task = TaskButton("anatomy", panel, widgets)
        self.segmentation: Segmentation | None = None
        self._layoutBefore: int | None = None  # the layout that was on before the plot
        self._views: list = []  # plot views whose selection is followed
        self._crosshair: Any = None  # its node, while the plot is on
        self._crosshairWasHidden = False  # before the plot was shown
        self._place: tuple[float, float, float] | None = None  # of the crosshair, when it was last looked at
        ui.anatomyButton.clicked.connect(self.onAnatomyButton)
        ui.plotButton.clicked.connect(self.onPlotButton)
        ui.anatomyOpacitySlider.valueChanged.connect(lambda _percent: self._applyDisplay())
        ui.anatomyOutlinesCheckBox.toggled.connect(lambda _on: self._applyDisplay())

    def close(self) -> None:
        """Lets go of nodes and views."""
        self._unlink()
        self.segmentation = None
        self.removeObservers()

    def update(self) -> None:
        """Follows the user's choices."""
        choices, logic = self.panel.choices, self.panel.logic
        self._show(choices.anatomy if choices is not None else None)
        if choices is None:
            self.ui.anatomyButton.enabled = False
            return
        purpose = _("Cluster the voxels of the LDCT volume by what the model sees in them.")
        obstacle = network_input.obstacle(choices.inputVolume, model=choices.model)
        self.task.update(_("Find the anatomy"), purpose, obstacle)
        self.ui.anatomyProgressBar.visible = logic.tasks.busy("anatomy")

    def onAnatomyButton(self) -> None:
        def start() -> str:
            choices = self.panel.choices
            volume = choices.inputVolume
            self.panel.logic.findAnatomy(volume, choices.anatomy, choices.model, choices.device, choices.clusters)
            return _("Looking at {name}...").format(name=volume.GetName())

        self.task.startOrCancel(start, ANATOMY)

    def onFound(self) -> None:
        """Shows the result, which may be the node that it was before."""
        self.refresh()
        self.task.say(_("Done. Names are suggestions, from the HU of most of a cluster's voxels."))

    def _show(self, segmentation: Segmentation | None) -> None:
        if segmentation is self.segmentation:
            return
        wasOn = bool(self._views)
        self.segmentation = segmentation
        self.ui.pointLabel.text = ""
        self.refresh()
        self._applyDisplay()
        if wasOn and segmentation is None:
            self._leavePlot()
        elif wasOn:
            self._showPlot()
        self.onLayoutChanged()

    def refresh(self) -> None:
        """Shows what the nodes hold now."""
        ui, segmentation, there = self.ui, self.segmentation, self.segmentation is not None
        rows = anatomy_nodes.cluster_table(segmentation) if there else []
        fillTable(ui.anatomyTable, rows, anatomy_nodes.cluster_colors(segmentation) if rows else None)
        ui.anatomyLabel.text = messages.separation(anatomy_nodes.separation(segmentation), _) if there else ""
        ui.anatomyLabel.visible = there
        for widget in (ui.anatomyOpacitySlider, ui.anatomyOutlinesCheckBox, ui.plotButton):
            widget.enabled = there

    def _applyDisplay(self) -> None:
        if self.segmentation is not None:
            anatomy_nodes.set_opacity(self.segmentation, self.ui.anatomyOpacitySlider.value / 100)
            anatomy_nodes.set_outlines(self.segmentation, self.ui.anatomyOutlinesCheckBox.checked)

    # The plot

    def onPlotButton(self) -> None:
        if self.ui.plotButton.checked:
            self._showPlot()
        else:
            self._leavePlot()
        self.onLayoutChanged()

    def onLayoutChanged(self) -> None:
        """Follows the plot, which comes and goes with Slicer's own buttons, the compare views and scenes too."""
        on = self._plotIsOn()
        self.ui.plotButton.checked = on
        if on and not self._views:
            self._link()
        elif not on:
            self._unlink()

    def _showPlot(self) -> None:
        manager, chart = slicer.app.layoutManager(), anatomy_nodes.chart_of(self.segmentation)
        if manager is None:
            self.ui.pointLabel.text = _("There are no views for a plot: Slicer runs without its main window.")
        elif chart is None:
            self.ui.pointLabel.text = _("The plot was removed from the scene. Find the anatomy again.")
        else:
            if not _hasPlot(manager.layout):
                four = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
                self._layoutBefore = four if isCompareLayout(manager.layout) else manager.layout
            slicer.modules.plots.logic().ShowChartInLayout(chart)
            for view in self._plotViewNodes():  # a drag selects points, which is what the link needs
                view.SetInteractionMode(slicer.vtkMRMLPlotViewNode.InteractionModeSelectPoints)

    def _leavePlot(self) -> None:
        manager = slicer.app.layoutManager()
        if manager is not None and _hasPlot(manager.layout):  # a saved scene may begin with the plot
            manager.setLayout(self._layoutBefore or slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def _plotIsOn(self) -> bool:
        manager = slicer.app.layoutManager()
        return manager is not None and _hasPlot(manager.layout) and bool(self._plotViewNodes())

    def _plotViewNodes(self) -> list:
        """The plot views with the chart of this anatomy."""
        chart = anatomy_nodes.chart_of(self.segmentation) if self.segmentation is not None else None
        views = slicer.util.getNodesByClass("vtkMRMLPlotViewNode")
        return [view for view in views if chart is not None and view.GetPlotChartNodeID() == chart.GetID()]

    # The link of plot and slice views

    def _link(self) -> None:
        manager = slicer.app.layoutManager()
        self._views = [manager.plotWidget(i).plotView() for i in range(manager.plotViewCount)]
        for view in self._views:
            view.connect(DATA_SELECTED, self.onDataSelected)
        self._crosshair = crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            self._place = crosshair.GetCrosshairRAS()
            self._crosshairWasHidden = crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair
            if self._crosshairWasHidden:
                crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
            self.addObserver(crosshair, vtk.vtkCommand.ModifiedEvent, self.onCrosshairModified)
        self.ui.pointLabel.text = _(
            "Click a point of the plot, or drag over some: the slices jump there. Hold Shift and move the mouse over "
            "a slice: the nearest point is marked in the plot."
        )

    def _unlink(self) -> None:
        if self._views:
            self.ui.pointLabel.text = ""
        for view in self._views:
            if view:
                view.disconnect(DATA_SELECTED, self.onDataSelected)
        self._views = []
        if self._crosshair is not None:
            self.removeObserver(self._crosshair, vtk.vtkCommand.ModifiedEvent, self.onCrosshairModified)
            if self._crosshairWasHidden:
                self._crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)
            self._crosshair = None

    def onDataSelected(self, seriesIds: vtk.vtkStringArray, selections: vtk.vtkCollection) -> None:
        """Gets the series of a plot view with selected points, and which points those are."""
        ids = [seriesIds.GetValue(i) for i in range(seriesIds.GetNumberOfValues())]
        rows = [numpy_support.vtk_to_numpy(selections.GetItemAsObject(i)) for i in range(len(ids))]
        point = anatomy_nodes.selected_point(self.segmentation, ids, rows) if self.segmentation is not None else None
        if point is None:
            return
        place = anatomy_nodes.place_of(self.segmentation, point)
        if place is None:
            self.ui.pointLabel.text = _("The volume of this anatomy was removed from the scene.")
            return
        if self._crosshair is not None:
            self._place = place
            self._crosshair.SetCrosshairRAS(place)
        offset = slicer.vtkMRMLSliceNode.OffsetJumpSlice
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *place, offset)
        self._mark(point, 0.0)

    def onCrosshairModified(self, _caller: Any = None, _event: Any = None) -> None:
        place = self._crosshair.GetCrosshairRAS()
        if place == self._place or self.segmentation is None:
            return
        self._place = place
        if (nearest := anatomy_nodes.nearest_point(self.segmentation, place)) is not None:
            self._mark(*nearest)

    def _mark(self, point: int, distanceMm: float) -> None:
        anatomy_nodes.mark_point(self.segmentation, point, _("picked"))
        name = anatomy_nodes.point_name(self.segmentation, point)
        away = _("{name}, {distance} mm away").format(name=name, distance=f"{distanceMm:.0f}")
        self.ui.pointLabel.text = away if distanceMm else name


def _hasPlot(layout: int) -> bool:
    """Whether Slicer knows this layout as one with a plot view.

    Asked of the class, not of the module Plots: Slicer unloads that first when it quits, and this panel goes later.
    """
    return slicer.vtkSlicerPlotsLogic.GetLayoutWithPlot(layout) == layout
