"""What the panel does with volumes, for widgets and scripts alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer import vtkMRMLScalarVolumeNode as Volume
from slicer import vtkMRMLSegmentationNode as Segmentation
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

from ASCONDenoiseLib.errors import AsconError, Cancelled, InputError
from ASCONDenoiseLib.imaging.strength import NoiseByStrength, Target
from ASCONDenoiseLib.panel import installation, network_input
from ASCONDenoiseLib.panel.parameter_node import ASCONDenoiseParameterNode
from ASCONDenoiseLib.panel.task_queue import OnEnd, OnProgress, Pending, Task, Tasks, Work
from ASCONDenoiseLib.scene import operations, quality_operations
from ASCONDenoiseLib.scene.display import show_as_difference
from ASCONDenoiseLib.scene.provenance import provenance_sentence
from ASCONDenoiseLib.scene.sequences import denoise_sequence, frames_of
from ASCONDenoiseLib.scene.several import one_by_one
from ASCONDenoiseLib.scene.volumes import instance_uids
from ASCONDenoiseLib.scene.voxels import volume_array, write_in_pieces

BLEND_DELAY_MS = 250
"""How long the strength slider rests before the whole volume follows; the visible slices follow at once."""


class ASCONDenoiseLogic(ScriptedLoadableModuleLogic):
    """Denoises, blends, measures, clusters and saves without blocking. Knows no widget.

    Attributes:
        tasks: what is under way, and the workers.
        run: the last result, whose strength can still be changed; None without one.
        strength: of the next result and the last one, 0 to 1.
        differencePair: LDCT and denoised volume whose difference is wanted; None while none is.
        points: how many points the scatter plot of the anatomy has.
        installing: whether a click waits for packages to be installed.
        onProgress: called with a task and an event of the worker.
        onEnd: called with a task and its result, or None and the error that ended it.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.tasks = Tasks(lambda task, event: self.onProgress(task, event), self._onTaskEnd)
        self.run: operations.Run | None = None
        self.strength = 1.0
        self._target: Target | None = None  # what the strength was chosen for, until another is set
        self.differencePair: tuple[Volume, Volume] | None = None
        self.points = 2000
        self.installing = False
        self.onProgress: OnProgress = lambda task, event: None
        self.onEnd: OnEnd = lambda task, result, error: None
        self._differenceRange: float | None = None
        self._difference: Volume | None = None  # the node of the last difference, which the next uses again
        self._others: operations.Run | None = None  # a pair of volumes that is not the last result, for its difference
        self._blending: float | None = None  # the strength that is being blended
        self._blendTimer = qt.QTimer()
        self._blendTimer.setSingleShot(True)
        self._blendTimer.timeout.connect(self._settle)
        scene = slicer.mrmlScene
        self._observers = [
            scene.AddObserver(scene.StartCloseEvent, lambda *_args: self.forget(_("The scene was closed."))),
            scene.AddObserver(scene.NodeRemovedEvent, lambda *_args: self._onNodeRemoved()),
        ]
        slicer.app.connect("aboutToQuit()", self.close)

    def getParameterNode(self) -> ASCONDenoiseParameterNode:
        """The user's choices as the node has them now."""
        return ASCONDenoiseParameterNode(super().getParameterNode())  # type: ignore[call-arg]

    def close(self) -> None:
        """Ends the workers and what they do, and removes all files. The logic cannot be used afterwards."""
        self._blendTimer.stop()
        self.tasks.close()
        self._keep(None)
        for tag in self._observers:
            slicer.mrmlScene.RemoveObserver(tag)
        self._observers = []
        slicer.app.disconnect("aboutToQuit()", self.close)

    def wait(self) -> None:
        """Turns the event loop until there is nothing left to do: for scripts and tests."""
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
        self._difference = self._others = self.differencePair = None
        self.cancel(reason)

    def ensurePackages(self, packages: Sequence[str] = ()) -> None:
        """Asks to install what is missing, and ends the worker, which would not see it. Raises Failure."""
        if installation.ensurePackages(packages):
            self.tasks.worker.stop("")

    def denoise(
        self,
        inputVolume: Volume,
        outputVolume: Volume | None = None,
        referenceVolume: Volume | None = None,
        model: str = "",
        device: str = "auto",
        strength: float | None = None,
    ) -> Pending:
        """Starts to denoise a volume.

        The result is an `operations.Run`: its `output` is the denoised volume, its `strength` that of the end.

        Args:
            inputVolume: the LDCT, which stays as it is.
            outputVolume: the volume that the result replaces; None for a new one.
            referenceVolume: the NDCT, for the numbers.
            model: name of a model; "" for the default model.
            device: where the network runs; "auto" leaves the choice to the worker.
            strength: 0 to 1; None: that of the logic, which is the slider's where a panel belongs to it.

        Raises:
            InputError: there is a `network_input.obstacle`.
        """
        means = network_input.checkedMeans(inputVolume, outputVolume, referenceVolume, model=model, device=device)
        if strength is not None:
            self.strength = strength
        work = operations.denoise(inputVolume, outputVolume, referenceVolume, strength=lambda: self.strength, **means)
        return self.tasks.start("denoise", work, [inputVolume, outputVolume])

    def denoiseSeveral(
        self,
        volumes: Sequence[Volume],
        model: str = "",
        device: str = "auto",
        strength: float | None = None,
        begins: Callable[[int], None] = lambda number: None,
    ) -> Pending:
        """Starts to denoise volumes, one after the other. What fails stops nothing; cancelling keeps what is done.

        The result is a `several.Several`; each denoised volume is a new one, with the strength of its beginning.

        Args:
            volumes: the LDCTs.
            model, device, strength: as in `denoise`.
            begins: called with the place of a volume, from 0, before its turn.
        """
        used = self.strength if strength is None else strength

        def one(volume: Volume) -> Work:
            means = network_input.checkedMeans(volume, model=model, device=device)
            return operations.denoise(volume, None, None, strength=lambda: used, **means)

        return self.tasks.start("several", one_by_one(volumes, one, begins), [])

    def denoiseSequence(
        self,
        inputVolume: Volume,
        model: str = "",
        device: str = "auto",
        strength: float | None = None,
        begins: Callable[[int], None] = lambda number: None,
    ) -> Pending:
        """Starts to denoise all frames of the sequence that a browser shows in a volume.

        The result is a new volume, in which the same browser shows the denoised sequence.

        Args:
            inputVolume: the browser's.
            model, device, strength: as in `denoise`.
            begins: called with the number of a frame, from 0, before its turn.

        Raises:
            InputError: there is a `network_input.obstacle`, or no sequence.
        """
        means = network_input.checkedMeans(inputVolume, model=model, device=device)
        if not frames_of(inputVolume):
            raise InputError(_("{name} shows no sequence.").format(name=inputVolume.GetName()))
        used = self.strength if strength is None else strength

        def one(source: Volume, output: Volume) -> Work:
            return operations.denoise(source, output, None, strength=lambda: used, **means)

        return self.tasks.start("several", denoise_sequence(inputVolume, one, begins), [inputVolume])

    def findAnatomy(
        self,
        inputVolume: Volume,
        before: Segmentation | None = None,
        model: str = "",
        device: str = "auto",
        clusters: int = 8,
    ) -> Pending:
        """Starts to cluster the voxels of a volume; the result is a segmentation node.

        Args:
            inputVolume: the LDCT.
            before: the segmentation that the new one replaces, if it is of the same volume.
            model: name of a model; "" for the default model.
            device: where the network runs; "auto" leaves the choice to the worker.
            clusters: how many.

        Raises:
            InputError: there is a `network_input.obstacle`.
        """
        means = network_input.checkedMeans(inputVolume, model=model, device=device)
        work = operations.anatomy(inputVolume, before, clusters=clusters, points=self.points, translate=_, **means)
        return self.tasks.start("anatomy", work, [inputVolume])

    def setStrength(self, strength: float) -> None:
        """Sets the strength (0 to 1) of the next result and the last one: visible slices at once, the others soon."""
        if strength != self.strength:
            self._target = None
        self.strength = strength
        if self.run is not None and not self.tasks.busy("denoise", "several"):
            operations.blend_shown(self.run, strength, slicer.util.getNodesByClass("vtkMRMLSliceNode"))
            self._blendTimer.start(BLEND_DELAY_MS)

    def noise(self) -> NoiseByStrength | None:
        """What each strength leaves of the noise in the last result; None where nobody knows."""
        return None if self.run is None else self.run.noise

    def chooseStrength(self, target: Target) -> str:
        """Sets the strength of the last result by the noise that is to be left.

        Returns a sentence where the target is missed, else "".
        """
        strength, note = target.strength(self.noise())
        self.setStrength(strength)
        self._target = target
        return note

    def showDifference(self, inputVolume: Volume, outputVolume: Volume, rangeHu: float | None) -> None:
        """Wants denoised less LDCT from now on; it is computed again for another result. `onEnd` gets each new node.

        Args:
            inputVolume: the LDCT.
            outputVolume: the denoised volume, whether it is the last result or came with a scene.
            rangeHu: its colours reach from minus to plus this; None: as far as suits its spread.
        """
        self.differencePair = inputVolume, outputVolume
        self._differenceRange = rangeHu
        node = self.differenceOf(inputVolume, outputVolume)
        if node is not None and rangeHu is not None:
            show_as_difference(node, rangeHu)
        self._settle()

    def hideDifference(self) -> None:
        """Wants no difference any more; the node stays."""
        self.differencePair = None

    def differenceOf(self, inputVolume: Volume, outputVolume: Volume) -> Volume | None:
        """The node of denoised less LDCT; None where it has not been computed yet."""
        for made in (self.run, self._others):
            if made is not None and made.nodes() == [inputVolume, outputVolume]:
                return made.difference
        return None

    def _makeDifference(self, inputVolume: Volume, outputVolume: Volume) -> Work:
        if self.run is not None and self.run.nodes() == [inputVolume, outputVolume]:
            return (yield from operations.difference(self.run, self._differenceRange, self._difference))
        if volume_array(inputVolume).shape != volume_array(outputVolume).shape:
            names = {"first": inputVolume.GetName(), "second": outputVolume.GetName()}
            raise InputError(_("{first} and {second} differ in size: there is no difference to show.").format(**names))
        with operations.private_folder(slicer.app.temporaryPath) as folder:
            others = operations.Run(folder, inputVolume, output=outputVolume)
            yield from write_in_pieces(volume_array(inputVolume), others.file("ldct"))
            node = yield from operations.difference(others, self._differenceRange, self._difference)
        self._others = others
        return node

    def inspect(self) -> Pending:
        """Starts to look in all places of the last result for what was no noise; the result is the worker's answer."""
        return self.tasks.start("inspect", quality_operations.inspect(self._lastRun()), self._lastRun().nodes())

    def makeMap(self, name: str, title: str, node: Volume | None = None) -> Pending:
        """Starts to make a map of the last `inspect` a volume node, the result.

        Args:
            name: one of `quality_operations.MAPS`.
            title: of the node.
            node: an earlier map, which becomes this one; None: a new one.
        """
        run = self._lastRun()
        return self.tasks.start("map", quality_operations.map_node(run, name, title, node), run.nodes())

    def writeReport(self, path: str | Path) -> Pending:
        """Starts to write a page about the last result; the result is the worker's answer.

        Args:
            path: of the page, which is replaced.
        """
        run = self._lastRun()
        facts = run.facts
        made = {
            "LDCT": run.input.GetName(),
            _("Denoised with"): provenance_sentence(run.output),
            _("SHA-256 of the weights"): facts["model"]["sha256"],
        }
        warning = " ".join(facts["warnings"])
        work = quality_operations.report(run, Path(path), run.output.GetName(), made, warning)
        return self.tasks.start("report", work, run.nodes())

    def _lastRun(self) -> operations.Run:
        if self.run is None:
            raise InputError(_("Denoise a volume first."))
        return self.run

    def saveDicom(self, inputVolume: Volume, outputVolume: Volume, folder: str | Path) -> Pending:
        """Starts to write a DICOM series that is derived from the LDCT's; the result is the worker's answer.

        Args:
            inputVolume: the LDCT, whose files the DICOM database knows.
            outputVolume: the denoised volume.
            folder: a new one.
        """
        sources = [slicer.dicomDatabase.fileForInstance(uid) for uid in instance_uids(inputVolume)]
        work = operations.save_dicom(outputVolume, sources, str(folder), parent=slicer.app.temporaryPath)
        return self.tasks.start("save", work, [outputVolume])

    def makeSample(self, normalDose: Volume | None = None, phantomShape: Sequence[int] | None = None) -> list[Volume]:
        """Simulates a quarter of the dose of a CT or, for None, of a phantom; turns the event loop meanwhile.

        Args:
            normalDose: the CT.
            phantomShape: slices, rows and columns of the phantom, where they are not to be as usual.

        Returns:
            The nodes LDCT and NDCT.

        Raises:
            Cancelled: `cancel` was called.
        """
        names = _("ASCON low-dose abdomen"), _("ASCON normal-dose abdomen")
        scene, folder = slicer.mrmlScene, slicer.app.temporaryPath
        work = operations.sample(scene, normalDose, names, parent=folder, phantom_shape=phantomShape)
        return self.tasks.start("sample", work, [normalDose]).wait()

    def _settle(self) -> None:
        """Starts what the last result lacks: its strength, else its difference, else its numbers."""
        run, tasks, pair = self.run, self.tasks, self.differencePair
        if self._blendTimer.active or tasks.busy("denoise", "several", "anatomy", "save", "sample"):
            return
        if run is not None and run.strength != self.strength:
            if not (tasks.busy("blend") and self._blending == self.strength):
                self._blending = self.strength
                tasks.start("blend", operations.blend_all(run, self.strength, self._target), run.nodes())
        elif pair is not None and self.differenceOf(*pair) is None and not tasks.busy("blend", "difference"):
            tasks.start("difference", self._makeDifference(*pair), pair)
        elif run is not None and run.measured != run.strength and not tasks.busy():
            tasks.start("measure", operations.measure(run), run.nodes())

    def _onTaskEnd(self, task: Task, result: Any, error: Exception | None) -> None:
        if error is None and task.kind == "denoise":
            self._keep(result)
        elif error is None and task.kind == "difference":
            self._difference = result
        elif error is not None and not isinstance(error, Cancelled):
            traceback = None if isinstance(error, AsconError) else error
            logging.error("ASCON: %s failed: %s", task.kind, error, exc_info=traceback)
            if task.kind == "measure" and self.run is not None:
                self.run.measured = self.run.strength  # do not try again
            elif task.kind in ("blend", "difference") and self.run is not None and task.nodes == self.run.nodes():
                self._keep(None)
        if error is not None and task.kind == "difference" and not task.cancelling:
            self.hideDifference()  # do not try again
        self.onEnd(task, result, error)
        self._settle()

    def _onNodeRemoved(self) -> None:
        def gone(nodes: Sequence) -> list[str]:
            return [node.GetName() for node in nodes if not slicer.mrmlScene.IsNodePresent(node)]

        if self.run is not None and gone(self.run.nodes()):
            self._keep(None)
        if self._others is not None and gone(self._others.nodes()):
            self._others = None
        if self.differencePair is not None and gone(self.differencePair):
            self.differencePair = None
        for made in (self.run, self._others):
            if made is not None and made.difference is not None and gone([made.difference]):
                made.difference = None
        task = self.tasks.current
        if task is not None and not task.cancelling and (names := gone(task.nodes)):
            self.cancel(_("{name} was removed from the scene.").format(name=names[0]))

    def _keep(self, run: operations.Run | None) -> None:
        """Makes a run the last result, and removes the files of the one before."""
        if self.run is not None:
            self.run.remove_files()
        self.run = run
