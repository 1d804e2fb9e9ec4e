"""The module ASCON Denoise in 3D Slicer: its description, its panel, and the logic behind that.

What is slow runs in ASCONDenoiseLib/worker, a process of its own that stays warm between clicks; voxels go there and
back as memory-mapped files, copied in pieces (ASCONDenoiseLib/scene/operations.py) between the turns of Slicer's event
loop. Only this file and ASCONDenoiseLib/panel know Qt.
"""

import html
import logging
import sys
from typing import Annotated

import qt
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ASCONDenoiseLib import messages as wording
from ASCONDenoiseLib.errors import AsconError, InputError
from ASCONDenoiseLib.imaging import hounsfield
from ASCONDenoiseLib.models import suitability
from ASCONDenoiseLib.models.card import load_card
from ASCONDenoiseLib.models.files import DEFAULT_MODEL, find_model, import_model, list_models
from ASCONDenoiseLib.panel import sample_data as sample
from ASCONDenoiseLib.panel.installation import ANATOMY_PACKAGES, ensurePackages, torchInstalled
from ASCONDenoiseLib.panel.sections.anatomy import AnatomySection
from ASCONDenoiseLib.panel.sections.compare import Comparison, isOurs, registerLayouts
from ASCONDenoiseLib.panel.sections.numbers import fillTable
from ASCONDenoiseLib.panel.task_queue import Cancelled, Tasks
from ASCONDenoiseLib.scene import operations as steps
from ASCONDenoiseLib.scene.display import set_window, show_as_difference
from ASCONDenoiseLib.scene.tables import number_rows, rows_as_text, text_table
from ASCONDenoiseLib.scene.volumes import instance_uids, spacing_mm, volume_facts
from ASCONDenoiseLib.scene.voxels import volume_array

PRESETS = {"mild": 50, "standard": 75, "strong": 100}
"""Strength in percent."""

BLEND_DELAY_MS = 250
"""How long the strength slider rests before the whole volume follows; the slices in sight follow at once."""

FLICKER_MS = 500

WARNING_ON_DARK = "#fbbf24"
"""Colour of the notice and the warnings where Slicer's style is dark; for a light one the .ui file has a darker one."""


class ASCONDenoise(ScriptedLoadableModule):
    """What Slicer shows about the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("ASCON Denoise")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering.Denoising")]
        self.parent.dependencies = []
        self.parent.contributors = ["The developers of ASCON for 3D Slicer"]
        self.parent.helpText = _("""
Takes the noise out of low-dose CT with ASCON. Choose the CT, click <b>Denoise</b>, compare side by side, look at the
numbers, and save the result as a DICOM series if you like. Hounsfield units and geometry are kept, the original stays
as it is, and nothing leaves this computer. For research, not for diagnosis.
""")
        self.parent.acknowledgementText = _("""
The method is that of Z. Chen, Q. Gao, Y. Zhang, H. Shan: "ASCON: Anatomy-Aware Supervised Contrastive Learning
Framework for Low-Dose CT Denoising", MICCAI 2023,
<a href="https://doi.org/10.1007/978-3-031-43999-5_34">doi:10.1007/978-3-031-43999-5_34</a>.
Please cite this paper. The software was written anew from it.
""")
        slicer.app.connect("startupCompleted()", onStartupCompleted)


def onStartupCompleted() -> None:
    """Adds "ASCON: low-dose abdomen" to the module Sample Data, and the layouts that a scene may be saved with."""
    sample.register(ASCONDenoiseLogic)
    registerLayouts()


@parameterNodeWrapper
class ASCONDenoiseParameterNode:
    """The user's choices, saved with the scene."""

    inputVolume: vtkMRMLScalarVolumeNode  # LDCT
    referenceVolume: vtkMRMLScalarVolumeNode  # NDCT
    outputVolume: vtkMRMLScalarVolumeNode
    anatomy: vtkMRMLSegmentationNode  # the last that was found
    model: str = ""  # "": the default model
    device: str = "auto"
    strength: Annotated[float, WithinRange(0, 100)] = 75  # percent
    differenceRange: Annotated[float, WithinRange(5, 200)] = 50  # HU
    clusters: Annotated[int, WithinRange(2, 12)] = 8
    anatomyOpacity: Annotated[float, WithinRange(0, 100)] = 40  # percent
    anatomyOutlines: bool = False


