"""The panel's section Anatomy: the table of the clusters, how they are shown, and the plot that is linked to the views.

A point that is selected in the plot moves the crosshair and all slice views to its place; the place of the crosshair,
which follows the mouse while Shift is held, marks the nearest point in the plot.
"""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin
from vtk.util import numpy_support

from ASCONDenoiseLib import messages as wording
from ASCONDenoiseLib.panel.sections.compare import isOurs
from ASCONDenoiseLib.panel.sections.numbers import fillTable
from ASCONDenoiseLib.scene import anatomy_nodes

SELECTED = "dataSelected(vtkStringArray*,vtkCollection*)"


class AnatomySection(VTKObservationMixin):
    """What the panel shows of one segmentation node; all of it is read from the nodes."""

    def __init__(self, ui):
        VTKObservationMixin.__init__(self)
        self.ui = ui
        self.segmentation = None
        self._layoutBefore = None  # the plot
        self._views = []  # plot views whose selection is heard
        self._crosshair = None  # its node, while the plot is on
        self._crosshairHidden = False  # whether it was before
        self._place = None  # where the crosshair was when it was last looked at
        ui.plotButton.clicked.connect(self.onPlotButton)
        ui.anatomyOpacitySlider.valueChanged.connect(lambda _percent: self._applyDisplay())
        ui.anatomyOutlinesCheckBox.toggled.connect(lambda _on: self._applyDisplay())

    def close(self) -> None:
        """Lets go of nodes and views."""
        self._unlink()
        self.segmentation = None
        self.removeObservers()

    def show(self, segmentation) -> None:
        """Shows what the nodes of an anatomy hold; None: nothing."""
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
        """The nodes hold something else."""
        ui, segmentation, there = self.ui, self.segmentation, self.segmentation is not None
        rows = anatomy_nodes.cluster_table(segmentation) if there else []
        fillTable(ui.anatomyTable, rows, anatomy_nodes.cluster_colors(segmentation) if rows else None)
        ui.anatomyLabel.text = wording.separation(anatomy_nodes.separation(segmentation), _) if there else ""
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
        """The plot may come and go with Slicer's own buttons, with the compare views, with a scene."""
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
                self._layoutBefore = four if isOurs(manager.layout) else manager.layout
            slicer.modules.plots.logic().ShowChartInLayout(chart)
            for view in self._plotViewNodes():  # a drag selects: the views have nothing else to be linked with
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
            view.connect(SELECTED, self.onDataSelected)
        self._crosshair = crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            self._place = crosshair.GetCrosshairRAS()
            self._crosshairHidden = crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair
            if self._crosshairHidden:
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
                view.disconnect(SELECTED, self.onDataSelected)
        self._views = []
        if self._crosshair is not None:
            self.removeObserver(self._crosshair, vtk.vtkCommand.ModifiedEvent, self.onCrosshairModified)
            if self._crosshairHidden:
                self._crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)
            self._crosshair = None

    def onDataSelected(self, seriesIds, selections) -> None:
        """Of a plot view: the series with selected points, and which those are."""
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

    def onCrosshairModified(self, caller=None, event=None) -> None:
        place = self._crosshair.GetCrosshairRAS()
        if place == self._place or self.segmentation is None:
            return
        self._place = place
        if (found := anatomy_nodes.nearest_point(self.segmentation, place)) is not None:
            self._mark(*found)

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
