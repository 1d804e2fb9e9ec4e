"""The section Image quality: what denoising did to regions, edges, noise and structure of the last result.

All is measured in workers. Regions and the edge follow the strength at once; the places and maps of "Was it noise?" are
those of the strength at which they were looked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.imaging.number_tables import number, place_rows, region_rows
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.latest_job import LatestJob
from ASCONDenoiseLib.panel.sections.chart_view import ChartView
from ASCONDenoiseLib.panel.table_widget import fillTable
from ASCONDenoiseLib.panel.task_button import TaskButton
from ASCONDenoiseLib.panel.task_queue import Task
from ASCONDenoiseLib.requirements import REPORT
from ASCONDenoiseLib.scene import quality_nodes, quality_operations

DRAWN = {"lesion": "ASCON.Lesion", "background": "ASCON.Background", "edge": "ASCON.Edge"}
"""What the user drew -> node reference of the parameter node, which keeps the choice with the scene."""

MAX_PLACES = 30
"""That the table lists."""


class QualitySection(VTKObservationMixin):
    """Measures what the user drew, plots spectra and profiles, finds places, shows maps, writes the report.

    Attributes:
        inspectTask: the button "Was it noise?".
        reportTask: the button that writes the report.
        regions: measures what the user drew.
    """

    def __init__(self, panel: PanelContext):
        VTKObservationMixin.__init__(self)
        self.panel = panel
        self.ui = ui = panel.ui
        self.inspectTask = TaskButton(
            "inspect", panel, (ui.inspectButton, ui.qualityProgressBar, ui.qualityStatusLabel)
        )
        self.reportTask = TaskButton("report", panel, (ui.reportButton, ui.qualityProgressBar, ui.qualityStatusLabel))
        self.regions = LatestJob(self._onRegions, lambda message: self._sayOfRegions([message]))
        self.spectrum = ChartView(ui.spectrumButton)
        self.profile = ChartView(ui.profileButton)
        self._drawn: list[Any] = []  # the nodes that are followed
        self._run: Any = None  # what the section is about
        self._notes: list[str] = []  # what cannot be measured
        self._found = ""  # what is said of the places
        self._inspected: Mapping[str, Any] | None = None  # the worker's answer
        self._map: Any = None  # the volume node over the slices
        for button in (ui.spectrumButton, ui.profileButton):
            button.clicked.connect(self.onLayoutChanged)  # one chart takes the place of the other
        for name in DRAWN:
            selector = getattr(ui, f"{name}Selector")
            selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node, name=name: self.onDrawnChosen(name, node))
        ui.inspectButton.clicked.connect(self.onInspectButton)
        ui.reportButton.clicked.connect(self.onReportButton)
        ui.overlayComboBox.connect("currentIndexChanged(int)", self.onMapChosen)
        ui.placesTable.connect("cellClicked(int,int)", self.onPlaceClicked)

    def close(self) -> None:
        """Lets go of nodes, views and the worker."""
        self.regions.forget()
        self.removeObservers()
        self.spectrum.close()
        self.profile.close()
        self._drawn, self._map, self._run = [], None, None

    def update(self) -> None:
        """Follows the user's choices and the last result."""
        choices, logic, ui = self.panel.choices, self.panel.logic, self.ui
        run = logic.run
        if run is not self._run:
            self._run = run
            self._forgetPlaces()
            self._measureRegions()
        obstacle = "" if run is not None else _("Denoise a volume first.")
        purpose = _("Look in all places for structure that denoising removed or added, and measure the noise there.")
        self.inspectTask.update(_("Was it noise?"), purpose, obstacle)
        self.reportTask.update(_("Report..."), _("Write a page that anybody can open in a browser."), obstacle)
        ui.qualityProgressBar.visible = logic.tasks.busy("inspect", "report")
        chosen = [self._chosen(name) for name in DRAWN]
        for name, node in zip(DRAWN, chosen, strict=True) if choices is not None else ():
            selector = getattr(ui, f"{name}Selector")
            if selector.currentNode() is not node:
                selector.setCurrentNode(node)
        self._follow(chosen)

    # What the user drew

    def _chosen(self, name: str) -> Any:
        choices = self.panel.choices
        return choices.parameterNode.GetNodeReference(DRAWN[name]) if choices is not None else None

    def onDrawnChosen(self, name: str, node: Any) -> None:
        """The user chose what to measure."""
        if self.panel.choices is not None and node is not self._chosen(name):
            self.panel.choices.parameterNode.SetNodeReferenceID(DRAWN[name], node.GetID() if node is not None else None)
            self.update()

    def onNodeAboutToBeRemoved(self, node: Any) -> None:
        """Empties the choice; else the selector would take another."""
        for name in DRAWN:
            if self._chosen(name) is node:
                getattr(self.ui, f"{name}Selector").setCurrentNode(None)

    def _follow(self, nodes: Sequence[Any]) -> None:
        """Observes the regions and the line, whose points are dragged."""
        nodes = list(dict.fromkeys(node for node in nodes if node is not None))
        if nodes == self._drawn:
            return
        for node in self._drawn:
            for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent):
                self.removeObserver(node, event, self.onDrawnModified)
        self._drawn = list(nodes)
        for node in nodes:
            for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent):
                self.addObserver(node, event, self.onDrawnModified)
        self._measureRegions()

    def onDrawnModified(self, _caller: Any = None, _event: Any = None) -> None:
        self._measureRegions()

    def onStrength(self) -> None:
        """The strength slider has moved."""
        self._measureRegions()

    def _measureRegions(self) -> None:
        """Asks for the regions and the edge as they are now."""
        choices, run = self.panel.choices, self._run
        request: dict[str, Any] = {}
        notes = []
        for name in DRAWN if run is not None and choices is not None else ():
            node = self._chosen(name)
            if node is not None:
                try:
                    convert = quality_nodes.edge_of if name == "edge" else quality_nodes.region_of
                    request[name] = convert(run.output, node)
                except InputError as error:
                    notes.append(str(error))
        self._notes = notes
        if not request:
            fillTable(self.ui.regionsTable, [])
            self._sayOfRegions([])
            return
        reference = run.file("ndct")
        self.regions.ask(
            command="regions",
            input=run.file("ldct"),
            denoised=run.file("full"),
            reference=reference if run.reference is not None and Path(reference).exists() else None,
            spacing_mm=run.output.GetSpacing(),
            strength=self.panel.logic.strength,
            **request,
        )

    def _onRegions(self, measured: dict) -> None:
        if self._run is None:
            return
        fillTable(self.ui.regionsTable, _rows(measured))
        self._sayOfRegions(measured["notes"])
        profiles = dict(measured["profiles"])
        if profiles:
            distance = profiles.pop("distance_mm")
            titles = _("distance [mm]"), "HU"
            curves = {name: (distance, values) for name, values in profiles.items()}
            self.profile.fill(_("Edge profile"), titles, curves)

    def _sayOfRegions(self, notes: Sequence[str]) -> None:
        self.ui.regionsLabel.text = " ".join([*self._notes, *notes])

    # Noise spectrum

    def onMeasured(self, measured: dict) -> None:
        """Plots the spectra of an `operations.measure`, after which the NDCT is in its file for the regions, too."""
        quality = measured["quality"]
        textures = {
            "LDCT": quality["texture_before"],
            "denoised": quality["texture_after"],
            "NDCT": quality["texture_reference"],
        }
        curves = {name: (texture["frequency"], texture["power"]) for name, texture in textures.items() if texture}
        if curves:
            titles = _("spatial frequency [1/mm]"), _("noise power [HU\N{SUPERSCRIPT TWO} mm\N{SUPERSCRIPT TWO}]")
            self.spectrum.fill(_("Noise power spectrum"), titles, curves)
        self._measureRegions()

    # Places and maps

    def onInspectButton(self) -> None:
        def start() -> str:
            self._forgetPlaces()
            self.panel.logic.inspect()
            return _("Looking at what was removed...")

        self.inspectTask.startOrCancel(start)

    def onInspected(self, result: dict) -> None:
        """Lists the places and offers the maps."""
        self._inspected = result
        places = result["consistency"]["places"]
        fillTable(self.ui.placesTable, place_rows(places[:MAX_PLACES], _=_) if places else [])
        found = _("{count} places where it was not noise.").format(count=len(places)) if places else _("It was noise.")
        strength = _("At strength {percent} %.").format(percent=f"{100 * self._run.strength:.0f}")
        self._found = f"{found} {strength}"
        self.inspectTask.say(self._found)
        self.ui.overlayComboBox.enabled = True
        self._showMap()

    def _forgetPlaces(self) -> None:
        self._inspected = None
        fillTable(self.ui.placesTable, [])
        self.ui.overlayComboBox.enabled = False
        self.ui.overlayComboBox.currentIndex = 0
        self.inspectTask.say("")

    def onPlaceClicked(self, row: int, _column: int) -> None:
        """Moves the crosshair and all slice views to a place."""
        if self._inspected is None or self._run is None:
            return
        place = self._inspected["consistency"]["places"][row]
        ijk = [place[axis] for axis in ("column", "row", "slice_index")]
        where = quality_nodes.place_of(self._run.output, ijk)
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            crosshair.SetCrosshairRAS(where)
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *where, slicer.vtkMRMLSliceNode.OffsetJumpSlice)

    def onMapChosen(self, _index: int) -> None:
        self._showMap()

    def _showMap(self) -> None:
        index = self.ui.overlayComboBox.currentIndex
        if index == 0 or self._inspected is None:
            quality_nodes.hide_map(slicer.mrmlScene, self._map)
        else:
            self.panel.logic.makeMap(quality_operations.MAPS[index - 1], self.ui.overlayComboBox.currentText, self._map)

    def onMapMade(self, node: Any) -> None:
        """Shows the map that was asked for."""
        index = self.ui.overlayComboBox.currentIndex
        self._map = node
        if index == 0 or self._inspected is None:
            return
        if quality_operations.MAPS[index - 1] == "consistency":
            quality_nodes.style_consistency_map(node, self._inspected["z_limit"])
            quality_nodes.show_map(node, "SD")
            self._sayScale(_("Colours: HU fell (blue) or rose (red), to {limit} SD of the noise."), "z_limit")
        else:
            quality_nodes.style_noise_map(node, self._inspected["noise_limit_hu"])
            quality_nodes.show_map(node, "HU")
            self._sayScale(_("Colours: noise of 0 (dark) to {limit} HU (bright), SD."), "noise_limit_hu")

    def _sayScale(self, text: str, limit: str) -> None:
        """Beside the legend in the views, which Slicer may not draw for a map over other layers."""
        assert self._inspected is not None
        self.inspectTask.say(f"{self._found} {text.format(limit=f'{self._inspected[limit]:.3g}')}")

    # Tasks

    def onProgress(self, task: Task, event: dict) -> None:
        """Shows how far a task is."""
        (self.inspectTask if task.kind == "inspect" else self.reportTask).onProgress(task, event)

    def onFailed(self, error: Exception) -> None:
        """Says why the places were not found or the report not written."""
        self.inspectTask.say(str(error))

    def onLayoutChanged(self) -> None:
        """Follows the plots, which come and go with Slicer's own buttons too."""
        self.spectrum.onLayoutChanged()
        self.profile.onLayoutChanged()

    # Report

    def onReportButton(self) -> None:
        logic = self.panel.logic
        path = ""
        if not logic.tasks.busy("report"):
            name = f"{self._run.output.GetName()}.html"
            path = qt.QFileDialog.getSaveFileName(
                slicer.util.mainWindow(), _("Report"), name, _("Page for a browser") + " (*.html)"
            )
            if not path:
                return

        def start() -> str:
            logic.writeReport(path if path.endswith(".html") else f"{path}.html")
            return _("Writing the report...")

        self.reportTask.startOrCancel(start, REPORT)

    def onReported(self, result: dict) -> None:
        self.reportTask.say(_("The report is {path}.").format(path=result["path"]))


def _rows(measured: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The table of regions and edge; empty where there is neither."""
    names = {"lesion": _("Lesion"), "background": _("Background")}
    regions = {names[name]: of for name, of in measured["regions"].items()}
    rows = region_rows(regions, measured["lesion"], _=_) if regions else []
    if edge := measured["edge"]:
        images = list(rows[0][1:]) if rows else list(measured["profiles"])[1:]
        rows = rows or [("", *images)]
        for title, key in (
            (_("Edge, 10-90 % width [mm]"), "width_mm"),
            (_("Edge, TTF50 [1/mm]"), "ttf50"),
            (_("Edge, TTF10 [1/mm]"), "ttf10"),
        ):
            values = [edge.get(image, {}).get(key) for image in images]
            if key == "width_mm" or any(value is not None for value in values):
                rows.append((title, *(number(value, 2, "-") for value in values)))
    return rows