class ASCONDenoiseLogic(ScriptedLoadableModuleLogic):
    """Denoising, blending, measuring, clustering and saving, none of which blocks. Knows no widget."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.tasks = Tasks(lambda *arguments: self.onProgress(*arguments), self._onTaskEnd)
        self.run = None  # the last result, whose strength can still be changed
        self.strength = 1.0
        self.differenceRange = None  # HU; None: no difference is wanted
        self.points = 2000  # in the scatter plot of the anatomy
        self.onProgress = lambda task, event: None
        self.onEnd = lambda task, result, error: None
        self._difference = None  # its node, which the next run uses again
        self._blending = None  # the strength that is being blended
        self._blendTimer = qt.QTimer()
        self._blendTimer.setSingleShot(True)
        self._blendTimer.timeout.connect(self._settle)
        scene = slicer.mrmlScene
        self._observers = [
            scene.AddObserver(scene.StartCloseEvent, lambda *_args: self.forget(_("The scene was closed."))),
            scene.AddObserver(scene.NodeRemovedEvent, lambda *_args: self._onNodeRemoved()),
        ]
        slicer.app.connect("aboutToQuit()", self.close)

    def getParameterNode(self):
        return ASCONDenoiseParameterNode(super().getParameterNode())

    def close(self) -> None:
        """Ends the workers and what they do, and removes all files. The logic is of no use afterwards."""
        self._blendTimer.stop()
        self.tasks.close()
        self._keep(None)
        for tag in self._observers:
            slicer.mrmlScene.RemoveObserver(tag)
        self._observers = []
        slicer.app.disconnect("aboutToQuit()", self.close)

    def wait(self) -> None:
        """For scripts and tests: returns when there is nothing left to do."""
        self.tasks.wait()
        while self._blendTimer.active:
            slicer.app.processEvents()
            self.tasks.wait()

    def cancel(self, reason: str) -> None:
        """Ends what is under way, at the worker's next batch at the latest."""
        self._blendTimer.stop()
        self.tasks.cancel(reason)

    def forget(self, reason: str) -> None:
        """Cancels what is under way and drops the last result's files; nodes stay."""
        self._keep(None)
        self._difference = None
        self.cancel(reason)

    def obstacle(self, inputVolume, outputVolume=None, referenceVolume=None, model: str = "") -> str:
        """Why these cannot be denoised, as a sentence; "" where they can."""
        if inputVolume is None:
            return _("Choose the LDCT volume first.")
        if outputVolume is not None and outputVolume in (inputVolume, referenceVolume):
            return _("The output would replace {name}. Choose another, or none.").format(name=outputVolume.GetName())
        try:
            volume_array(inputVolume)
        except InputError as error:
            return str(error)
        try:
            find_model(model or None)
        except InputError as error:
            lost = _('The model "{name}" is not on this computer. Choose another, or import it.')
            return lost.format(name=model) if model else str(error)
        return ""

    def warnings(self, inputVolume, model: str = "") -> list:
        """Sentences about what may not suit the model; none of them keeps anybody from denoising."""
        try:
            voxels = suitability.sample(volume_array(inputVolume))
            card = load_card(find_model(model or None))
        except InputError:  # an obstacle
            return []
        database = openDatabase()
        known = volume_facts(inputVolume, database.instanceValue if database else None)
        return suitability.warnings(voxels, spacing_mm(inputVolume), known, card, _)

    def denoise(self, inputVolume, outputVolume=None, referenceVolume=None, model="", device="auto") -> None:
        """Starts the work; the result has the `strength` of the time it ends. onEnd is called with a steps.Run."""
        if reason := self.obstacle(inputVolume, outputVolume, referenceVolume, model):
            raise RuntimeError(reason)
        work = steps.denoise(
            inputVolume,
            outputVolume,
            referenceVolume,
            strength=lambda: self.strength,
            **self._means(model, device),
        )
        self.tasks.start("denoise", work, [inputVolume, outputVolume])

    def findAnatomy(self, inputVolume, before=None, model="", device="auto", clusters=8) -> None:
        """Starts the work; onEnd is called with a segmentation node, which takes the place of `before`."""
        if reason := self.obstacle(inputVolume, model=model):
            raise RuntimeError(reason)
        work = steps.anatomy(
            inputVolume, before, clusters=clusters, points=self.points, translate=_, **self._means(model, device)
        )
        self.tasks.start("anatomy", work, [inputVolume])

    def _means(self, model: str, device: str) -> dict:
        database = openDatabase()
        return {
            "model": str(find_model(model or None)),
            "device": device,
            "file_for_instance": database.fileForInstance if database else None,
            "parent": slicer.app.temporaryPath,
        }

    def setStrength(self, strength: float) -> None:
        """Strength (0 to 1) of the next result, and of the last one: the slices in sight at once, the rest soon."""
        self.strength = strength
        if self.run is not None and not self.tasks.busy("denoise"):
            steps.blend_shown(self.run, strength, slicer.util.getNodesByClass("vtkMRMLSliceNode"))
            self._blendTimer.start(BLEND_DELAY_MS)

    def setDifferenceRange(self, rangeHu) -> None:
        """Wants denoised less LDCT as a node in the colours of -range to +range HU (onEnd gets it); None: no more."""
        self.differenceRange = rangeHu
        if self.run is not None and self.run.difference is not None and rangeHu is not None:
            show_as_difference(self.run.difference, rangeHu)
        self._settle()

    def saveDicom(self, inputVolume, outputVolume, folder) -> None:
        """Writes a DICOM series derived from the LDCT's into a new folder; onEnd is called with the worker's answer."""
        files = [slicer.dicomDatabase.fileForInstance(uid) for uid in instance_uids(inputVolume)]
        work = steps.save_dicom(outputVolume, files, str(folder), parent=slicer.app.temporaryPath)
        self.tasks.start("save", work, [outputVolume])

    def makeSample(self, normalDose=None) -> list:
        """[LDCT, NDCT] nodes at quarter dose of a CT, or of a phantom. Returns when they are there; Slicer goes on."""
        ended = []
        self.onEnd = lambda task, result, error: ended.append((result, error))
        names = _("ASCON low-dose abdomen"), _("ASCON normal-dose abdomen")
        work = steps.sample(slicer.mrmlScene, normalDose, names, parent=slicer.app.temporaryPath)
        self.tasks.start("sample", work, [normalDose])
        self.wait()
        (result, error), *_rest = ended
        if error is not None:
            raise error
        return result

    def _settle(self) -> None:
        """Does what the last result lacks: its strength, its difference, its numbers."""
        run, tasks = self.run, self.tasks
        if run is None or self._blendTimer.active or tasks.busy("denoise", "anatomy", "save", "sample"):
            return
        if tasks.busy("blend") and self._blending == self.strength:
            return
        if run.strength != self.strength:
            self._blending = self.strength
            tasks.start("blend", steps.blend_all(run, self.strength), run.nodes())
        elif self.differenceRange is not None and run.difference is None and not tasks.busy("blend", "difference"):
            tasks.start("difference", steps.difference(run, self.differenceRange, self._difference), run.nodes())
        elif run.measured != run.strength and not tasks.busy():
            tasks.start("measure", steps.measure(run), run.nodes())

    def _onTaskEnd(self, task, result, error) -> None:
        if error is None and task.kind == "denoise":
            self._keep(result)
        elif error is None and task.kind == "difference":
            self._difference = result
        elif error is not None and not isinstance(error, Cancelled):
            unexpected = not isinstance(error, (RuntimeError, ValueError))
            logging.error("ASCON: %s failed: %s", task.kind, error, exc_info=error if unexpected else None)
            if task.kind == "measure":
                self.run.measured = self.run.strength  # not again
            elif task.kind in ("blend", "difference"):
                self._keep(None)
        self.onEnd(task, result, error)
        self._settle()

    def _onNodeRemoved(self) -> None:
        def gone(nodes):
            return [node.GetName() for node in nodes if not slicer.mrmlScene.IsNodePresent(node)]

        if self.run is not None and gone(self.run.nodes()):
            self._keep(None)
        if self.run is not None and self.run.difference is not None and gone([self.run.difference]):
            self.run.difference = None
        task = self.tasks.current
        if task is not None and not task.cancelling and (names := gone(task.nodes)):
            self.cancel(_("{name} was removed from the scene.").format(name=names[0]))

    def _keep(self, run) -> None:
        if self.run is not None:
            self.run.remove_files()
        self.run = run


class ASCONDenoiseWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: its widgets lie in Resources/UI/ASCONDenoise.ui, the user's choices in the parameter node."""

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._observedInput = None
        self._devices = []  # the worker's, once it was asked
        self._installing = False
        self._doing = ""  # the line under the button, while a task is under way
        self._numbers = []  # rows of the table
        self._numbersOf = ""  # the volume's name; it may be gone by the time that they are exported
        self._warned = None  # what the warning on show is about
        self._comparison = Comparison()
        self._anatomy = None  # the section of that name
        self._flickerTimer = qt.QTimer()
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)  # the last: without a parent it calls setup

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/ASCONDenoise.ui"))
        self.layout.addWidget(panel)
        self.ui = ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = ASCONDenoiseLogic()
        self.logic.onProgress = self.onProgress
        self.logic.onEnd = self.onTaskEnd
        self._anatomy = AnatomySection(ui)
        palette = panel.palette  # kept: its colours are parts of it
        if palette.color(qt.QPalette.Window).lightness() < 128:
            for label in (ui.noticeLabel, ui.warningLabel):
                label.styleSheet += f"color: {WARNING_ON_DARK};"
        self._flickerTimer.timeout.connect(self.onFlicker)
        for name, percent in PRESETS.items():
            getattr(ui, f"{name}Button").clicked.connect(lambda _on, percent=percent: self.setStrength(percent))
        for name in hounsfield.DISPLAY_WINDOWS_HU:
            getattr(ui, f"{name}Button").clicked.connect(lambda _on, name=name: self.showWindow(name))
        ui.strengthSlider.valueChanged.connect(lambda percent: self.logic.setStrength(percent / 100))
        ui.modelComboBox.activated.connect(self.onModelActivated)
        ui.deviceComboBox.activated.connect(self.onDeviceActivated)
        ui.importModelButton.clicked.connect(self.onImportModelButton)
        ui.modelCardButton.toggled.connect(lambda on: ui.modelCardBrowser.setVisible(on))
        ui.advancedCollapsibleButton.contentsCollapsed.connect(self.onAdvancedCollapsed)
        ui.denoiseButton.clicked.connect(self.onDenoiseButton)
        ui.anatomyButton.clicked.connect(self.onAnatomyButton)
        ui.compareButton.clicked.connect(self.onCompareButton)
        ui.differenceButton.clicked.connect(self.onDifferenceButton)
        ui.differenceSlider.valueChanged.connect(self.onDifferenceRange)
        ui.revealSlider.valueChanged.connect(self.onReveal)
        ui.flickerButton.toggled.connect(self.onFlickerButton)
        ui.copyNumbersButton.clicked.connect(self.onCopyNumbers)
        ui.exportNumbersButton.clicked.connect(self.onExportNumbers)
        ui.saveDicomButton.clicked.connect(self.onSaveDicomButton)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect("layoutChanged(int)", self.onLayoutChanged)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        self._flickerTimer.stop()
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self.onLayoutChanged)
        self.setParameterNode(None)
        self.removeObservers()
        self._anatomy.close()
        self._comparison.shareWindow([])
        self.logic.close()

    def onReload(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("ASCONDenoiseLib", "ASCONTrainingLib")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def enter(self) -> None:
        self.initializeParameterNode()
        self._resume()

    def exit(self) -> None:
        self.ui.flickerButton.checked = False

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self._leaveCompare()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller=None, event=None) -> None:
        self._showNumbers([], _("Filled after a run."))
        if getattr(self.parent, "isEntered", True):
            self.initializeParameterNode()

    def onSceneEndImport(self, caller=None, event=None) -> None:
        qt.QTimer.singleShot(0, self._resume)  # the views come when the whole of the scene is there

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, removed) -> None:
        """Else the selector would take the next best volume, and overwrite that."""
        node = self._parameterNode
        if node and removed is node.outputVolume:
            node.outputVolume = None
        elif node and removed is node.anatomy:
            node.anatomy = None
        elif node and removed is node.referenceVolume:
            node.referenceVolume = None

    def initializeParameterNode(self) -> None:
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            images = [volume for volume in volumes if volume.GetClassName() == "vtkMRMLScalarVolumeNode"]
            self._parameterNode.inputVolume = images[0] if images else None

    def setParameterNode(self, parameterNode) -> None:
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._update)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._update)
            self.logic.strength = self._parameterNode.strength / 100
        self._update()

    # What the panel shows

    def _update(self, caller=None, event=None) -> None:
        """Brings everything that connectGui does not bind into line with the parameter node and the logic."""
        ui, node = self.ui, self._parameterNode
        self._observe(node.inputVolume if node else None)
        self._warn(node)
        self._anatomy.show(node.anatomy if node else None)
        if node is None:
            ui.denoiseButton.enabled = ui.anatomyButton.enabled = False
            return
        self._fillModels()
        self._fillDevices()
        obstacle = self.logic.obstacle(node.inputVolume, node.outputVolume, node.referenceVolume, node.model)
        self._offer("denoise", ui.denoiseButton, _("Denoise"), obstacle, _("Take the noise out of the LDCT volume."))
        obstacle = self.logic.obstacle(node.inputVolume, model=node.model)
        purpose = _("Cluster the voxels of the LDCT volume by what the model sees in them.")
        self._offer("anatomy", ui.anatomyButton, _("Find the anatomy"), obstacle, purpose)
        ui.progressBar.visible = self.logic.tasks.busy("denoise", "save")
        ui.anatomyProgressBar.visible = self.logic.tasks.busy("anatomy")
        both = node.inputVolume is not None and node.outputVolume is not None
        ui.compareButton.enabled = ui.revealSlider.enabled = ui.flickerButton.enabled = both
        ui.differenceButton.enabled = self.logic.run is not None
        ui.differenceButton.toolTip = (
            _("Another view: denoised less LDCT, in HU.") if self.logic.run else _("Denoise first.")
        )
        if self._comparison.volumes and self._comparison.volumes != self._volumes():
            if both:
                self._compare()
            else:
                self._leaveCompare()
        ui.exportNumbersButton.enabled = ui.copyNumbersButton.enabled = bool(self._numbers)
        ui.saveDicomButton.toolTip = self._obstacleToSaving() or _(
            "Write the denoised volume as a derived DICOM series."
        )
        ui.saveDicomButton.enabled = not self._obstacleToSaving()

    def _offer(self, kind: str, button, text: str, obstacle: str, purpose: str) -> None:
        """A button that starts a task and cancels it while it is under way; its tool tip says why it is disabled."""
        tasks = self.logic.tasks
        busy = tasks.busy(kind)
        if self._installing:
            obstacle = _("Packages are being installed.")
        elif tasks.busy("denoise", "anatomy"):
            obstacle = _("Wait until the other work is done, or cancel it.")
        cancelling = busy and tasks.current.kind == kind and tasks.current.cancelling
        button.text = _("Cancelling...") if cancelling else _("Cancel") if busy else text
        button.enabled = busy or not obstacle
        button.toolTip = _("Stop; nothing is changed.") if busy else obstacle or purpose

    def _observe(self, volume) -> None:
        """The LDCT may get its voxels later than its place in the scene."""
        if volume is self._observedInput:
            return
        if self._observedInput is not None:
            self.removeObserver(self._observedInput, vtk.vtkCommand.ModifiedEvent, self._update)
        if volume is not None:
            self.addObserver(volume, vtk.vtkCommand.ModifiedEvent, self._update)
        self._observedInput = volume

    def _warn(self, node) -> None:
        """Says what may not suit the model, above the button: looked at anew only where volume or model changed."""
        volume = node.inputVolume if node else None
        image = volume.GetImageData() if volume is not None else None
        about = volume and (volume.GetID(), volume.GetName(), image and image.GetMTime(), node.model)
        if about == self._warned:
            return
        self._warned = about
        sentences = self.logic.warnings(volume, node.model) if image is not None else []
        self.ui.warningLabel.text = " ".join(sentences)
        self.ui.warningLabel.visible = bool(sentences)

    def _fillModels(self) -> None:
        chosen = self._parameterNode.model
        items = [
            (f"{card.name} {card.version}", "" if path.stem == DEFAULT_MODEL else path.stem)
            for card, path in list_models()
        ]
        if items and not chosen and all(name for _text, name in items):  # no default model is shipped
            chosen = self._parameterNode.model = items[0][1]
        _fill(self.ui.modelComboBox, items, chosen)
        try:
            card = wording.card_html(load_card(find_model(chosen or None)), _)
        except InputError as error:
            card = html.escape(str(error))
        if self.ui.modelCardBrowser.property("card") != card:
            self.ui.modelCardBrowser.setProperty("card", card)
            self.ui.modelCardBrowser.setHtml(card)

    def _fillDevices(self) -> None:
        known = self._devices or [("cpu", _("CPU"))]
        _fill(
            self.ui.deviceComboBox,
            [(_("Automatic"), "auto"), *((title, name) for name, title in known)],
            self._parameterNode.device,
        )

    def _say(self, text: str, kind: str = "") -> None:
        """Under the button of a task."""
        label = self.ui.anatomyStatusLabel if kind == "anatomy" else self.ui.statusLabel
        label.text = text

    def _volumes(self) -> dict:
        """What there is to compare, by the name of its view."""
        node = self._parameterNode
        if node is None:
            return {}
        volumes = {"LDCT": node.inputVolume, "denoised": node.outputVolume, "NDCT": node.referenceVolume}
        if self.ui.differenceButton.checked and self.logic.run is not None:
            volumes["difference"] = self.logic.run.difference
        return {name: volume for name, volume in volumes.items() if volume is not None}

    # Choices

    def setStrength(self, percent: float) -> None:
        self._parameterNode.strength = percent

    def onModelActivated(self, index: int) -> None:
        self._parameterNode.model = self.ui.modelComboBox.itemData(index)

    def onImportModelButton(self) -> None:
        parent, title = slicer.util.mainWindow(), _("The model's weights (its card lies beside them)")
        if path := qt.QFileDialog.getOpenFileName(parent, title, "", _("Models") + " (*.safetensors)"):
            self.importModel(path)

    def importModel(self, path: str) -> None:
        """Checks a model file and its card, copies them to where ASCON finds them, and chooses the model."""
        try:
            name = import_model(path).stem
        except AsconError as error:
            self._say(str(error))
            return
        self._parameterNode.model = "" if name == DEFAULT_MODEL else name
        self._say(_("The model {name} is imported and chosen.").format(name=name))
        self._update()

    def onDeviceActivated(self, index: int) -> None:
        self._parameterNode.device = self.ui.deviceComboBox.itemData(index)

    def onAdvancedCollapsed(self, collapsed: bool) -> None:
        """Asks the worker, once, what devices there are: only torch knows."""
        if not collapsed and not self._devices and torchInstalled():
            self.logic.tasks.worker.request(self.onDevices, command="devices")

    def onDevices(self, event: dict) -> None:
        if event["event"] == "result":
            self._devices = [(device["name"], device["title"]) for device in event["devices"]]
            self._update()

    # Denoising

    def onDenoiseButton(self) -> None:
        def start(node) -> None:
            self.logic.denoise(node.inputVolume, node.outputVolume, node.referenceVolume, node.model, node.device)

        self._startOrCancel("denoise", start, _("Denoising {name}..."))

    def onAnatomyButton(self) -> None:
        def start(node) -> None:
            self.logic.findAnatomy(node.inputVolume, node.anatomy, node.model, node.device, node.clusters)

        self._startOrCancel("anatomy", start, _("Looking at {name}..."), ANATOMY_PACKAGES)

    def _startOrCancel(self, kind: str, start, words: str, packages=()) -> None:
        if self.logic.tasks.busy(kind):
            if self.logic.tasks.current.kind != kind:  # it waits for its turn, and will never begin
                self._say(_("Cancelled. Nothing was changed."), kind)
            self.logic.cancel(_("Cancelled."))
            self._update()
            return
        node, bar = self._parameterNode, self._bar(kind)
        self._installing = True
        self._update()
        try:
            if ensurePackages(packages):
                self.logic.tasks.worker.stop("")  # the next one sees what was installed
            self._doing = words.format(name=node.inputVolume.GetName())
            bar.setRange(0, 0)
            self._sayProgress(bar, _("handing the voxels over"), kind)
            start(node)
        except (RuntimeError, ValueError) as error:
            self._say(str(error), kind)
        finally:
            self._installing = False
            self._update()

    def _bar(self, kind: str):
        return self.ui.anatomyProgressBar if kind == "anatomy" else self.ui.progressBar

    def onProgress(self, task, event: dict) -> None:
        text = wording.progress(event, _, slices=task.kind != "anatomy")
        if task.kind not in ("denoise", "anatomy", "save") or not text:
            return
        bar = self._bar(task.kind)
        if event["event"] == "progress":
            bar.setRange(0, event["total"])
            bar.value = event["done"]
        self._sayProgress(bar, text, task.kind)

    def _sayProgress(self, bar, text: str, kind: str) -> None:
        """In the bar; in the line below as well while Qt draws no text in it: no total is known yet, or it is macOS."""
        bar.format = text
        if kind != "save":
            unseen = bar.maximum == 0 or sys.platform == "darwin"
            self._say(f"{self._doing} {text}" if unseen else self._doing, kind)

    def onTaskEnd(self, task, result, error) -> None:
        if error is not None:
            if task.kind == "measure" and not task.cancelling:
                self._showNumbers([], str(error))
            elif task.kind in ("denoise", "anatomy"):
                self._say(_("{reason} Nothing was changed.").format(reason=error), task.kind)
            elif task.kind == "save" or not task.cancelling:
                self._say(str(error))
        elif task.kind == "denoise":
            self._parameterNode.outputVolume = result.output
            self._showResult()
            self._say(wording.outcome(result.facts, result.strength, _))
            self._showNumbers([], _("Measuring..."))
        elif task.kind == "anatomy":
            self._parameterNode.anatomy = result
            self._anatomy.refresh()  # it may be the node that it was
            self._say(_("Done. Names are suggestions, from the HU of most of a cluster's voxels."), task.kind)
        elif task.kind == "blend":
            self._say(wording.outcome(result.facts, result.strength, _))
        elif task.kind == "difference":
            self._compare()
        elif task.kind == "measure":
            self._numbersOf = task.nodes[1].GetName()
            self._showNumbers(number_rows(result, _), " ".join(result["notes"]))
        elif task.kind == "save":
            self._onSaved(result)
        self._update()

    # Comparing

    def _showResult(self) -> None:
        """The result over the LDCT, in the views that there are."""
        self.ui.revealSlider.value = 100
        self._shareWindow()
        self.onReveal()

    def _shareWindow(self) -> None:
        self._comparison.shareWindow([volume for name, volume in self._volumes().items() if name != "difference"])

    def onCompareButton(self) -> None:
        if self.ui.compareButton.checked:
            self._compare()
        else:
            self._leaveCompare()

    def _compare(self) -> None:
        try:
            self._comparison.show(self._volumes())
        except (RuntimeError, InputError) as error:
            self._comparison.leave()
            self._say(str(error))
        self.ui.compareButton.checked = bool(self._comparison.volumes)
        self._shareWindow()
        self.onReveal()

    def _resume(self) -> None:
        """A scene that was saved side by side, or with an anatomy, is that again."""
        if self._parameterNode is None:  # closed in the meantime
            return
        self._anatomy.refresh()
        self._anatomy.onLayoutChanged()
        manager = slicer.app.layoutManager()
        resumed = manager is not None and isOurs(manager.layout) and not self._comparison.volumes
        if resumed and {"LDCT", "denoised"} <= self._volumes().keys():
            self._compare()

    def _leaveCompare(self) -> None:
        self.ui.compareButton.checked = self.ui.differenceButton.checked = False
        self.logic.setDifferenceRange(None)
        self._comparison.leave()

    def onLayoutChanged(self, layout: int) -> None:
        """The user may choose other views with Slicer's own buttons."""
        self._anatomy.onLayoutChanged()
        if self._comparison.volumes and not isOurs(layout):
            self._leaveCompare()

    def onDifferenceButton(self) -> None:
        wanted = self.ui.differenceButton.checked
        self.logic.setDifferenceRange(self._parameterNode.differenceRange if wanted else None)
        if not wanted or self.logic.run.difference is not None:
            self._compare()

    def onDifferenceRange(self, rangeHu: float) -> None:
        if self.ui.differenceButton.checked:
            self.logic.setDifferenceRange(rangeHu)

    def showWindow(self, name: str) -> None:
        """One of the display windows, for all volumes."""
        volumes = [volume for view, volume in self._volumes().items() if view != "difference"]
        set_window(volumes, hounsfield.DISPLAY_WINDOWS_HU[name])

    def onReveal(self) -> None:
        volumes = self._volumes()
        if "LDCT" in volumes and "denoised" in volumes:
            self._comparison.reveal(volumes["LDCT"], volumes["denoised"], self.ui.revealSlider.value / 100)

    def onFlickerButton(self, on: bool) -> None:
        if on:
            self._flickerTimer.start(FLICKER_MS)
        else:
            self._flickerTimer.stop()
            self.ui.revealSlider.value = 100

    def onFlicker(self) -> None:
        self.ui.revealSlider.value = 0 if self.ui.revealSlider.value else 100

    # Numbers and files

    def _showNumbers(self, rows: list, note: str) -> None:
        """Fills the table; the first row holds the titles."""
        self._numbers = rows
        fillTable(self.ui.numbersTable, rows)
        self.ui.numbersLabel.text = note

    def onCopyNumbers(self) -> None:
        slicer.app.clipboard().setText(rows_as_text(self._numbers))

    def onExportNumbers(self) -> None:
        name = _("{volume} numbers").format(volume=self._numbersOf)
        self._say(_("Made the table {name}.").format(name=text_table(slicer.mrmlScene, name, self._numbers).GetName()))

    def _obstacleToSaving(self) -> str:
        node = self._parameterNode
        if node.inputVolume is None or node.outputVolume is None:
            return _("Denoise a volume first.")
        if not instance_uids(node.inputVolume) or openDatabase() is None:
            return _("The LDCT was not loaded from the DICOM database, so there is no series to derive one from.")
        busy = self.logic.tasks.busy("denoise", "anatomy", "blend", "save")
        return _("Wait until the work is done.") if busy else ""

    def onSaveDicomButton(self) -> None:
        parent = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder for the new DICOM series"))
        if parent:
            self.saveDicom(parent)

    def saveDicom(self, parent: str) -> None:
        """Writes the series into a new folder of `parent`."""
        node = self._parameterNode
        self.logic.saveDicom(node.inputVolume, node.outputVolume, steps.new_folder(parent, node.outputVolume.GetName()))
        self._update()

    def _onSaved(self, result: dict) -> None:
        folder, count = result["folder"], result["files"]
        self._say(_("{count} DICOM files were written to {folder}.").format(count=count, folder=folder))
        qt.QTimer.singleShot(0, lambda: self._offerToImport(folder, count))  # not within the worker's answer

    def _offerToImport(self, folder: str, count: int) -> None:
        question = _("{count} DICOM files were written to\n{folder}\n\nImport them into Slicer's DICOM database?")
        if slicer.util.confirmYesNoDisplay(question.format(count=count, folder=folder)):
            from DICOMLib import DICOMUtils

            DICOMUtils.importDicom(folder)


def openDatabase():
    """Slicer's DICOM database; None where there is none, or where it is not open."""
    database = getattr(slicer, "dicomDatabase", None)
    return database if database is not None and database.isOpen else None


def _fill(box, items: list, chosen: str) -> None:
    """Gives a combo box its (text, data) items where they changed, and shows the chosen one, missing or not."""
    if chosen not in [data for _text, data in items]:
        items = [*items, (_("{name} (missing)").format(name=chosen), chosen)]
    if [(box.itemText(i), box.itemData(i)) for i in range(box.count)] != items:
        box.clear()
        for text, data in items:
            box.addItem(text, data)
    box.setCurrentIndex([data for _text, data in items].index(chosen))


class ASCONDenoiseTest(ScriptedLoadableModuleTest):
    """The button "Reload and Test"; the real tests lie in Testing/."""

    def runTest(self) -> None:
        slicer.mrmlScene.Clear()
        logic = ASCONDenoiseLogic()
        self.assertIn("LDCT", logic.obstacle(None))
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        self.assertIn("empty", logic.obstacle(volume))
        logic.close()
        self.delayDisplay(_("Test passed"))
