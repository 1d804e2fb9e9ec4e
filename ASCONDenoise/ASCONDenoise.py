"""The module ASCON Denoise in 3D Slicer: its description and the frame of its panel.

The parts of the panel lie in ASCONDenoiseLib/panel. What is slow runs in a process of its own, ASCONDenoiseLib/worker,
which keeps the model in memory between clicks; voxels go there and back in memory-mapped files, which are copied in
pieces between the turns of Slicer's event loop.
"""

import sys

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ASCONDenoiseLib import messages
from ASCONDenoiseLib.panel import network_input, sample_data
from ASCONDenoiseLib.panel.context import PanelContext
from ASCONDenoiseLib.panel.logic import ASCONDenoiseLogic
from ASCONDenoiseLib.panel.sections.anatomy import AnatomySection
from ASCONDenoiseLib.panel.sections.compare import CompareSection, registerLayouts
from ASCONDenoiseLib.panel.sections.export import ExportSection
from ASCONDenoiseLib.panel.sections.model_chooser import ModelChooser
from ASCONDenoiseLib.panel.sections.numbers import NumbersSection
from ASCONDenoiseLib.panel.sections.preview import PreviewSection
from ASCONDenoiseLib.panel.sections.quality import QualitySection
from ASCONDenoiseLib.panel.sections.several import SeveralSection
from ASCONDenoiseLib.panel.sections.strength import StrengthSection
from ASCONDenoiseLib.panel.task_button import TaskButton

NODES = ("inputVolume", "referenceVolume", "outputVolume", "anatomy")
"""The choices that are nodes."""

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
    """Adds ASCON's samples to the module Sample Data, and the layouts that a scene may be saved with."""
    sample_data.register()
    registerLayouts()


class ASCONDenoiseWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The frame of the panel: parameter node, button Denoise, strength; each section looks after its own widgets.

    The widgets lie in Resources/UI/ASCONDenoise.ui. Whatever changes, `_update` brings all of the panel into line.
    """

    def __init__(self, parent=None):
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._observedInput = None
        self._warned = None  # what the warning on show is about
        VTKObservationMixin.__init__(self)
        ScriptedLoadableModuleWidget.__init__(self, parent)  # the last: without a parent it calls setup

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/ASCONDenoise.ui"))
        self.layout.addWidget(panel)
        self.ui = ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        palette = panel.palette  # kept: its colours are parts of it
        if palette.color(qt.QPalette.Window).lightness() < 128:
            for label in (ui.noticeLabel, ui.warningLabel):
                label.styleSheet += f"color: {WARNING_ON_DARK};"
        self.logic = logic = ASCONDenoiseLogic()
        logic.onProgress = self.onProgress
        logic.onEnd = self.onTaskEnd
        self.context = context = PanelContext(ui, logic, self._update)
        self.task = TaskButton("denoise", context, (ui.denoiseButton, ui.progressBar, ui.statusLabel))
        self.modelChooser = ModelChooser(context)
        self.strength = StrengthSection(context)
        self.compare = CompareSection(context)
        self.preview = PreviewSection(context, self.compare)
        self.numbers = NumbersSection(context)
        self.quality = QualitySection(context)
        self.anatomy = AnatomySection(context)
        self.export = ExportSection(context)
        self.several = SeveralSection(context)
        ui.strengthSlider.valueChanged.connect(self.onStrength)
        ui.denoiseButton.clicked.connect(self.onDenoiseButton)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        for event in (scene.EndImportEvent, scene.EndRestoreEvent, scene.EndUndoEvent):
            self.addObserver(scene, event, self.onSceneChanged)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self.onNodeAboutToBeRemoved)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect("layoutChanged(int)", self.onLayoutChanged)
        self.initializeParameterNode()

    def cleanup(self) -> None:
        self.compare.close()
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self.onLayoutChanged)
        self.setParameterNode(None)
        self.removeObservers()
        self.anatomy.close()
        self.quality.close()
        self.preview.close()
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

    # Scene and parameter node

    def onSceneStartClose(self, caller=None, event=None) -> None:
        self.compare.leave()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller=None, event=None) -> None:
        self.numbers.show([], _("Filled after a run."))
        if getattr(self.parent, "isEntered", True):
            self.initializeParameterNode()

    def onSceneChanged(self, caller=None, event=None) -> None:
        """After an import, a restored scene view or an undo: all is there, and shown, in the event loop's next turn."""
        qt.QTimer.singleShot(0, self._renew)

    def onReferenceChanged(self, caller=None, event=None) -> None:
        """A choice of a node was written: by the panel itself, which is over in the next turn, or by somebody else."""
        qt.QTimer.singleShot(0, lambda: self._isOutOfDate() and self._renew())

    def _isOutOfDate(self) -> bool:
        """Whether the node has references that came without a ModifiedEvent: the wrapper keeps what was before."""
        choices = self._parameterNode
        return choices is not None and any(
            getattr(choices, name) is not choices.parameterNode.GetNodeReference(name) for name in NODES
        )

    def _renew(self) -> None:
        if self._parameterNode is not None:  # else the scene or the panel was closed in the meantime
            self.initializeParameterNode()
            self._resume()

    def _resume(self) -> None:
        """Shows a scene that was saved side by side, or with an anatomy, as it was."""
        self.anatomy.refresh()
        self.anatomy.onLayoutChanged()
        self.compare.resume()

    def onLayoutChanged(self, layout: int) -> None:
        self.anatomy.onLayoutChanged()
        self.quality.onLayoutChanged()
        self.preview.onLayoutChanged()
        self.compare.onLayoutChanged(layout)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeAboutToBeRemoved(self, caller, event, removed) -> None:
        """Empties the choice; else the selector would take another volume, which the next result would replace."""
        choices = self._parameterNode
        self.quality.onNodeAboutToBeRemoved(removed)
        self.preview.onNodeAboutToBeRemoved(removed)
        for name in NODES[1:]:
            if choices and getattr(choices, name) is removed:
                setattr(choices, name, None)
                return

    def initializeParameterNode(self) -> None:
        """Takes the parameter node anew, and chooses an input where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            images = [volume for volume in volumes if volume.GetClassName() == "vtkMRMLScalarVolumeNode"]
            self._parameterNode.inputVolume = images[0] if images else None

    def setParameterNode(self, parameterNode) -> None:
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._observeChoices(self.removeObserver)
        self._parameterNode = self.context.choices = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self._observeChoices(self.addObserver)
            self.logic.strength = self._parameterNode.strength / 100
        self._update()

    def _observeChoices(self, change) -> None:
        """Adds or removes the observers of the parameter node, after those by which its wrapper follows it."""
        node = self._parameterNode.parameterNode
        change(node, vtk.vtkCommand.ModifiedEvent, self._update)
        for event in (node.ReferenceAddedEvent, node.ReferenceModifiedEvent, node.ReferenceRemovedEvent):
            change(node, event, self.onReferenceChanged)

    # What the panel shows

    def _update(self, caller=None, event=None) -> None:
        """Brings everything that connectGui does not bind into line with the parameter node and the logic."""
        choices = self._parameterNode
        self._observeInput(choices.inputVolume if choices else None)
        self._warn(choices)
        sections = (self.modelChooser, self.strength, self.anatomy, self.compare, self.quality, self.export)
        for section in (*sections, self.preview, self.several):
            section.update()
        if choices is None:
            self.ui.denoiseButton.enabled = False
            return
        obstacle = network_input.obstacle(
            choices.inputVolume, choices.outputVolume, choices.referenceVolume, choices.model
        )
        self.task.update(_("Denoise"), _("Take the noise out of the LDCT volume."), obstacle)
        self.ui.progressBar.visible = self.logic.tasks.busy("denoise", "several", "save")

    def _observeInput(self, volume) -> None:
        """The LDCT may get its voxels later than its place in the scene."""
        if volume is self._observedInput:
            return
        if self._observedInput is not None:
            self.removeObserver(self._observedInput, vtk.vtkCommand.ModifiedEvent, self._update)
        if volume is not None:
            self.addObserver(volume, vtk.vtkCommand.ModifiedEvent, self._update)
        self._observedInput = volume

    def _warn(self, choices) -> None:
        """Says above the button what may not suit the model; looks again only where volume or model changed."""
        volume = choices.inputVolume if choices else None
        image = volume.GetImageData() if volume is not None else None
        about = volume and (volume.GetID(), volume.GetName(), image and image.GetMTime(), choices.model)
        if about == self._warned:
            return
        self._warned = about
        sentences = network_input.warnings(volume, choices.model) if image is not None else []
        self.ui.warningLabel.text = " ".join(sentences)
        self.ui.warningLabel.visible = bool(sentences)

    # Denoising

    def onStrength(self, percent: float) -> None:
        self.logic.setStrength(percent / 100)
        self.strength.update()
        self.preview.onStrength()
        self.compare.labelPanes()
        self.quality.onStrength()

    def onDenoiseButton(self) -> None:
        def start() -> str:
            choices = self._parameterNode
            volume = choices.inputVolume
            self.logic.denoise(volume, choices.outputVolume, choices.referenceVolume, choices.model, choices.device)
            return _("Denoising {name}...").format(name=volume.GetName())

        self.task.startOrCancel(start)

    def onProgress(self, task, event: dict) -> None:
        if task.kind in ("denoise", "save"):
            self.task.onProgress(task, event)
        elif task.kind == "several":
            self.several.onProgress(task, event)
        elif task.kind == "anatomy":
            self.anatomy.task.onProgress(task, event)
        elif task.kind in ("inspect", "report"):
            self.quality.onProgress(task, event)

    def onTaskEnd(self, task, result, error) -> None:
        if error is None and self._parameterNode is None:  # a script works in a new scene while the panel is not shown
            self.initializeParameterNode()
        if error is not None:
            self._showError(task, error)
        elif task.kind == "denoise":
            self.ui.previewButton.checked = False
            choices = self._parameterNode
            with slicer.util.NodeModify(choices):  # a script may have chosen others
                choices.inputVolume, choices.outputVolume = result.input, result.output
                choices.strength = round(100 * self.logic.strength, 3)
            how = messages.outcome(result.facts, result.strength, _)
            self.task.say(f"{how} {self.compare.showResult()}".strip())
            self.numbers.show([], _("Measuring..."))
        elif task.kind == "anatomy":
            self._parameterNode.anatomy = result
            self.anatomy.onFound()
        elif task.kind == "several":
            self.several.onEnd(result)
        elif task.kind == "blend":
            self.task.say(messages.outcome(result.facts, result.strength, _))
            self.compare.labelPanes()
        elif task.kind == "difference":
            self.compare.onDifferenceMade(result)
        elif task.kind == "measure":
            self.numbers.showMeasured(task.nodes[1].GetName(), result)
            self.quality.onMeasured(result)
        elif task.kind == "inspect":
            self.quality.onInspected(result)
        elif task.kind == "map":
            self.quality.onMapMade(result)
        elif task.kind == "report":
            self.quality.onReported(result)
        elif task.kind == "save":
            self.export.onSaved(result)
        self._update()

    def _showError(self, task, error: Exception) -> None:
        """Below the button, or in place of the numbers; nothing where work in the background was cancelled."""
        if task.kind == "difference" and not task.cancelling:
            self.compare.onDifferenceFailed()
        if task.kind in ("denoise", "anatomy"):
            button = self.task if task.kind == "denoise" else self.anatomy.task
            button.say(_("{reason} Nothing was changed.").format(reason=error))
        elif task.kind == "several":
            self.several.onFailed(error)
        elif task.kind == "measure" and not task.cancelling:
            self.numbers.show([], str(error))
        elif task.kind in ("inspect", "report"):
            self.quality.onFailed(error)
        elif task.kind == "save" or not task.cancelling:
            self.task.say(str(error))


class ASCONDenoiseTest(ScriptedLoadableModuleTest):
    """The button "Reload and Test"; the real tests lie in Testing/."""

    def runTest(self) -> None:
        slicer.mrmlScene.Clear()
        logic = ASCONDenoiseLogic()
        self.assertIn("LDCT", network_input.obstacle(None))
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
        self.assertIn("empty", network_input.obstacle(volume))
        logic.close()
        self.delayDisplay(_("Test passed"))
